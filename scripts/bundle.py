"""make bundle: one folder of plain files from which work goes on elsewhere."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

import console
from distracted.errors import ConfigError


def main(
    out: Annotated[str, typer.Option(help="The folder to make, or an earlier bundle to bring up to date.")],
    runs: Annotated[str, typer.Option(help="Runs and what they were made from; by default all.")] = "",
    code: Annotated[bool, typer.Option(help="Add the project's code.")] = True,
    wheels: Annotated[
        bool,
        typer.Option("--wheels", help="Add packages, without torch, for a machine without a network."),
    ] = False,
    data: console.Data = "state_farm",
    set: Annotated[str, typer.Option(help="Only runtime.*, e.g. 'runtime.cache_dir=/tmp/cache'.")] = "",
    root: console.Root = console.HERE,
) -> None:
    """Copy predictions, networks, checkpoints, configs and code into one folder, with their hashes."""
    from distracted.bundle.make import make_bundle

    if not out.strip():
        raise ConfigError("OUT= is missing: a folder to make")
    runtime, folder = console.runtime(set), Path(out).expanduser()
    store = console.open_store(data, root, runtime, images=False)
    bundle = make_bundle(
        store, folder, runs=runs.split(), code=code, wheels=wheels, progress=console.progress
    )
    begun = sum(len(run.begun) for run in bundle.runs)
    unfinished = f", {begun} folds that go on from their checkpoints" if begun else ""
    console.say(
        f"{folder}: {len(bundle.runs)} runs of {bundle.data}{unfinished}; {len(bundle.files)} files, "
        f"{bundle.size / 1e6:.1f} MB"
    )
    console.say(f"elsewhere: make restore BUNDLE={shlex.quote(str(folder))}")


if __name__ == "__main__":
    console.run(main)
