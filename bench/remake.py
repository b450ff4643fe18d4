"""Remakes a submission from its description in bench/submissions/: trains, blends and writes it.

    PYTHONPATH=scripts python bench/remake.py fingers --data <folder> --root <workspace>

Finished folds and steps are skipped, so the same command goes on after a stop. At the end it says how long
all of it takes on this machine from the start.
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
    made = [_make(run, settings, shared) for run, settings in yaml.safe_load(path.read_text()).items()]
    ensemble.main(runs=" ".join(steps[-1] for steps in made), name=_BLEND, **shared)
    submit.main(name=_BLEND, **shared)
    store = console.open_store(data, root, console.runtime(""), images=False)
    runs = [_BLEND, *(run for steps in made for run in steps)]
    seconds = sum(store.manifest(run, fold).seconds for run in runs for fold in store.finished_folds(run))
    console.say(f"{_BLEND}: {seconds / 60:.0f} minutes for all of its runs")


def _make(run: str, settings: dict[str, Any], shared: dict[str, Any]) -> list[str]:
    """Train a run and take the steps that are asked for; returns the runs, the last step's at the end."""
    train.main(model=settings["model"], name=run, set=settings.get("set", ""), **shared)
    made = [run]
    if views := settings.get("views"):
        made.append(f"{run}_tta")
        tta.main(run=run, views=views, name=made[-1], **shared)
    if settings.get("calibrated"):
        made.append(f"{made[-1]}_calibrated")
        calibrate.main(runs=made[-2], name=made[-1], **shared)
    return made


if __name__ == "__main__":
    console.run(main)
