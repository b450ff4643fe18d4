"""Scores on the test set's true labels, where a file has them, such as the sample's test_labels.csv.

Only `make demo` and `make ladder TRUTH=` use them, to compare forecasts with true scores. Nothing is trained,
chosen or blended by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distracted.data.tables import read_table
from distracted.errors import DataError
from distracted.metrics import log_loss
from distracted.predictions.store import Store
from distracted.submission.expect import Expected, expect_run


@dataclass(frozen=True)
class Outcome:
    """A run's forecast and its true score.

    Attributes:
        expected: The forecast, which includes the pooled OOF log loss.
        single: True log loss of a single fold's network on the test set, averaged over folds.
        test: True log loss of the submitted predictions, which average the folds' probabilities.
    """

    run: str
    kind: str
    expected: Expected
    single: float
    test: float


def score_on_truth(store: Store, runs: Sequence[str], truth: Path) -> list[Outcome]:
    """Score runs on the test set's true labels; `truth` and errors as in `read_truth`."""
    labels = read_truth(store, truth)
    outcomes = []
    for name in runs:
        run = store.read_run(name)
        single = float(np.mean([log_loss(log_probs, labels) for log_probs in run.test]))
        test = log_loss(run.test_log_probs, labels)
        outcomes.append(Outcome(name, run.kind, expect_run(store, run), single, test))
    return outcomes


def prior_on_truth(store: Store, truth: Path) -> float:
    """True log loss of predicting the training set's class frequencies for every image."""
    labels = read_truth(store, truth)
    counts = np.bincount(store.folds.labels, minlength=store.competition.num_classes)
    return float(-np.log(counts / counts.sum())[labels].mean())


def read_truth(store: Store, path: Path) -> NDArray[np.int64]:
    """Class ids of the test images, in the competition's order, from a CSV of subject, classname, img.

    Raises:
        DataError: the file is missing or belongs to another test set.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; expected the test set's labels (columns subject, classname, img); "
            "`make sample` writes those of the sample"
        )
    table = read_table(path)
    if missing := [name for name in ("img", "classname") if name not in table.columns]:
        raise DataError(f"{path}: expected the column {missing[0]!r}, got {', '.join(table.columns)}")
    test, classes = store.competition.test["img"], store.competition.classes
    if sorted(table["img"]) != sorted(test):
        raise DataError(f"{path}: its images are not those of the test set; `make sample` writes both")
    if unknown := [name for name in table["classname"] if name not in classes]:
        raise DataError(f"{path}: unknown class {unknown[0]!r}; expected {', '.join(classes)}")
    ids = {name: label for label, name in enumerate(classes)}
    return np.array([ids[name] for name in table.set_index("img").loc[test, "classname"]], dtype=np.int64)
