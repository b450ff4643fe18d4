"""make calibrate: a run's probabilities, calibrated on the other folds, as a run of its own."""

from typing import Annotated

import typer

import console
from derive import derive
from distracted.config import load_data_config, load_runtime_config
from distracted.paths import Workspace
from distracted.postprocess.calibrate import CALIBRATIONS, Calibrate
from distracted.predictions.store import open_store


def main(
    runs: Annotated[str, typer.Option(help="Complete runs, separated by spaces.")],
    parts: Annotated[str, typer.Option(help="What is fitted, separated by spaces.")] = " ".join(CALIBRATIONS),
    name: Annotated[str, typer.Option(help="Name of the new run; by default <run>_calibrated.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Fit class bias, temperature and clip of each fold on the other folds, and write the result as a run."""
    chosen = console.run_names(runs, name)
    runtime = load_runtime_config(console.overrides(set))
    store = open_store(Workspace(root), load_data_config(data, root=root), progress=console.progress)
    derive(store, Calibrate.on(store, parts.split()), chosen, runtime=runtime, name=name, force=force)


if __name__ == "__main__":
    console.run(main)
