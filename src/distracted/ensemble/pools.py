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


def pool_arithmetic(log_probs: LogProbs, weights: Vector) -> NDArray[np.float64]:
    """Log of the weighted arithmetic mean of probabilities, shape (num_images, num_classes)."""
    used = [(weight, member) for weight, member in zip(weights, log_probs, strict=True) if weight > 0]
    top = np.maximum.reduce([member for _, member in used])
    total = np.sum([weight * np.exp(member - top) for weight, member in used], axis=0)
    return normalised(np.log(total) + top)


def pool_geometric(log_probs: LogProbs, weights: Vector) -> NDArray[np.float64]:
    """Log of the normalised weighted geometric mean of probabilities, shape (num_images, num_classes)."""
    return normalised(np.tensordot(weights, log_probs, axes=1))
