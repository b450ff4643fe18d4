"""make derive: the run that a step makes of other runs, for any step of distracted.postprocess.steps."""

import shlex
from collections.abc import Sequence
from typing import Annotated

import typer

import console
from distracted.config import load_data_config, load_runtime_config
from distracted.ensemble.derive import derive_run
from distracted.errors import ConfigError
from distracted.paths import Workspace
from distracted.postprocess.step import PredictionStep
from distracted.postprocess.steps import find_step
from distracted.predictions.store import Store, open_store
from distracted.schema import RuntimeConfig


def main(
    step: Annotated[str, typer.Option(help="The step's name.")],
    runs: Annotated[str, typer.Option(help="Complete runs, separated by spaces.")],
    how: Annotated[str, typer.Option(help="The step's settings, such as 'key=value key=value'.")] = "",
    name: Annotated[str, typer.Option(help="Name of the new run; by default <run>_<step>.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Fit a step for each fold on the other folds, and write the result as a run."""
    kind = find_step(step)
    chosen = console.run_names(runs, "" if kind.takes_several else name)
    runtime = load_runtime_config(console.overrides(set))
    store = open_store(Workspace(root), load_data_config(data, root=root), progress=console.progress)
    made_by = kind.from_text(store, _settings(how))
    derive(store, made_by, chosen, runtime=runtime, name=name, force=force)


def derive(
    store: Store, step: PredictionStep, runs: Sequence[str], *, runtime: RuntimeConfig, name: str, force: bool
) -> None:
    """Make the step's run of each run, or of all together, and print what it gained."""
    for run in runs:
        store.read_run(run)  # refuses all of them before one is made
    inputs = [list(runs)] if step.takes_several else [[run] for run in runs]
    made = [derive_run(store, step, one, name=name, force=force) for one in inputs]
    console.track(store, runtime, *(derived.name for derived in made))
    rows = [(" ".join(one), new.name, new.gain, new.how) for one, new in zip(inputs, made, strict=True)]
    console.gains(f"{step.name}, cross-fitted", rows)


def _settings(how: str) -> dict[str, str]:
    try:
        return dict(pair.partition("=")[::2] for pair in shlex.split(how))
    except ValueError as error:
        raise ConfigError(f"HOW={how!r}: {error}") from error


if __name__ == "__main__":
    console.run(main)
