"""Remakes a submission from its description in bench/submissions/: trains, calibrates, blends and writes it.

    PYTHONPATH=scripts python bench/remake.py fingers --data <folder> --root <workspace>

Finished folds and steps are skipped, so the same command goes on after a stop. At the end it says how long
all of it took on this machine, and how long it would take from the start.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

import calibrate
import console
import ensemble
import submit
import train
import tta
from distracted.errors import ConfigError

_DESCRIPTIONS = Path(__file__).parent / "submissions"
_BLEND = "blend"


def main(
    name: Annotated[str, typer.Argument(help="A file in bench/submissions, without .yaml.")],
    data: console.Data,
    root: console.Root = console.HERE,
) -> None:
    """Make every run of a description, blend them and write the submission."""
    path = _DESCRIPTIONS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in _DESCRIPTIONS.glob("*.yaml")))
        raise ConfigError(f"{path}: no such file; there are {known}")
    shared: dict[str, Any] = {"data": data, "root": root}
    members = [_make(run, settings, shared) for run, settings in yaml.safe_load(path.read_text()).items()]
    ensemble.main(runs=" ".join(members), name=_BLEND, **shared)
    submit.main(name=_BLEND, **shared)
    store = console.open_store(data, root, console.runtime(""), images=False)
    made = [run for run in store.runs() if run == _BLEND or any(run.startswith(name) for name in members)]
    seconds = sum(store.manifest(run, fold).seconds for run in made for fold in store.finished_folds(run))
    console.say(f"{_BLEND}: {seconds / 60:.0f} minutes for all of its runs")


def _make(run: str, settings: dict[str, str], shared: dict[str, Any]) -> str:
    """Train a run and take the steps that are asked for; returns the last run."""
    train.main(model=settings["model"], name=run, set=settings.get("set", ""), **shared)
    if views := settings.get("views"):
        tta.main(run=run, views=views, name=f"{run}_tta", **shared)
        run = f"{run}_tta"
    calibrate.main(runs=run, name=f"{run}_calibrated", **shared)
    return f"{run}_calibrated"


if __name__ == "__main__":
    console.run(main)
