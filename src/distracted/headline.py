"""The scores that runs can be judged by (data.metric), with their uncertainty over subjects.

What is learned (networks, blend weights, temperatures) minimises the log loss, which is proper and smooth; a
metric ranks and chooses what was learned. docs/metrics.md says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distracted.metrics import (
    Floats,
    Interval,
    Ints,
    difference_and_error,
    log_losses,
    prior_log_loss,
    prior_log_probs,
    subject_bootstrap,
)
from distracted.schema import MetricName

#: The score under weights of the rows, (num_images,).
Weighted = Callable[[Floats], float]
_MAX_GROUPS = 30  # of subjects that are left out in turn
_NUM_DRAWS = 500


@dataclass(frozen=True)
class Judged:
    """One prediction under a metric."""

    metric: "Metric"
    value: float
    losses: Floats | None
    weighted: Weighted | None
    num_rows: int

    @property
    def loss(self) -> float:
        """The score as a loss: lower is better."""
        return -self.value if self.metric.higher_is_better else self.value

    def above(self, best: "Judged", subjects: Ints) -> tuple[float, float]:
        """How much worse this is than another prediction of the same rows, and the standard error.

        Subjects are the sampled units. If the score is no mean over rows, the error is a delete-a-group
        jackknife's; a group is one subject or, if there are many, several.
        """
        if self.losses is not None and best.losses is not None:
            return difference_and_error(self.losses, best.losses, subjects)
        assert self.weighted is not None and best.weighted is not None
        groups = _groups(subjects)
        num = int(groups.max()) + 1
        if num < 2:
            return self.loss - best.loss, float("inf")
        left = [(groups != group).astype(np.float64) for group in range(num)]
        sign = -1 if self.metric.higher_is_better else 1
        differences = np.array([sign * (self.weighted(kept) - best.weighted(kept)) for kept in left])
        if not np.isfinite(differences).all():  # an AUC that rests on one group's rows of a class
            return self.loss - best.loss, float("inf")
        spread = float(((differences - differences.mean()) ** 2).sum())
        return self.loss - best.loss, float(np.sqrt((num - 1) / num * spread))

    def interval(self, subjects: Ints) -> Interval:
        """The score with its 95% bootstrap interval; subjects, not rows, are resampled."""
        if self.losses is not None:
            mean = subject_bootstrap(self.losses, subjects)
            return Interval(self.value, 1 - mean.high, 1 - mean.low) if self.metric.higher_is_better else mean
        assert self.weighted is not None
        ids = np.unique(subjects, return_inverse=True)[1]
        num, rng = int(ids.max()) + 1, np.random.default_rng(0)
        draws = rng.multinomial(num, np.full(num, 1 / num), size=_NUM_DRAWS).astype(np.float64)
        values = np.array([self.weighted(draw[ids]) for draw in draws])
        if np.isnan(values).all():  # an AUC of rows of one class
            return Interval(self.value, float("nan"), float("nan"))
        low, high = np.nanquantile(values, [0.025, 0.975])
        return Interval(self.value, float(low), float(high))


@dataclass(frozen=True)
class Metric:
    """A score of predictions.

    Attributes:
        row_losses: Each row's loss, if the score is their mean (or 1 less their mean); else None.
        weigh: Else: prepares the score of some rows under any weights of them.
    """

    name: MetricName
    title: str
    higher_is_better: bool
    row_losses: Callable[[Floats, Ints], Floats] | None = None
    weigh: Callable[[Floats, Ints], Weighted] | None = None

    def judge(self, log_probs: Floats, labels: Ints) -> Judged:
        """Judge predictions: log-probabilities, (num_images, num_classes), and class ids, (num_images,)."""
        num = len(labels)
        if self.row_losses is not None:
            losses = self.row_losses(log_probs, labels)
            mean = float(losses.mean())
            return Judged(self, 1 - mean if self.higher_is_better else mean, losses, None, num)
        assert self.weigh is not None
        weighted = self.weigh(np.asarray(log_probs), labels)
        return Judged(self, weighted(np.ones(num)), None, weighted, num)

    def value(self, log_probs: Floats, labels: Ints) -> float:
        """The score of predictions; arguments as in `judge`."""
        return self.judge(log_probs, labels).value

    def loss_of(self, value: float) -> float:
        """A score as a loss: lower is better."""
        return -value if self.higher_is_better else value

    def prior(self, labels: Ints, folds: Ints, num_classes: int) -> float:
        """The score of the class shares, which every run has to beat; arguments as in `prior_log_loss`."""
        if self.name == "log_loss":
            return prior_log_loss(labels, folds, num_classes)
        scored = labels[folds >= 0]
        return self.value(np.tile(prior_log_probs(scored, num_classes), (len(scored), 1)), scored)


def _wrong(log_probs: Floats, labels: Ints) -> NDArray[np.float64]:
    wrong: NDArray[np.float64] = (log_probs.argmax(axis=1) != labels).astype(np.float64)
    return wrong


def _by_counts(score: Callable[[NDArray[np.float64]], float]) -> Callable[[Floats, Ints], Weighted]:
    """A score of the confusion matrix: weights of rows by true class (rows) and predicted class (columns)."""

    def weigh(log_probs: Floats, labels: Ints) -> Weighted:
        num_classes = log_probs.shape[1]
        cells = labels * num_classes + log_probs.argmax(axis=1)

        def weighted(weights: Floats) -> float:
            counts = np.bincount(cells, weights, minlength=num_classes**2).astype(np.float64)
            return score(counts.reshape(num_classes, num_classes))

        return weighted

    return weigh


def _macro_f1(counts: NDArray[np.float64]) -> float:
    total = counts.sum(axis=0) + counts.sum(axis=1)
    return float((2 * np.diag(counts)[total > 0] / total[total > 0]).mean())


def _balanced_accuracy(counts: NDArray[np.float64]) -> float:
    of_class = counts.sum(axis=1)
    return float((np.diag(counts)[of_class > 0] / of_class[of_class > 0]).mean())


def _quadratic_kappa(counts: NDArray[np.float64]) -> float:
    """Cohen's kappa with quadratic weights; 0 where chance alone agrees fully."""
    order = np.arange(len(counts), dtype=np.float64)
    cost: NDArray[np.float64] = (order[:, None] - order) ** 2
    by_chance = (cost * counts.sum(axis=1)[:, None] * counts.sum(axis=0)).sum() / counts.sum()
    return float(1 - (cost * counts).sum() / by_chance) if by_chance else 0.0


def _auc(log_probs: Floats, labels: Ints) -> Weighted:
    """Area under the ROC curve, one class against the rest, averaged over classes, as `metrics.auc`."""
    ranks = [np.unique(column, return_inverse=True)[1] for column in log_probs.T]

    def weighted(weights: Floats) -> float:
        areas = []
        for label, rank in enumerate(ranks):
            positive = np.bincount(rank, weights * (labels == label))
            negative = np.bincount(rank, weights * (labels != label))
            if (pairs := positive.sum() * negative.sum()) > 0:
                below = np.cumsum(negative) - negative / 2
                areas.append(float((positive * below).sum()) / pairs)
        return float(np.mean(areas)) if areas else float("nan")

    return weighted


def _groups(subjects: Ints) -> NDArray[np.int64]:
    """Groups 0, 1, ... of whole subjects, at most `_MAX_GROUPS` of nearly equal numbers of subjects."""
    ids = np.unique(subjects, return_inverse=True)[1].astype(np.int64)
    num = int(ids.max()) + 1
    if num <= _MAX_GROUPS:
        return ids
    group: NDArray[np.int64] = (np.random.default_rng(0).permutation(num) % _MAX_GROUPS)[ids]
    return group


LOG_LOSS = Metric("log_loss", "log loss", False, row_losses=log_losses)
METRICS: Mapping[MetricName, Metric] = {
    metric.name: metric
    for metric in (
        LOG_LOSS,
        Metric("accuracy", "accuracy", True, row_losses=_wrong),
        Metric("balanced_accuracy", "balanced accuracy", True, weigh=_by_counts(_balanced_accuracy)),
        Metric("macro_f1", "macro F1", True, weigh=_by_counts(_macro_f1)),
        Metric("auc", "AUC", True, weigh=_auc),
        Metric("quadratic_kappa", "quadratic kappa", True, weigh=_by_counts(_quadratic_kappa)),
    )
}
