"""Pools: weighted means of several runs' predictions; all weights are non-negative.

`log_probs` always holds each run's natural log-probabilities, (num_images, num_classes). Runs are many and
large, so each is read on its own, or copied as it is stored; a block of rows at a time is float64.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.newton import Hessian, Vector, minimise_nonnegative
from distracted.postprocess.step import Labels, LogProbs, Runs, normalised

#: Strength of the quadratic penalty on a log-linear pool's weights: too small to move a fit, but without it
#: the optimum lies at infinity if the runs make no mistake at all.
RIDGE = 1e-6
_MAX_LOG_PROB = np.log1p(-1e-15)  # keeps the complement above 0; the competition clips there, too
_STEPS, _BAGS, _SMALLEST_BAG = 30, 10, 5  # of greedy selection
_BLOCK = 250_000  # numbers that are computed with at a time: they stay in the processor's cache


def equal_weights(log_probs: Runs, labels: Labels) -> Vector:
    """The same weight for every run, summing to 1; nothing is fitted."""
    return np.full(len(log_probs), 1 / len(log_probs))


def fit_linear_pool(log_probs: Runs, labels: Labels) -> Vector:
    """Convex weights that minimise the log loss of an arithmetic blend, shape (num_runs,).

    Only the true class's probability enters the loss, so this is maximum likelihood of mixture proportions:
    convex, one optimum. The weights' sum needs no constraint: -mean log(P w) + sum(w) over w >= 0 has its
    minimum where the sum is 1.

    Args:
        log_probs: Out-of-fold predictions.
        labels: Class ids, shape (num_images,).
    """
    return _fit_mixture(_true_log_probs(log_probs, labels))


def _true_log_probs(log_probs: Runs, labels: Labels) -> NDArray[np.float64]:
    """Log-probability that each run gives to the true classes, shape (num_runs, num_images)."""
    rows, true = np.arange(len(labels)), np.empty((len(log_probs), len(labels)))
    for number, member in enumerate(log_probs):
        true[number] = member[rows, labels]
    return true


def _fit_mixture(true: NDArray[np.float64]) -> Vector:
    """The linear pool's weights from log-probabilities of the true answers, shape (num_runs, num_images)."""
    true = true.T
    likelihoods = np.exp(true - true.max(axis=1, keepdims=True))  # a row's factor does not move the optimum
    # A gradient of 1 - mean(P_r / P w) >= 0 for every run keeps P w >= 1 / num_images in every row at the
    # optimum. Far below, where one run is certain and wrong, curvature has no bound and steps lead nowhere.
    floor = 0.5 / max(likelihoods.shape)

    def objective(weights: Vector) -> tuple[float, Vector, Hessian]:
        mixture = likelihoods @ weights
        if mixture.min() < floor:
            return np.inf, weights, lambda: np.eye(len(weights))

        def hessian() -> NDArray[np.float64]:
            ratios = likelihoods / mixture[:, None]
            product: NDArray[np.float64] = ratios.T @ ratios / len(ratios)
            return product

        value = float(weights.sum() - np.log(mixture).mean())
        return value, 1 - (1 / mixture) @ likelihoods / len(mixture), hessian

    weights = minimise_nonnegative(objective, np.full(true.shape[1], 1 / true.shape[1]))
    convex: Vector = weights / weights.sum()
    return convex


def fit_log_linear_pool(log_probs: Runs, labels: Labels) -> Vector:
    """Non-negative weights of free sum that minimise the log loss of a weighted geometric blend, shape
    (num_runs,).

    The blend is softmax over classes of sum_r w_r log p_r: a conditional logit, convex in w. A sum above 1
    sharpens and below 1 softens, so the weights are a temperature too.

    Args:
        log_probs: Out-of-fold predictions.
        labels: Class ids, shape (num_images,).
    """
    num_runs, num_images = len(log_probs), len(labels)
    stacked = _stack(log_probs)
    blocks = row_blocks(num_images, num_runs * stacked.shape[2])

    def margins(rows: slice) -> NDArray[np.float64]:
        """Log-probabilities relative to the true class's, shape (num_runs, num_rows, num_classes)."""
        part = stacked[:, rows].astype(np.float64)
        part -= part[:, np.arange(part.shape[1]), labels[rows]][:, :, None]
        return part

    def objective(weights: Vector) -> tuple[float, Vector, Hessian]:
        value, gradient, probs = 0.0, np.zeros(num_runs), np.empty(stacked.shape[1:])
        for rows in blocks:
            flat = margins(rows).reshape(num_runs, -1)
            scores = (weights @ flat).reshape(probs[rows].shape)
            top = scores.max(axis=1, keepdims=True)
            odds = np.exp(scores - top)
            totals = odds.sum(axis=1, keepdims=True)
            value += float((np.log(totals) + top).sum())
            probs[rows] = odds / totals
            gradient += flat @ probs[rows].ravel()

        def hessian() -> NDArray[np.float64]:
            covariance = RIDGE * num_images * np.eye(num_runs)
            for rows in blocks:
                part = margins(rows)
                weighted = part * probs[rows]
                means = weighted.sum(axis=2)  # (num_runs, num_rows)
                covariance += weighted.reshape(num_runs, -1) @ part.reshape(num_runs, -1).T - means @ means.T
            return covariance / num_images

        value = value / num_images + RIDGE / 2 * float(weights @ weights)
        return value, gradient / num_images + RIDGE * weights, hessian

    # Start at 0, where classes are equally probable: where over-confident runs make the blend certain, the
    # loss is almost linear and Newton's steps lead far out.
    return minimise_nonnegative(objective, np.zeros(num_runs))


def _stack(log_probs: Runs) -> LogProbs:
    """All runs' predictions as they are, stored ones in float32, (num_runs, num_images, num_classes)."""
    kind = np.result_type(*(member.dtype for member in log_probs))
    stacked = np.empty((len(log_probs), *log_probs[0].shape), dtype=kind)
    for number, member in enumerate(log_probs):
        stacked[number] = member
    return stacked


def row_blocks(num_rows: int, num_columns: int) -> list[slice]:
    """Rows in blocks that are computed with at a time."""
    size = max(1, _BLOCK // num_columns)
    return [slice(first, first + size) for first in range(0, num_rows, size)]


def fit_by_class(log_probs: Runs, labels: Labels) -> Vector:
    """Convex weights of the runs for each class, shape (num_runs, num_classes).

    Each class gets the linear pool for the question "is it this class", so that every fit is convex. The
    first place of State Farm weighed its models by class, too, by hand from their losses on each. A class
    without a row gets the linear pool's weights: its own fit would take the run that never predicts it.
    """
    weights, occurs = [], np.bincount(labels, minlength=log_probs[0].shape[1]) > 0
    for label in range(log_probs[0].shape[1]):
        if not occurs[label]:
            weights.append(fit_linear_pool(log_probs, labels))
            continue
        answers = np.empty((len(log_probs), len(labels)))
        for number, member in enumerate(log_probs):
            of_class = np.minimum(member[:, label].astype(np.float64), _MAX_LOG_PROB)
            answers[number] = np.where(labels == label, of_class, np.log(-np.expm1(of_class)))
        weights.append(_fit_mixture(answers))
    return np.stack(weights, axis=1)


def fit_greedy_selection(log_probs: Runs, labels: Labels) -> Vector:
    """Weights of an arithmetic blend, as shares of greedy picks with replacement, shape (num_runs,).

    Ensemble selection of Caruana et al. (ICML 2004): each step adds the run that lowers the log loss of the
    mean most, and the best prefix of the steps is kept. This is repeated on several random halves of the
    runs, and their weights are averaged, so that a lucky run is not picked everywhere.
    """
    true = _true_log_probs(log_probs, labels)
    likelihoods = np.exp(true - true.max(axis=0))  # a row's factor does not move the order
    num_runs = len(likelihoods)
    size = min(num_runs, max(_SMALLEST_BAG, num_runs // 2))
    rng = np.random.default_rng(0)
    bags = [rng.permutation(num_runs)[:size] for _ in range(_BAGS if size < num_runs else 1)]
    counts = np.zeros(num_runs)
    for bag in bags:
        picked = bag[_picks(likelihoods[bag])]
        counts += np.bincount(picked, minlength=num_runs) / len(picked)
    return counts / len(bags)


def _picks(likelihoods: NDArray[np.float64]) -> list[int]:
    """Positions of the runs that are picked, in order, up to where their mean was best."""
    total = np.zeros(likelihoods.shape[1])
    picks: list[int] = []
    best, length = -np.inf, 1
    for number in range(1, _STEPS + 1):
        with np.errstate(divide="ignore"):  # a run that gives the true class nothing at all
            gains = np.log(likelihoods + total).mean(axis=1)
        run = int(gains.argmax())
        picks.append(run)
        total += likelihoods[run]
        if gains[run] - np.log(number) > best:
            best, length = gains[run] - np.log(number), number
    return picks[:length]


def pool_arithmetic(log_probs: Runs, weights: Vector) -> NDArray[np.float64]:
    """Log of the weighted arithmetic mean of probabilities, shape (num_images, num_classes)."""
    return normalised(_log_mean(log_probs, weights))


def pool_geometric(log_probs: Runs, weights: Vector) -> NDArray[np.float64]:
    """Log of the normalised weighted geometric mean of probabilities, shape (num_images, num_classes)."""
    if not weights.any():
        return normalised(np.zeros(log_probs[0].shape))
    return normalised(np.asarray(sum(weight * member for weight, member in _weighted(log_probs, weights))))


def pool_by_class(log_probs: Runs, weights: Vector) -> NDArray[np.float64]:
    """Log of each class's weighted mean of probabilities, normalised, shape (num_images, num_classes)."""
    return normalised(np.maximum(_log_mean(log_probs, weights), np.log(np.finfo(np.float64).tiny)))


def _log_mean(log_probs: Runs, weights: Vector) -> NDArray[np.float64]:
    """Log of the weighted sum of probabilities; -inf where all runs with weight rule a class out.

    Args:
        weights: One for each run, or for each run and class.
    """
    total, top = np.zeros(1), np.full(1, -np.inf)
    for weight, member in _weighted(log_probs, weights):
        higher = np.maximum(top, member)
        total = total * np.exp(top - higher) + weight * np.exp(member - higher)
        top = higher
    with np.errstate(divide="ignore"):
        mean: NDArray[np.float64] = np.log(total) + top
    return mean


def _weighted(log_probs: Runs, weights: Vector) -> Iterator[tuple[Vector, NDArray[np.float64]]]:
    """Runs with some weight, one after another; the others are not read."""
    for number, weight in enumerate(weights):
        if weight.any():
            yield weight, np.asarray(log_probs[number], dtype=np.float64)
