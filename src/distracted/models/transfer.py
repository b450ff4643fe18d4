"""Transferability of frozen features to a task, estimated before any training.

Two scores: a linear probe, cross-fitted over the folds and so scored on unseen subjects, and LogME, the
evidence of the labels given the features, which needs no split.
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
    """Predict each fold's rows by a logistic regression fitted on the other folds' features.

    Args:
        features: Shape (num_images, num_features).
        labels: Class ids, shape (num_images,); every class must occur outside of each fold.
        folds: Fold of each image, shape (num_images,); rows of fold -1 are in every training side.
        c: Inverse L2 strength, as in `fit_logistic`.

    Returns:
        Natural log-probabilities, shape (num_images, num_classes); rows of fold -1 are NaN.
    """
    log_probs = np.full((len(labels), int(labels.max()) + 1), np.nan)
    for fold in range(int(folds.max()) + 1):
        valid = folds == fold
        weight, bias = fit_logistic(features[~valid], labels[~valid], c=c, max_iter=max_iter)
        log_probs[valid] = linear_log_probs(features[valid], weight, bias)
    return log_probs


def logme(features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Logarithm of the maximum evidence of the labels given the features, per image; higher is better.

    You, Liu, Wang and Long, "LogME" (ICML 2021): one Bayesian linear regression per class, one against the
    rest, whose precisions of weights and noise maximise its evidence; averaged over classes. Computed from
    the eigenvalues of the smaller Gram matrix, which takes a second where images outnumber features.

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
    evidences = []
    for label in np.unique(labels):
        target = (labels == label).astype(np.float64)
        along = left.T @ target
        across = max(float(target @ target - along @ along), 0.0)
        evidences.append(_evidence(squares, along, across, num_images, num_features))
    return float(np.mean(evidences))


def _evidence(
    squares: NDArray[np.float64],
    along: NDArray[np.float64],
    across: float,
    num_images: int,
    num_features: int,
) -> float:
    """Maximum log evidence of one target, per image, by MacKay's fixed-point iteration.

    Args:
        squares: Squared singular values of the features.
        along: The target projected onto the left singular vectors.
        across: Squared norm of the residual, which no weights can explain.
    """
    ratio = 1.0  # precision of the weights over that of the noise
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
