"""A step: what makes predictions of one or several runs' predictions, fitted on out-of-fold rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

LogProbs = NDArray[np.floating]
Labels = NDArray[np.integer]


#: Counted up where a step's fit changes: what was made before is refused.
STEP_VERSION = 2


class Subset(NamedTuple):
    """Rows that one fold's networks predict: those it holds out, or the test set."""

    fold: int
    test: bool = False


@dataclass(frozen=True, eq=False)
class Examples:
    """Out-of-fold rows of some folds with their labels: what a step is fitted on.

    Attributes:
        log_probs: Of each run that goes in, (num_runs, num_images, num_classes).
        labels: Class ids, (num_images,).
        folds: Fold of each row, (num_images,).
        subjects: Subject ids, not all of them need occur, (num_images,).
    """

    log_probs: LogProbs
    labels: Labels
    folds: NDArray[np.int64]
    subjects: NDArray[np.int64]

    def parts(self) -> Iterator[tuple[Subset, NDArray[np.int64]]]:
        """Each fold's part and its positions among the rows, in the order of `Folds.valid`."""
        for fold in np.unique(self.folds):
            yield Subset(int(fold)), np.flatnonzero(self.folds == fold)


class Step(Protocol):
    """One way to make predictions of others' predictions."""

    @property
    def name(self) -> str: ...

    @property
    def min_folds(self) -> int:
        """Folds that it has to be fitted on; with fewer it leaves out some of what it does."""

    def learn(self, examples: Examples) -> Any:
        """What is fitted, from rows whose labels may be seen."""

    def apply(self, fitted: Any, log_probs: LogProbs, part: Subset) -> NDArray[np.float64]:
        """Predict a part's rows, (num_images, num_classes), from the runs' predictions of them."""


def normalised(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-probabilities of unnormalised logarithms, shape (..., num_classes)."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    log_probs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_probs
