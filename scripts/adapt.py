"""make adapt: predictions without what each subject of the test set adds to them, as runs of their own."""

from typing import Annotated

import typer

import console
from distracted.config import load_config, load_runtime_config
from distracted.ensemble.derive import derive_run
from distracted.imports import importing


def main(
    runs: Annotated[str, typer.Option(help="Complete runs, separated by spaces.")],
    model: Annotated[
        str, typer.Option(help="A pretrained network; its first maps tell subjects apart.")
    ] = console.COMPARING,
    name: Annotated[str, typer.Option(help="Name of the new run; by default <run>_adapted.")] = "",
    data: console.Data = "state_farm",
    set: Annotated[
        str, typer.Option(help="runtime.*, and what MODEL takes, e.g. 'model.image_size=128'.")
    ] = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Learn from the other folds how subjects shift predictions, and undo it where that pays."""
    with importing():
        from distracted.postprocess.adapt import Adapt
        from distracted.postprocess.subject_clusters import subject_space
        from distracted.training.resolve import resolve

    chosen = console.run_names(runs, name)
    settings = console.overrides(console.comparing(model, set))
    runtime = load_runtime_config([item for item in settings if item.startswith("runtime.")])
    placed = console.place(data, root, runtime)
    store = console.open_store(placed, root, runtime)
    for run in chosen:
        if store.read_run(run).kind == "model":  # refuses all of them before one is made
            console.say(
                f"{run} is not calibrated: where it is sure of mistakes, the estimate is worse; `make "
                f"calibrate RUNS={run} PARTS=temperature NAME={run}_temperature` first"
            )
    config = load_config(model=model, data=placed, overrides=settings, root=root)
    resolved = resolve(config, num_folds=store.folds.num_folds)
    step = Adapt({model: subject_space(store, resolved, progress=console.progress)})
    made = [derive_run(store, step, [run], name=name, force=force) for run in chosen]
    console.track(store, runtime, *(derived.name for derived in made))
    rows = [(run, new.name, new.gain, new.how) for run, new in zip(chosen, made, strict=True)]
    console.gains("adaptation to subjects, cross-fitted", rows)


if __name__ == "__main__":
    console.run(main)
