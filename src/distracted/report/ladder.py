"""The ladder: how much each technique gains over the one before it, scored on unseen subjects."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distracted.files import write_json
from distracted.metrics import Interval, difference_and_error, log_loss, log_losses, subject_bootstrap
from distracted.predictions.lineage import ancestors
from distracted.predictions.store import Store
from distracted.report.truth import read_truth
from distracted.submission.expect import expect_run

_WIDTH = 1.96  # standard errors on either side of a gain, for 95%


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder.

    Attributes:
        step, run: The technique that it adds, and the run with it and those below.
        oof: Pooled, cross-fitted OOF log loss with its 95% bootstrap interval over subjects.
        expected: Forecast of the log loss on the test set.
        gain: Paired difference of OOF log loss: the rung below less this one; None on the lowest rung.
        low, high: 95% interval of the gain over subjects.
        seconds: Time to make the run and those of its ancestors that no lower rung uses.
        test, true_gain: True log loss on the test set and its gain; None where the labels are unknown.
    """

    step: str
    run: str
    oof: Interval
    expected: float
    gain: float | None
    low: float | None
    high: float | None
    seconds: float
    test: float | None
    true_gain: float | None


def measure_ladder(store: Store, rungs: Sequence[tuple[str, str]], truth: Path | None = None) -> list[Rung]:
    """Compare each rung with the one below.

    Args:
        rungs: Step and run of each rung, from the lowest.
        truth: CSV of the test set's true labels (subject, classname, img), if known.

    Raises:
        StoreError: a run is missing or incomplete.
        DataError: the labels are those of another test set.
    """
    rows = store.folds.scored
    labels, subjects = store.folds.labels[rows], store.folds.subjects[rows]
    true = read_truth(store, truth) if truth else None
    measured: list[Rung] = []
    counted: set[str] = set()
    below: np.ndarray | None = None
    for step, name in rungs:
        run = store.read_run(name)
        losses = log_losses(run.oof[rows], labels)
        gain = low = high = None
        if below is not None:
            gain, error = difference_and_error(below, losses, subjects)
            low, high = gain - _WIDTH * error, gain + _WIDTH * error
        test = None if true is None else log_loss(run.test_log_probs, true)
        test_below = measured[-1].test if measured else None
        true_gain = test_below - test if test_below is not None and test is not None else None
        new = ancestors(store, name) - counted
        counted |= new
        seconds = sum(manifest.seconds for made in new for manifest in store.manifests(made))
        oof, expected = subject_bootstrap(losses, subjects), expect_run(store, run).mean
        measured.append(Rung(step, name, oof, expected, gain, low, high, seconds, test, true_gain))
        below = losses
    return measured


def write_ladder(store: Store, model: str, rungs: Sequence[tuple[str, str]]) -> None:
    """Store the steps and runs of a model's ladder, for the report."""
    path = store.workspace.ladders(store.competition.name) / f"{model}.json"
    write_json(path, {"model": model, "rungs": [list(rung) for rung in rungs]})


def read_ladders(store: Store) -> dict[str, list[tuple[str, str]]]:
    """Read the steps and runs of all ladders, by model; damaged files are ignored."""
    ladders = {}
    for path in sorted(store.workspace.ladders(store.competition.name).glob("*.json")):
        try:
            content = json.loads(path.read_text())
            ladders[str(content["model"])] = [(str(step), str(run)) for step, run in content["rungs"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ladders
