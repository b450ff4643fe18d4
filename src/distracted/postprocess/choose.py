"""Choosing one of several runs, such as a sweep's trials: a step like any other, for choosing is fitting."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from distracted.metrics import log_loss
from distracted.postprocess.step import Examples, LogProbs, Subset, normalised


@dataclass(frozen=True)
class Choose:
    """Takes the run that scores best on the folds that may be seen."""

    name: str = "choose"
    min_folds: ClassVar[int] = 1

    def learn(self, examples: Examples) -> int:
        """Position of the run with the lowest log loss."""
        return int(np.argmin([log_loss(log_probs, examples.labels) for log_probs in examples.log_probs]))

    def apply(self, fitted: int, log_probs: LogProbs, part: Subset) -> NDArray[np.float64]:
        return normalised(log_probs[fitted])
