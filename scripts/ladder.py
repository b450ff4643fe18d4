"""make ladder: the winners' steps one after another, each measured on people it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import calibrate
import console
import ensemble
import smooth
import train
import tta
from distracted.config import load_config
from distracted.errors import ConfigError
from distracted.postprocess.candidates import all_candidates, find_methods
from distracted.postprocess.spaces import OWN
from distracted.predictions.store import Store
from distracted.report.ladder import Rung, measure_ladder, write_ladder
from distracted.report.truth import read_truth

STEPS = ("calibration", "tta", "smoothing", "pseudo")


def main(
    models: Annotated[str, typer.Option(help="Models, separated by spaces.")],
    steps: Annotated[str, typer.Option(help="Steps to take, in the ladder's order.")] = " ".join(STEPS),
    views: Annotated[str, typer.Option(help="Groups of test-time views.")] = "scales rotations",
    spaces: Annotated[str, typer.Option(help="Feature spaces to smooth in: own, pretrained models.")] = OWN,
    methods: Annotated[str, typer.Option(help="Ways to smooth.")] = "neighbours diffusion clusters",
    truth: Annotated[str, typer.Option(help="CSV of the test set's true labels, for a comparison.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Climb from trained models to their blend: calibration, views, smoothing, pseudo-labels."""
    named, taken = list(dict.fromkeys(models.split())), steps.split()
    if not named:
        raise ConfigError("MODELS= is missing: one or more names in configs/models")
    if unknown := [step for step in taken if step not in STEPS]:
        raise ConfigError(f"STEPS: there is no {unknown[0]!r}; expected some of {', '.join(STEPS)}")
    place = console.place(data, root, console.runtime_in(set))
    configs = []
    for model in named:
        teachers = [f"pseudo.teachers=[{model}]"] if "pseudo" in taken else []
        overrides = [*console.overrides(set), *teachers]
        configs.append(load_config(model=model, data=place, overrides=overrides, root=root))
    for space in spaces.split():
        if space != OWN:
            load_config(model=space, data=place, root=root)
    first = configs[0]
    store = console.open_store(first.data, root, first.runtime, num_folds=first.training.num_folds)
    _check(store, taken, views, spaces, methods, truth)  # now, not after hours of training
    shared: dict[str, Any] = {"data": data, "force": force, "root": root}
    climb = _Climb(taken, views, spaces, methods, set, shared)
    ladders = {model: climb(model) for model in named}
    members = [run for rungs in ladders.values() for step, run in rungs if step != "base" or len(rungs) == 1]
    blend = "ladder"
    if len(members) > 1:
        ensemble.main(runs=" ".join(members), name=blend, set=runtime_only(set), **shared)
    for model, rungs in ladders.items():
        if len(members) > 1:
            rungs.append(("blend of all", blend))
        write_ladder(store, model, rungs)
        show(store, model, rungs, Path(truth) if truth else None)


def _check(store: Store, steps: Sequence[str], views: str, spaces: str, methods: str, truth: str) -> None:
    """Refuse everything that a later step would refuse."""
    name, num_folds = store.competition.name, store.folds.num_folds
    if truth:
        read_truth(store, Path(truth))
    if "calibration" in steps and num_folds < 2:
        raise ConfigError(f"STEPS: {name} is a single split: no other fold to calibrate on; leave it out")
    if "tta" in steps:
        from distracted.inference.views import find_views

        find_views(views.split())
    if "smoothing" in steps:
        if not (named := spaces.split()):
            raise ConfigError(f"SPACES={spaces!r}: expected at least one")
        all_candidates(store, find_methods(methods.split()), named)


@dataclass(frozen=True)
class _Climb:
    """Makes the runs of one model's ladder."""

    steps: Sequence[str]
    views: str
    spaces: str
    methods: str
    set: str
    shared: dict[str, Any]

    def __call__(self, model: str) -> list[tuple[str, str]]:
        """Each rung's step and run."""
        train.main(model=model, set=self.set, **self.shared)
        rungs = [("base", model), *self._chain(model)]
        if "pseudo" in self.steps:
            student = f"{model}_student"
            train.main(model=model, name=student, set=f"{self.set} pseudo.teachers=[{model}]", **self.shared)
            chain = self._chain(student)
            rungs.append(("pseudo-labels", chain[-1][1] if chain else student))
        return rungs

    def _chain(self, run: str) -> list[tuple[str, str]]:
        """The requested steps on a trained run: calibration, views, smoothing."""
        shared = {**self.shared, "set": runtime_only(self.set)}
        rungs, top = [], run
        if "calibration" in self.steps:
            top = f"{run}_calibrated"
            calibrate.main(runs=run, name=top, **shared)
            rungs.append(("calibration", top))
        if "tta" in self.steps:
            top = f"{run}_tta"
            tta.main(run=run, views=self.views, name=top, **shared)
            if "calibration" in self.steps:
                calibrate.main(runs=top, name=f"{top}_calibrated", **shared)
                top = f"{top}_calibrated"
            rungs.append(("test-time views", top))
        if "smoothing" in self.steps:
            smooth.main(runs=top, spaces=self.spaces, methods=self.methods, name=f"{run}_smooth", **shared)
            rungs.append(("smoothing", f"{run}_smooth"))
        return rungs


def runtime_only(settings: str) -> str:
    """The settings of SET= that say how to run, which every step takes."""
    return " ".join(item for item in console.overrides(settings) if item.startswith("runtime."))


def show(store: Store, model: str, rungs: Sequence[tuple[str, str]], truth: Path | None) -> None:
    """Print a ladder from the lowest rung on."""
    columns = ["step", "run", "OOF log loss (95%)", "gain (95%, paired)", "seconds", "expected"]
    if truth:
        columns += ["true score", "true gain"]
    measured = measure_ladder(store, rungs, truth)
    console.table(f"ladder of {model}", columns, [_cells(rung) for rung in measured])


def _cells(rung: Rung) -> list[str]:
    gain = "" if rung.gain is None else f"{rung.gain:+.4f} ({rung.low:+.3f} to {rung.high:+.3f})"
    oof = f"{rung.oof.mean:.4f} ({rung.oof.low:.3f} to {rung.oof.high:.3f})"
    cells = [rung.step, rung.run, oof, gain, f"{rung.seconds:.0f}", f"{rung.expected:.4f}"]
    if rung.test is not None:
        cells += [f"{rung.test:.4f}", "" if rung.true_gain is None else f"{rung.true_gain:+.4f}"]
    return cells


if __name__ == "__main__":
    console.run(main)
