"""The choice of one of several runs, such as a sweep's trials: a step, since choosing is fitting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from distracted.metrics import log_loss
from distracted.postprocess.step import Examples, LogProbs, PredictionStep, Rows, normalised


@dataclass(frozen=True)
class Choose(PredictionStep):
    """Takes the run with the lowest log loss on the examples."""

    name: ClassVar[str] = "choose"
    takes_several: ClassVar[bool] = True

    def fit(self, examples: Examples) -> int:
        """Position of the best run."""
        return int(np.argmin([log_loss(log_probs, examples.labels) for log_probs in examples.log_probs]))

    def predict(self, fitted: int, rows: Rows) -> LogProbs:
        return normalised(rows.log_probs[fitted])

    def origin(self, fitted: int) -> int:
        return fitted

    def details(self, fitted: int, runs: Sequence[str]) -> dict[str, Any]:
        return {"chosen": runs[fitted], "num_candidates": len(runs)}

    def describe(self, fits: Sequence[int], overall: int, runs: Sequence[str]) -> str:
        return f"{', '.join(runs[fitted] for fitted in fits)} by fold; on all folds {runs[overall]}"
