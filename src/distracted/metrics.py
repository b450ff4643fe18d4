"""Scores of predictions, and their uncertainty over subjects."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

#: Differences below this count as equal, however certain they are.
NEGLIGIBLE = 1e-5
#: The competition scores max(min(p, 1 - 1e-15), 1e-15).
CLIP = 1e-15
_DRAWS_AT_ONCE = 100  # all at once would fill the memory if each image were a subject


def log_losses(log_probs: Floats, labels: Ints) -> NDArray[np.float64]:
    """Log loss of each row, as the competition clips it.

    Args:
        log_probs: Natural log-probabilities, shape (num_images, num_classes).
        labels: Class ids, shape (num_images,).

    Returns:
        Non-negative losses, shape (num_images,).
    """
    true = np.asarray(log_probs[np.arange(len(labels)), labels], dtype=np.float64)
    losses: NDArray[np.float64] = -np.clip(true, np.log(CLIP), np.log1p(-CLIP))
    return losses


def log_loss(log_probs: Floats, labels: Ints) -> float:
    """Mean log loss over rows; shapes as in `log_losses`."""
    return float(log_losses(log_probs, labels).mean())


def accuracy(log_probs: Floats, labels: Ints) -> float:
    """Fraction of rows whose most probable class is the true one."""
    return float((log_probs.argmax(axis=1) == labels).mean())


def macro_f1(log_probs: Floats, labels: Ints) -> float:
    """Mean over classes of the harmonic mean of precision and recall; shapes as in `log_losses`.

    Classes that occur neither among the labels nor among the predictions are left out.
    """
    num_classes, predicted = log_probs.shape[1], log_probs.argmax(axis=1)
    right = np.bincount(labels[predicted == labels], minlength=num_classes)
    total = np.bincount(labels, minlength=num_classes) + np.bincount(predicted, minlength=num_classes)
    occurs = total > 0
    return float((2 * right[occurs] / total[occurs]).mean())


def auc(log_probs: Floats, labels: Ints) -> float | None:
    """Area under the ROC curve, one class against the rest, averaged over classes; shapes as in `log_losses`.

    With two classes it is the usual AUC. Classes without a row, or with all rows, have none and are left
    out; None if no class is left.
    """
    areas = []
    for label in range(log_probs.shape[1]):
        positive = labels == label
        num_positive, num_negative = int(positive.sum()), int((~positive).sum())
        if num_positive and num_negative:
            rank_sum = _ranks(log_probs[:, label])[positive].sum()
            areas.append((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))
    return float(np.mean(areas)) if areas else None


def _ranks(values: Floats) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of their ranks, as in Mann and Whitney's statistic."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def scores(log_probs: Floats, labels: Ints, *, prefix: str = "") -> dict[str, float]:
    """Log loss, accuracy, macro F1 and AUC (if it is defined) by name; shapes as in `log_losses`."""
    values = {
        "log_loss": log_loss(log_probs, labels),
        "accuracy": accuracy(log_probs, labels),
        "macro_f1": macro_f1(log_probs, labels),
        "auc": auc(log_probs, labels),
    }
    return {prefix + name: value for name, value in values.items() if value is not None}


def prior_log_probs(labels: Ints, num_classes: int) -> NDArray[np.float64]:
    """Log of each class's share among `labels`, one added to each count; shape (num_classes,)."""
    counts = np.bincount(labels, minlength=num_classes) + 1.0
    log_probs: NDArray[np.float64] = np.log(counts / counts.sum())
    return log_probs


def prior_log_loss(labels: Ints, folds: Ints, num_classes: int) -> float:
    """Log loss of the class shares, which for fold k come from the other folds: what every run has to beat.

    Rows of fold -1 are always trained on and never scored.
    """
    losses = []
    for fold in np.unique(folds[folds >= 0]):
        valid = folds == fold
        prior = prior_log_probs(labels[~valid], num_classes)
        losses.append(-prior[labels[valid]])
    return float(np.concatenate(losses).mean())


def difference_and_error(losses: Floats, reference: Floats, subjects: Ints) -> tuple[float, float]:
    """Mean of `losses - reference` over rows and its standard error over subjects.

    Subjects are the sampled units, since rows of one subject err together. The error is the delete-one
    jackknife's: how the mean changes without a subject. Of a subject with most of the rows the plain
    linearised error would see nearly nothing, since the mean is nearly that subject's own.

    Args:
        losses: Loss of each row, shape (num_images,).
        reference: Loss of the same rows under the other prediction.
        subjects: Subject ids, not all of them need occur, shape (num_images,).

    Returns:
        The difference and its standard error (infinite with a single subject).
    """
    difference = np.asarray(losses, dtype=np.float64) - reference
    mean, counts = float(difference.mean()), np.bincount(subjects)
    sums = np.bincount(subjects, weights=difference - mean)[counts > 0]
    num = len(sums)
    if num < 2:
        return mean, float("inf")
    changes = sums / (len(difference) - counts[counts > 0])
    return mean, float(np.sqrt((num - 1) / num * (changes**2).sum()))


def as_good(difference: float, error: float) -> bool:
    """Whether a loss above another one counts as equally good: within one standard error of it.

    So does one that cannot be compared, since the score is undefined on these rows (an AUC of one class).
    """
    return not difference > max(error, NEGLIGIBLE)


@dataclass(frozen=True)
class Interval:
    """A mean loss with its 95% bootstrap interval over subjects."""

    mean: float
    low: float
    high: float


def subject_bootstrap(losses: Floats, subjects: Ints, *, num_draws: int = 2000, seed: int = 0) -> Interval:
    """95% bootstrap interval of a mean loss; subjects, not rows, are resampled.

    Arguments as in `difference_and_error`.
    """
    counts = np.bincount(subjects)
    present = counts > 0
    sums = np.bincount(subjects, weights=losses)[present]
    counts = counts[present]
    num = len(counts)
    rng, shares = np.random.default_rng(seed), np.full(num, 1 / num)
    means = []
    for first in range(0, num_draws, _DRAWS_AT_ONCE):
        draws = rng.multinomial(num, shares, size=min(_DRAWS_AT_ONCE, num_draws - first))
        means.append((draws @ sums) / (draws @ counts))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(mean=float(np.mean(losses)), low=float(low), high=float(high))
