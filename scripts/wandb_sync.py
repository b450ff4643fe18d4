"""make wandb-sync: send offline recordings to W&B, with the files and the lineage of all runs."""

import console
from distracted.errors import TrackingError


def main(
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Send the offline recordings of a competition, then its artifacts and their lineage."""
    from distracted.tracking.sync import sync

    runtime = console.runtime(set)
    store = console.open_store(data, root, runtime, images=False)
    done = sync(store, runtime, force=force, progress=console.progress)
    sent = f"{done.recordings} recordings sent; files and lineage of {done.updated} runs"
    console.say(f"{store.competition.name}: {sent}")
    for waiting in done.waiting:
        console.say(f"later: {waiting}")
    for damaged in done.partly:
        console.warn(f"sent as far as it can be: {damaged}")
    if done.aside:
        console.warn(f"{done.aside} recordings were set aside by earlier calls; FORCE=1 tries them again")
    if done.problems:
        raise TrackingError("\n".join(["not sent, and kept as it is:", *done.problems]))


if __name__ == "__main__":
    console.run(main)
