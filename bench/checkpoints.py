"""Time that a training spends on checkpoints at the default interval.

    PYTHONPATH=scripts python bench/checkpoints.py --data <folder> [--models "resnet50" --repeats 3]

Trains fold 0 with and without checkpoints, in turns, in one process, and reports the share of the time spent
on saving, and the time and size of one save.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

import console
from distracted.config import load_config
from distracted.paths import Workspace
from distracted.predictions.store import open_store
from distracted.training.checkpoints import Checkpoints, State
from distracted.training.context import FoldContext
from distracted.training.loop import train_fold
from distracted.training.metrics_log import Tracker
from distracted.training.resolve import resolve
from markdown_table import say_header, say_row


class Measured(Checkpoints):
    """Counts saves and the time that they take."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {})
        self.seconds, self.num_saves, self.num_bytes = 0.0, 0, 0

    def after_step(self, state_dict: Callable[[], State], *, boundary: bool = False) -> None:
        start, saves = time.perf_counter(), self.num_saves
        super().after_step(state_dict, boundary=boundary)
        if self.num_saves > saves:
            self.seconds += time.perf_counter() - start

    def save(self, state: State) -> None:
        super().save(state)
        self.num_saves += 1
        self.num_bytes = (self._folder / "last.ckpt").stat().st_size


def main(
    data: console.Data,
    models: Annotated[str, typer.Option(help="Names in configs/models.")] = "efficientnet_lite0 resnet50",
    set: console.Set = "phases.finetune.epochs=2 phases.scratch.epochs=2",
    repeats: int = 3,
) -> None:
    """Print a table: each model, a save's size and time, its share of the steps' time, and the ratio."""
    say_header(["network", "a save", "saves", "share of the time", "with / without (medians, range)"])
    for model in models.split():
        settings = ["runtime.tracking=none", "runtime.validate_every_epoch=false"]
        settings += ["model.weights=auto_or_none", *console.overrides(set)]
        config = load_config(model=model, data=data, overrides=settings)
        with TemporaryDirectory() as folder:
            store = open_store(Workspace(Path(folder)), config.data, num_folds=config.training.num_folds)
            resolved = resolve(config, num_folds=store.folds.num_folds)

            def train(checkpoints: Checkpoints | None) -> float:
                start = time.perf_counter()
                context = FoldContext(
                    resolved,  # noqa: B023 - called before the next turn
                    0,
                    competition=store.competition,  # noqa: B023
                    folds=store.folds,  # noqa: B023
                    cache=Path(folder) / "cache",
                    tracker=Tracker(),
                    checkpoints=checkpoints,
                    label=model,  # noqa: B023
                    progress=console.progress,
                )
                train_fold(context)
                return time.perf_counter() - start

            train(None)  # fills the cache of features, and warms up
            ratios, shares, measured = [], [], Measured(Path(folder) / "0")
            for number in range(repeats):
                without = train(None)
                measured = Measured(Path(folder) / f"checkpoints{number}")
                (Path(folder) / f"checkpoints{number}").mkdir()
                seconds = train(measured)
                ratios.append(seconds / without)
                shares.append(measured.seconds / seconds)
        each = measured.seconds / measured.num_saves
        say_row(
            [
                model,
                f"{measured.num_bytes / 1e6:.0f} MB, {each:.2f} s",
                str(measured.num_saves),
                f"{statistics.median(shares):.2%}",
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            ]
        )


if __name__ == "__main__":
    console.run(main)
