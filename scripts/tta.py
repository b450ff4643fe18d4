"""make tta: test-time augmentation, a run's predictions averaged over views of each picture."""

from typing import Annotated

import typer

import console
import signals
from distracted.errors import ConfigError
from distracted.imports import importing
from train import say_fold


def main(
    run: Annotated[str, typer.Option(help="A trained, complete run.")],
    views: Annotated[str, typer.Option(help="Groups of views, separated by spaces.")],
    average: Annotated[str, typer.Option(help="Average probs or log_probs.")] = "probs",
    name: Annotated[str, typer.Option(help="Name of the new run; by default <run>_tta.")] = "",
    data: console.Data = "state_farm",
    set: Annotated[str, typer.Option(help="Only runtime.*, e.g. 'runtime.device=cpu'.")] = "",
    force: console.Force = False,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a held run.", hidden=True)] = 0.0,
    parent: Annotated[int, typer.Option(help="Process to stop with.", hidden=True)] = 0,
    root: console.Root = console.HERE,
) -> None:
    """Predict a run's images under several views, write the mean as a run, and print its gain."""
    with importing():
        from distracted.inference.views import find_views
        from distracted.postprocess.tta import augment_run

    signals.stop_with(parent)
    if not run:
        raise ConfigError("RUN= is missing: a trained run; make status lists them")
    name = name or f"{run}_tta"
    chosen = find_views(views.split())
    runtime = console.runtime(set)
    store = console.open_store(data, root, runtime)
    gain = augment_run(
        store,
        run=run,
        views=chosen,
        average=average,
        name=name,
        runtime=runtime,
        force=force,
        patience=patience,
        after_fold=say_fold,
        progress=console.progress,
    )
    console.track(store, runtime, name)
    seconds = sum(store.manifest(name, fold).seconds for fold in store.finished_folds(name))
    columns = [
        "run",
        f"pooled OOF {gain.metric.title}",
        "difference (standard error)",
        "forward passes",
        "time",
    ]
    difference = f"{gain.difference:+.4f} ({gain.error:.4f})"
    before = [run, f"{gain.before:.4f}", "", "1", ""]
    after = [name, f"{gain.after:.4f}", difference, str(len(chosen)), f"{seconds:.0f} s"]
    console.table(f"{' '.join(view.name for view in chosen)}: mean of {average}", columns, [before, after])


if __name__ == "__main__":
    console.run(main)
