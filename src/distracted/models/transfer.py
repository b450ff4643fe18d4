"""How well frozen features carry over to a task, measured before anything is trained.

Two measures: a linear probe, cross-fitted over the folds so that it is scored on subjects it never saw, and
LogME, the evidence that the features give for the labels without any split.
"""

import numpy as np
from numpy.typing import NDArray

from distracted.models.linear import fit_logistic, linear_log_probs

_ITERATIONS = 100
_TOLERANCE = 1e-5  # relative change of the ratio of the two precisions


def probe(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    *,
    c: float,
    max_iter: int,
) -> NDArray[np.float64]:
    """Log-probabilities of each held-out row by a logistic regression on the other folds' features.

    Args:
        features: Shape (num_images, num_features).
        labels: Class ids, each class present outside of each fold, shape (num_images,).
        folds: 0-based; rows of fold -1 are always fitted on, shape (num_images,).
        c: Inverse strength of the L2 penalty, as in `fit_logistic`.

    Returns:
        Shape (num_images, num_classes); rows of fold -1 are NaN.
    """
    log_probs = np.full((len(labels), int(labels.max()) + 1), np.nan)
    for fold in range(int(folds.max()) + 1):
        valid = folds == fold
        weight, bias = fit_logistic(features[~valid], labels[~valid], c=c, max_iter=max_iter)
        log_probs[valid] = linear_log_probs(features[valid], weight, bias)
    return log_probs


def logme(features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Log of maximum evidence of the labels given the features, per image; the higher, the better.

    You, Liu, Wang and Long, "LogME" (ICML 2021): each class against the rest is a Bayesian linear regression,
    whose two precisions, of the weights and of the noise, are set where its evidence is largest; the mean
    over classes. From the eigenvalues of the features' Gram matrix, so that it takes a second where images
    outnumber features.

    Args:
        features: Shape (num_images, num_features).
        labels: Class ids, shape (num_images,).
    """
    x = np.asarray(features, dtype=np.float64)
    num_images, num_features = x.shape
    if num_images >= num_features:
        squares, vectors = np.linalg.eigh(x.T @ x)
        left = (x @ vectors) / np.sqrt(np.maximum(squares, 1e-12 * squares.max()))
    else:
        squares, left = np.linalg.eigh(x @ x.T)
    squares = np.maximum(squares, 0.0)
    found = []
    for label in np.unique(labels):
        target = (labels == label).astype(np.float64)
        along = left.T @ target
        across = max(float(target @ target - along @ along), 0.0)  # what no weights can reach
        found.append(_evidence(squares, along, across, num_images, num_features))
    return float(np.mean(found))


def _evidence(
    squares: NDArray[np.float64],
    along: NDArray[np.float64],
    across: float,
    num_images: int,
    num_features: int,
) -> float:
    """Largest log evidence of one target, per image, by MacKay's fixed point.

    Args:
        squares: Of the features' singular values.
        along: The target in the directions of the left singular vectors.
        across: Squared length of what is left of the target.
    """
    ratio = 1.0  # of the weights' precision to the noise's
    for _ in range(_ITERATIONS):
        weights = float((squares * (along / (ratio + squares)) ** 2).sum())
        residual = float(((ratio * along / (ratio + squares)) ** 2).sum()) + across
        effective = float((squares / (ratio + squares)).sum())
        alpha, beta = effective / max(weights, 1e-300), (num_images - effective) / max(residual, 1e-300)
        before, ratio = ratio, alpha / beta
        if abs(ratio / before - 1) < _TOLERANCE:
            break
    log_det = float(np.log(alpha + beta * squares).sum()) + (num_features - len(squares)) * np.log(alpha)
    log_evidence = (
        num_images * np.log(beta)
        + num_features * np.log(alpha)
        - num_images * np.log(2 * np.pi)
        - beta * residual
        - alpha * weights
        - log_det
    ) / 2
    return float(log_evidence / num_images)
