"""make dashboard: W&B's workspace for the competition, built by code."""

import console
from distracted.config import load_data_config
from distracted.paths import Workspace


def main(
    data: console.Data = "state_farm",
    set: console.Set = "",
    root: console.Root = console.HERE,
) -> None:
    """Write leaderboard, curves, errors and blend weights as a workspace of the project on W&B."""
    from distracted.tracking.dashboard import save_dashboard

    runtime = console.runtime(set)
    config = load_data_config(console.place(data, root, runtime), root=root)
    console.say(save_dashboard(config.name, runtime, Workspace(root).dashboard(config.name)))


if __name__ == "__main__":
    console.run(main)
