"""The ladder: what each step adds to the one before it, on people that nothing in it has seen."""

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
    """One step of the ladder.

    Attributes:
        step: What it adds; run: the run that has it.
        oof: Pooled OOF log loss, cross-fitted, with its 95% bootstrap interval over subjects; expected: log
            loss of the mean over folds on the test set, as it is forecast.
        gain: OOF log loss of the rung below less this one's, paired; low, high: its 95% interval over
            subjects; all None on the lowest rung.
        seconds: That the run took, with all it was made of that the rungs below were not.
        test: True log loss of the mean over folds, where the truth is known; true_gain: of the rung below
            less this one's.
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
    """Measure rungs from the lowest on.

    Args:
        rungs: Of each the step and the run.
        truth: CSV of the test set's true labels (subject, classname, img), where there is one.

    Raises:
        StoreError: a run is missing or incomplete.
        DataError: the truth is not of this test set.
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
        last = measured[-1].test if measured else None
        true_gain = last - test if last is not None and test is not None else None
        new = ancestors(store, name) - counted
        counted |= new
        seconds = sum(manifest.seconds for made in new for manifest in store.manifests(made))
        oof = subject_bootstrap(losses, subjects)
        measured.append(
            Rung(step, name, oof, expect_run(store, run).mean, gain, low, high, seconds, test, true_gain)
        )
        below = losses
    return measured


def keep_ladder(store: Store, model: str, rungs: Sequence[tuple[str, str]]) -> None:
    """Remember which runs a model's ladder was made of, for the report."""
    path = store.workspace.ladders(store.competition.name) / f"{model}.json"
    write_json(path, {"model": model, "rungs": [list(rung) for rung in rungs]})


def kept_ladders(store: Store) -> dict[str, list[tuple[str, str]]]:
    """Step and run of each rung of the ladders that were climbed, by model; damaged files are left out."""
    found = {}
    for path in sorted(store.workspace.ladders(store.competition.name).glob("*.json")):
        try:
            told = json.loads(path.read_text())
            found[str(told["model"])] = [(str(step), str(run)) for step, run in told["rungs"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
