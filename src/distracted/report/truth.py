"""The demo's last lines: what was predicted beside what is true. Nothing else reads the test's labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distracted.data.tables import read_table
from distracted.errors import DataError
from distracted.metrics import Interval, log_losses, subject_bootstrap
from distracted.predictions.store import Store


@dataclass(frozen=True)
class Outcome:
    """A run's score as predicted and as it turned out.

    Attributes:
        oof: Pooled OOF log loss (cross-fitted for a blend), with its 95% interval over training subjects.
        single: True log loss of one fold's network on the test set, the mean over folds.
        test: True log loss of the submitted mean over folds, with its 95% interval over test subjects.
    """

    run: str
    kind: str
    oof: Interval
    single: float
    test: Interval

    @property
    def surprise(self) -> float:
        """How far the submitted score is from the predicted one, in standard errors of that difference."""
        widths = [interval.high - interval.low for interval in (self.oof, self.test)]
        return (self.test.mean - self.oof.mean) / (math.hypot(*widths) / 3.92)


def score_on_truth(store: Store, runs: Sequence[str], truth: Path) -> list[Outcome]:
    """Score runs on the test set's true labels.

    Args:
        truth: CSV with the columns subject, classname, img.

    Raises:
        DataError: the file is missing or not of this test set.
    """
    labels, subjects = _read_truth(store, truth)
    scored = store.folds.scored
    oof_labels, oof_subjects = store.folds.labels[scored], store.folds.subjects[scored]
    outcomes = []
    for name in runs:
        run = store.read_run(name)
        oof = subject_bootstrap(log_losses(run.oof[scored], oof_labels), oof_subjects)
        single = float(np.mean([log_losses(log_probs, labels).mean() for log_probs in run.test]))
        test = subject_bootstrap(log_losses(run.test_log_probs, labels), subjects)
        outcomes.append(Outcome(name, run.kind, oof, single, test))
    return outcomes


def prior_on_truth(store: Store, truth: Path) -> float:
    """True log loss of the training set's class shares."""
    labels, _ = _read_truth(store, truth)
    counts = np.bincount(store.folds.labels, minlength=store.competition.num_classes)
    return float(-np.log(counts / counts.sum())[labels].mean())


def _read_truth(store: Store, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; `make sample` writes it")
    table = read_table(path).set_index("img")
    test = store.competition.test["img"]
    if sorted(table.index) != sorted(test):
        raise DataError(f"{path}: its images are not those of the test set; `make sample` writes both")
    table = table.loc[test]
    ids = {name: label for label, name in enumerate(store.competition.classes)}
    labels = np.array([ids[name] for name in table["classname"]], dtype=np.int64)
    return labels, np.unique(table["subject"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
