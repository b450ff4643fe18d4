"""Pools: weighted means of several runs' predictions; all weights are non-negative.

`log_probs` always has shape (num_runs, num_images, num_classes) and holds natural log-probabilities.
"""

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.newton import Hessian, Vector, minimise_nonnegative
from distracted.postprocess.step import Labels, LogProbs, normalised

#: Strength of the quadratic penalty on a log-linear pool's weights: too small to move a fit, but without it
#: the optimum lies at infinity if the runs make no mistake at all.
RIDGE = 1e-6
_MAX_LOG_PROB = np.log1p(-1e-15)  # keeps the complement above 0; the competition clips there, too
_STEPS, _BAGS, _SMALLEST_BAG = 30, 10, 5  # of greedy selection


def equal_weights(log_probs: LogProbs, labels: Labels) -> Vector:
    """The same weight for every run, summing to 1; nothing is fitted."""
    return np.full(len(log_probs), 1 / len(log_probs))


def fit_linear_pool(log_probs: LogProbs, labels: Labels) -> Vector:
    """Convex weights that minimise the log loss of an arithmetic blend, shape (num_runs,).

    Only the true class's probability enters the loss, so this is maximum likelihood of mixture proportions:
    convex, one optimum. The weights' sum needs no constraint: -mean log(P w) + sum(w) over w >= 0 has its
    minimum where the sum is 1.

    Args:
        log_probs: Out-of-fold predictions, shape (num_runs, num_images, num_classes).
        labels: Class ids, shape (num_images,).
    """
    rows = np.arange(len(labels))
    true = np.asarray(log_probs[:, rows, labels], dtype=np.float64).T  # (num_images, num_runs)
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

    weights = minimise_nonnegative(objective, equal_weights(log_probs, labels))
    convex: Vector = weights / weights.sum()
    return convex


def fit_log_linear_pool(log_probs: LogProbs, labels: Labels) -> Vector:
    """Non-negative weights of free sum that minimise the log loss of a weighted geometric blend, shape
    (num_runs,).

    The blend is softmax over classes of sum_r w_r log p_r: a conditional logit, convex in w. A sum above 1
    sharpens and below 1 softens, so the weights are a temperature too.

    Args:
        log_probs: Out-of-fold predictions, shape (num_runs, num_images, num_classes).
        labels: Class ids, shape (num_images,).
    """
    num_images = len(labels)
    true = log_probs[:, np.arange(num_images), labels]
    margins = np.asarray(log_probs, dtype=np.float64) - np.asarray(true, dtype=np.float64)[:, :, None]
    flat = margins.reshape(len(margins), -1)  # (num_runs, num_images * num_classes)

    def objective(weights: Vector) -> tuple[float, Vector, Hessian]:
        scores = (weights @ flat).reshape(num_images, -1)
        top = scores.max(axis=1, keepdims=True)
        odds = np.exp(scores - top)
        totals = odds.sum(axis=1, keepdims=True)
        value = float((np.log(totals) + top).mean() + RIDGE / 2 * weights @ weights)
        probs = (odds / totals).ravel()

        def hessian() -> NDArray[np.float64]:
            weighted = flat * probs
            means = weighted.reshape(margins.shape).sum(axis=2)  # (num_runs, num_images)
            covariance: NDArray[np.float64] = (weighted @ flat.T - means @ means.T) / num_images
            return covariance + RIDGE * np.eye(len(weights))

        return value, flat @ probs / num_images + RIDGE * weights, hessian

    # Start at 0, where classes are equally probable: where over-confident runs make the blend certain, the
    # loss is almost linear and Newton's steps lead far out.
    return minimise_nonnegative(objective, np.zeros(len(margins)))


def fit_by_class(log_probs: LogProbs, labels: Labels) -> Vector:
    """Convex weights of the runs for each class, shape (num_runs, num_classes).

    Each class gets the linear pool for the question "is it this class", so that every fit is convex. The
    first place of State Farm weighed its models by class, too, by hand from their losses on each.
    """
    weights = []
    for label in range(log_probs.shape[2]):
        of_class = np.minimum(log_probs[:, :, label].astype(np.float64), _MAX_LOG_PROB)
        answers = np.where(labels == label, of_class, np.log(-np.expm1(of_class)))
        weights.append(fit_linear_pool(answers[:, :, None], np.zeros(len(labels), dtype=np.int64)))
    return np.stack(weights, axis=1)


def fit_greedy_selection(log_probs: LogProbs, labels: Labels) -> Vector:
    """Weights of an arithmetic blend, as shares of greedy picks with replacement, shape (num_runs,).

    Ensemble selection of Caruana et al. (ICML 2004): each step adds the run that lowers the log loss of the
    mean most, and the best prefix of the steps is kept. This is repeated on several random halves of the
    runs, and their weights are averaged, so that a lucky run is not picked everywhere.
    """
    true = np.asarray(log_probs[:, np.arange(len(labels)), labels], dtype=np.float64)
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


def pool_arithmetic(log_probs: LogProbs, weights: Vector) -> NDArray[np.float64]:
    """Log of the weighted arithmetic mean of probabilities, shape (num_images, num_classes)."""
    used = [(weight, member) for weight, member in zip(weights, log_probs, strict=True) if weight > 0]
    top = np.maximum.reduce([member for _, member in used])
    total = np.sum([weight * np.exp(member - top) for weight, member in used], axis=0)
    return normalised(np.log(total) + top)


def pool_geometric(log_probs: LogProbs, weights: Vector) -> NDArray[np.float64]:
    """Log of the normalised weighted geometric mean of probabilities, shape (num_images, num_classes)."""
    return normalised(np.tensordot(weights, log_probs, axes=1))


def pool_by_class(log_probs: LogProbs, weights: Vector) -> NDArray[np.float64]:
    """Log of each class's weighted mean of probabilities, normalised, shape (num_images, num_classes)."""
    top = log_probs.max(axis=0)
    total = (weights[:, None, :] * np.exp(log_probs - top)).sum(axis=0)
    with np.errstate(divide="ignore"):  # all runs with weight rule the class out
        scores: NDArray[np.float64] = np.log(total) + top
    return normalised(np.maximum(scores, np.log(np.finfo(np.float64).tiny)))
