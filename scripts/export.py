"""make export: one fold's network as an ONNX model."""

from typing import Annotated

import typer

import console
from distracted.errors import ConfigError
from distracted.imports import importing


def main(
    run: Annotated[str, typer.Option(help="A trained run.")],
    fold: Annotated[int, typer.Option(help="One of its folds.")] = 0,
    data: console.Data = "state_farm",
    set: Annotated[str, typer.Option(help="Settings of runtime.* only, e.g. 'runtime.num_workers=2'.")] = "",
    root: console.Root = console.HERE,
) -> None:
    """Write runs/<data>/<run>/fold<k>/model.onnx, checked against torch."""
    with importing():
        from distracted.postprocess.export import export_network

    if not run.strip():
        raise ConfigError("MODEL= is missing: a trained run; make status lists them")
    runtime = console.runtime(set)
    store = console.open_store(data, root, runtime)
    fold = store.folds.check_fold(fold)
    store.manifest(run, fold)  # says what is missing
    trained = store.read_run(run, partial=True)
    exported = export_network(store, trained, fold, runtime=runtime, progress=console.progress)
    size = exported.path.stat().st_size / 1e6
    console.say(
        f"{exported.path}: {size:.0f} MB; of {exported.num_images} held-out images no log-probability is "
        f"more than {exported.off:.1g} off torch's"
    )


if __name__ == "__main__":
    console.run(main)
