"""make ladder: the winners' steps one after another, each measured on people that it never saw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import calibrate
import console
import ensemble
import smooth
import train
import tta
from distracted.config import load_config
from distracted.ensemble.derive import settings_to_try
from distracted.errors import ConfigError
from distracted.inference.views import find_views
from distracted.paths import Workspace
from distracted.postprocess.methods import find_ways
from distracted.postprocess.spaces import OWN
from distracted.predictions.store import Store, open_store
from distracted.report.ladder import Rung, keep_ladder, measure_ladder
from distracted.report.truth import read_truth

STEPS = ("calibration", "tta", "smoothing", "pseudo")


def main(
    models: Annotated[str, typer.Option(help="Models, separated by spaces.")],
    steps: Annotated[str, typer.Option(help="Steps to take, in the ladder's order.")] = " ".join(STEPS),
    views: Annotated[str, typer.Option(help="Groups of test-time views.")] = "scales rotations",
    spaces: Annotated[
        str, typer.Option(help="Feature spaces to smooth in: own, or pretrained models.")
    ] = OWN,
    methods: Annotated[str, typer.Option(help="Ways to smooth.")] = "neighbours diffusion clusters",
    truth: Annotated[str, typer.Option(help="CSV of the test set's true labels, for a comparison.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Climb from trained models to their blend: calibrated, over views, smoothed, taught by pseudo-labels."""
    named, taken = list(dict.fromkeys(models.split())), steps.split()
    if not named:
        raise ConfigError("MODELS= is missing: one or more names in configs/models")
    if unknown := [step for step in taken if step not in STEPS]:
        raise ConfigError(f"STEPS: there is no {unknown[0]!r}; expected some of {', '.join(STEPS)}")
    teaching = "pseudo" in taken
    configs = [
        load_config(
            model=model,
            data=data,
            overrides=[*console.overrides(set), *([f"pseudo.teachers=[{model}]"] if teaching else [])],
            root=root,
        )
        for model in named
    ]
    for space in spaces.split():
        if space != OWN:
            load_config(model=space, data=data, root=root)
    first = configs[0]
    store = open_store(
        Workspace(root), first.data, num_folds=first.training.num_folds, progress=console.progress
    )
    _check(store, taken, views, spaces, methods, truth)  # rather than after hours of training
    climb = _Climb(taken, views, spaces, methods, data, set, force, root)
    ladders = {model: climb(model) for model in named}
    members = [run for rungs in ladders.values() for step, run in rungs if step != "base" or len(rungs) == 1]
    blend = "ladder"
    if len(members) > 1:
        runtime = " ".join(item for item in console.overrides(set) if item.startswith("runtime."))
        ensemble.main(runs=" ".join(members), name=blend, set=runtime, data=data, force=force, root=root)
    for model, rungs in ladders.items():
        if len(members) > 1:
            rungs.append(("blend of all", blend))
        keep_ladder(store, model, rungs)
        show(store, model, rungs, Path(truth) if truth else None)


def _check(store: Store, steps: Sequence[str], views: str, spaces: str, methods: str, truth: str) -> None:
    """Refuse what a step would be refused for once it is reached."""
    name, num_folds = store.competition.name, store.folds.num_folds
    if truth:
        read_truth(store, Path(truth))
    if "calibration" in steps and num_folds < 2:
        raise ConfigError(
            f"STEPS: {name} is a single split, with no other fold to calibrate on; leave it out"
        )
    if "tta" in steps:
        find_views(views.split())
    if "smoothing" in steps:
        if not (named := spaces.split()):
            raise ConfigError(f"SPACES={spaces!r}: expected at least one")
        settings_to_try(store, find_ways(methods.split()), named)


class _Climb:
    """Makes the runs of one model's ladder."""

    def __init__(
        self,
        steps: Sequence[str],
        views: str,
        spaces: str,
        methods: str,
        data: str,
        set: str,
        force: bool,
        root: Path,
    ) -> None:
        self._force = force
        self._steps, self._views, self._spaces, self._methods = steps, views, spaces, methods
        self._data, self._set, self._root = data, set, root
        self._runtime = " ".join(item for item in console.overrides(set) if item.startswith("runtime."))

    def __call__(self, model: str) -> list[tuple[str, str]]:
        """Of each rung the step and the run."""
        train.main(model=model, data=self._data, set=self._set, force=self._force, root=self._root)
        rungs = [("base", model)]
        chain = self._chain(model)
        rungs += chain
        if "pseudo" in self._steps:
            student = f"{model}_student"
            settings = f"{self._set} pseudo.teachers=[{model}]"
            train.main(
                model=model,
                name=student,
                data=self._data,
                set=settings,
                force=self._force,
                root=self._root,
            )
            taught = self._chain(student)
            rungs.append(("pseudo-labels", taught[-1][1] if taught else student))
        return rungs

    def _chain(self, run: str) -> list[tuple[str, str]]:
        """A trained run calibrated, seen in several views, smoothed: those that are asked for."""
        rungs = []
        data, force, root = self._data, self._force, self._root
        if "calibration" in self._steps:
            calibrate.main(
                runs=run, name=f"{run}_calibrated", set=self._runtime, data=data, force=force, root=root
            )
            rungs.append(("calibration", f"{run}_calibrated"))
        top = rungs[-1][1] if rungs else run
        if "tta" in self._steps:
            top = f"{run}_tta"
            tta.main(
                run=run, views=self._views, name=top, set=self._runtime, data=data, force=force, root=root
            )
            if "calibration" in self._steps:
                calibrate.main(
                    runs=top, name=f"{top}_calibrated", set=self._runtime, data=data, force=force, root=root
                )
                top = f"{top}_calibrated"
            rungs.append(("test-time views", top))
        if "smoothing" in self._steps:
            smooth.main(
                runs=top,
                spaces=self._spaces,
                methods=self._methods,
                name=f"{run}_smooth",
                set=self._runtime,
                data=data,
                force=force,
                root=root,
            )
            rungs.append(("smoothing", f"{run}_smooth"))
        return rungs


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
