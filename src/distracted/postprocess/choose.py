"""The choice of one of several runs, such as a sweep's trials: a step, since choosing is fitting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        offered: Positions of the runs that each fold may take, chosen without its labels; (): of all runs.
        search: How the runs came about, for the manifests.
        among: The positions that this fit may take; (): all.
    """

    metric: MetricName = LOG_LOSS.name
    offered: Sequence[Sequence[int]] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    among: Sequence[int] = ()

    name: ClassVar[str] = "choose"
    takes_several: ClassVar[bool] = True

    @property
    def min_runs(self) -> int:
        return 1 if self.offered else 2

    @property
    def varies_by_fold(self) -> bool:
        return bool(self.offered)

    def for_fold(self, fold: int) -> Self:
        return replace(self, among=self.offered[fold]) if self.offered else self

    def fit(self, examples: Examples) -> int:
        """Position of the best run."""
        numbers = self.among or range(len(examples.log_probs))
        judge = METRICS[self.metric].judge
        losses = [judge(examples.log_probs[number], examples.labels).loss for number in numbers]
        return int(numbers[int(np.argmin(losses))])

    def for_metric(self, metric: Metric) -> Self:
        return replace(self, metric=metric.name)

    def settings(self) -> dict[str, Any]:
        """Only what differs from the defaults: runs of earlier versions have no more."""
        values: dict[str, Any] = {"metric": self.metric} if self.metric != LOG_LOSS.name else {}
        values |= {"offered": [list(of_fold) for of_fold in self.offered]} if self.offered else {}
        return values | ({"search": dict(self.search)} if self.search else {})

    @classmethod
    def command(cls, settings: Mapping[str, Any], run: str, parents: Sequence[str]) -> str:
        if "search" in settings:
            return str(settings["search"]["command"])
        return super().command(settings, run, parents)

    def predict(self, fitted: int, rows: Rows) -> LogProbs:
        return normalised(rows.log_probs[fitted])

    def origin(self, fitted: int) -> int:
        return fitted

    def details(self, fitted: int, runs: Sequence[str]) -> dict[str, Any]:
        return {"chosen": runs[fitted], "num_candidates": len(self.among or runs)}

    def describe(self, fits: Sequence[int], overall: int, runs: Sequence[str]) -> str:
        return f"{', '.join(runs[fitted] for fitted in fits)} by fold; on all folds {runs[overall]}"
