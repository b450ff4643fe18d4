"""The choice of one of several runs, such as a sweep's trials: a step, since choosing is fitting."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from distracted.headline import LOG_LOSS, METRICS, Metric
from distracted.postprocess.step import Examples, LogProbs, PredictionStep, Rows, normalised
from distracted.schema import MetricName


@dataclass(frozen=True)
class Choose(PredictionStep):
    """Takes the run with the best score on the examples.

    Attributes:
        metric: The score: that of the competition.
    """

    metric: MetricName = LOG_LOSS.name

    name: ClassVar[str] = "choose"
    takes_several: ClassVar[bool] = True

    def fit(self, examples: Examples) -> int:
        """Position of the best run."""
        judged = (METRICS[self.metric].judge(log_probs, examples.labels) for log_probs in examples.log_probs)
        return int(np.argmin([one.loss for one in judged]))

    def for_metric(self, metric: Metric) -> Self:
        return replace(self, metric=metric.name)

    def settings(self) -> dict[str, Any]:
        return {} if self.metric == LOG_LOSS.name else {"metric": self.metric}  # as before there were others

    def predict(self, fitted: int, rows: Rows) -> LogProbs:
        return normalised(rows.log_probs[fitted])

    def origin(self, fitted: int) -> int:
        return fitted

    def details(self, fitted: int, runs: Sequence[str]) -> dict[str, Any]:
        return {"chosen": runs[fitted], "num_candidates": len(runs)}

    def describe(self, fits: Sequence[int], overall: int, runs: Sequence[str]) -> str:
        return f"{', '.join(runs[fitted] for fitted in fits)} by fold; on all folds {runs[overall]}"
