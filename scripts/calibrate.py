"""make calibrate: a run's probabilities made as sure as they should be, as a run like any other."""

from collections.abc import Sequence
from typing import Annotated

import typer

import console
from distracted.config import load_data_config, load_runtime_config
from distracted.ensemble.derive import Derived, calibrate_run
from distracted.paths import Workspace
from distracted.postprocess.calibrate import CALIBRATIONS, Calibrated
from distracted.predictions.store import open_store


def main(
    runs: Annotated[str, typer.Option(help="Complete runs, separated by spaces.")],
    parts: Annotated[str, typer.Option(help="What is fitted, separated by spaces.")] = " ".join(CALIBRATIONS),
    name: Annotated[str, typer.Option(help="Of the run that is made; by default <run>_calibrated.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Fit temperature, class bias and clip of each fold on the other folds, and write the result as a run."""
    chosen = console.run_names(runs, name)
    runtime = load_runtime_config(console.overrides(set))
    store = open_store(Workspace(root), load_data_config(data, root=root), progress=console.progress)
    for run in chosen:
        store.read_run(run)  # all of them can be, before one is
    found = [calibrate_run(store, run, parts=parts.split(), name=name, force=force) for run in chosen]
    console.track(store, runtime, *(made.name for made in found))
    console.gains(
        "calibration, cross-fitted",
        [
            (run, made.name, made.gain, _describe(made, parts.split()))
            for run, made in zip(chosen, found, strict=True)
        ],
    )


def _describe(made: Derived, parts: Sequence[str]) -> str:
    """What all folds together would fit, of the parts that were asked for."""
    if not made.fitted:
        return "done already"
    fitted: Calibrated = made.overall
    moved = sum(of_fold.to_prior for of_fold in made.fitted)
    described = {
        "prior": f"to the prior in {moved} of {len(made.fitted)} folds",
        "temperature": f"temperature {fitted.temperature:.2f}",
        "clip": f"clip {fitted.clip:.1g}",
    }
    return ", ".join(text for part, text in described.items() if part in parts)


if __name__ == "__main__":
    console.run(main)
