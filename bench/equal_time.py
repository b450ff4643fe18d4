"""Pooled OOF log loss beside fastai's `fine_tune` that takes at least as long, on the same folds.

    pip install -r bench/requirements.txt -c requirements.lock
    PYTHONPATH=scripts python bench/equal_time.py --data <folder> --root <workspace> [--set <settings>]

Both have the same network, ImageNet weights, image size, batch size and threads; with `augment.size`, ours
trains on smaller images. fastai takes the learning rate of its own finder, whose seconds do not count, and
the epochs that our time on the fold allows, rounded up; the time of one is measured first. The rest is as in
speed_quality.py. The ratio's 95% interval is a bootstrap over subjects. Finished folds are skipped.
"""

import math
import time
from typing import Annotated, Any

import numpy as np
import typer

import console
from distracted.config import load_config
from distracted.jobs.fold import train_and_store
from distracted.metrics import log_losses
from distracted.predictions.store import Store
from distracted.training.resolve import Resolved, resolve
from harness import save_arrays
from markdown_table import say_header, say_row
from speed_quality import QUIET, fastai_learners, fastai_log_probs, find_rate

_DRAWS = 2000


def main(
    data: console.Data,
    root: console.Root,
    model: Annotated[str, typer.Option(help="A name in configs/models.")] = "efficientnet_lite0",
    folds: Annotated[int, typer.Option(help="How many.")] = 5,
    name: Annotated[str, typer.Option(help="Of our run.")] = "ours",
    set: console.Set = "",
) -> None:
    """Train both on each fold, and print the ratio of their log losses."""
    config = load_config(model=model, data=data, overrides=[*QUIET, *console.overrides(set)], root=root)
    store = console.open_store(config.data, root, config.runtime, num_folds=folds)
    resolved = resolve(config, num_folds=store.folds.num_folds)
    theirs = np.full((len(store.folds.labels), store.competition.num_classes), np.nan)
    seconds, theirs_seconds = 0.0, 0.0
    for fold in range(store.folds.num_folds):
        done = train_and_store(store, resolved, run=name, fold=fold, progress=console.progress)
        seconds += done.seconds
        path = root / "equal_time" / store.competition.name / name / f"{fold}.npz"
        if not path.is_file():
            save_arrays(path, train_fastai(store, resolved, fold, done.seconds))
        with np.load(path) as file:
            theirs[store.folds.valid(fold)] = file["log_probs"]
            theirs_seconds += float(file["seconds"])
            spent = f"{int(file['epochs'])} epochs: {float(file['seconds']):.0f} s"
            console.say(f"fold {fold}: {done.seconds:.0f} s; fastai, {spent}")
    _show(store, store.read_run(name).oof, theirs, seconds, theirs_seconds)


def train_fastai(store: Store, resolved: Resolved, fold: int, budget: float) -> dict[str, Any]:
    """Log-probabilities of the fold's rows, seconds, and epochs of `fine_tune` (without the frozen one)."""
    from fastai.vision import all as fastai

    make = fastai_learners(store, resolved, fold)
    rate = find_rate(make)
    learner = make()
    start = time.perf_counter()
    ends: list[float] = []

    class Clock(fastai.Callback):  # type: ignore[misc]
        def before_validate(self) -> None:
            ends.append(time.perf_counter())
            raise fastai.CancelValidException  # its own validation would cost it time

    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(1, base_lr=rate, cbs=[Clock()])
    frozen, whole = ends[0] - start, ends[1] - ends[0]
    epochs = max(1, math.ceil((budget - frozen) / whole))
    learner = make()
    start = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs, base_lr=rate, cbs=[Clock()])
    log_probs = fastai_log_probs(learner)
    return {"log_probs": log_probs, "seconds": time.perf_counter() - start, "epochs": epochs}


def _show(store: Store, ours: np.ndarray, theirs: np.ndarray, *seconds: float) -> None:
    scored, labels = store.folds.scored, store.folds.labels
    losses = [log_losses(log_probs[scored], labels[scored]) for log_probs in (ours, theirs)]
    people = np.unique(store.folds.subjects[scored], return_inverse=True)[1]
    sums = np.stack([np.bincount(people, loss) for loss in losses])
    drawn = sums[:, np.random.default_rng(0).integers(0, sums.shape[1], (_DRAWS, sums.shape[1]))].sum(axis=2)
    low, high = np.quantile(drawn[1] / drawn[0], (0.025, 0.975))
    say_header(["", "OOF log loss", "seconds"])
    for name, loss, spent in zip(("ours", "fastai"), losses, seconds, strict=True):
        say_row([name, f"{loss.mean():.4f}", f"{spent:.0f}"])
    ratio = losses[1].mean() / losses[0].mean()
    console.say(f"fastai's is {ratio:.2f} times ours, 95% interval over subjects {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    console.run(main)
