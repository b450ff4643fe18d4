"""make derive: the run that a step makes of other runs, for any step of distracted.postprocess.steps."""

from typing import Annotated

import typer

import console
from distracted.ensemble.derive import derive_run
from distracted.postprocess.steps import find_step


def main(
    step: Annotated[str, typer.Option(help="The step's name.")],
    runs: Annotated[str, typer.Option(help="Complete runs, separated by spaces.")],
    how: Annotated[str, typer.Option(help="The step's settings; by default its own.")] = "",
    name: Annotated[str, typer.Option(help="Name of the new run; by default <run>_<step>.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Fit a step for each fold on the other folds, and write the result as a run."""
    kind = find_step(step)
    chosen = console.run_names(runs, "" if kind.takes_several else name)
    runtime = console.runtime(set)
    store = console.open_store(data, root, runtime, images=False)
    made_by = kind.from_text(how)
    for run in chosen:
        store.read_run(run)  # refuses all of them before one is made
    inputs = [chosen] if kind.takes_several else [[run] for run in chosen]
    made = [derive_run(store, made_by, one, name=name, force=force) for one in inputs]
    console.track(store, runtime, *(derived.name for derived in made))
    rows = [(" ".join(one), new.name, new.gain, new.how) for one, new in zip(inputs, made, strict=True)]
    console.gains(f"{step}, cross-fitted", rows)


if __name__ == "__main__":
    console.run(main)
