"""make restore: the runs of a bundle in this workspace, after every hash was checked."""

from pathlib import Path
from typing import Annotated

import typer

import console
from distracted.errors import ConfigError


def main(
    bundle: Annotated[str, typer.Option(help="A folder that make bundle made; may be read-only.")],
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Check a bundle, copy what is missing here, and say what comes next."""
    from distracted.bundle.manifest import find_bundle
    from distracted.bundle.restore import restore_bundle
    from distracted.predictions.manifest import MANIFEST

    if not bundle.strip():
        raise ConfigError("BUNDLE= is missing: a folder that make bundle made")
    folder = find_bundle(Path(bundle).expanduser())
    workspace = console.workspace(root, console.runtime(""))
    restored = restore_bundle(folder, workspace, force=force, progress=console.progress)
    there = restored.bundle
    done = f"{restored.num_written} files restored" if restored.num_written else "all of it is here already"
    console.say(f"{folder}: {len(there.runs)} runs of {there.data}; {done}")
    for run in there.runs:
        places = {fold: workspace.fold(there.data, run.name, fold) / MANIFEST for fold in run.begun}
        if open_folds := [fold for fold, path in places.items() if not path.is_file()]:
            folds = ", ".join(map(str, open_folds))
            console.say(f"{run.name}, fold {folds}: begun; the command that began it goes on")
    console.say(f"next: make status{console.data_variable(there.data)}")
    console.say("where the images are: DATA=<their folder>/, whatever its name")


if __name__ == "__main__":
    console.run(main)
