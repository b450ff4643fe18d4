"""Linear models on frozen features: logistic regression, a cross-fitted probe, and LogME.

The last two estimate how well the features transfer to a task, before any training.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ITERATIONS = 100  # of LogME at most
_TOLERANCE = 1e-5  # relative change of the ratio of the two precisions


def fit_logistic(
    features: NDArray[np.float32], labels: Ints, *, c: float, max_iter: int
) -> tuple[Floats, Floats]:
    """Fit a logistic regression on centred and scaled features.

    All features share one scale. Scaling each by its own would blow up features that are almost always zero,
    and the regression would be confidently wrong on augmented images.

    Args:
        features: Shape (num_images, num_features).
        labels: Class ids, every class present, shape (num_images,).
        c: scikit-learn's inverse L2 strength, for features scaled to unit variance on average.

    Returns:
        Weight, shape (num_classes, num_features), and bias, shape (num_classes,), for unscaled features.
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.linear_model import LogisticRegression

    mean = features.mean(axis=0, dtype=np.float64)
    scale = max(float(np.sqrt(features.var(axis=0, dtype=np.float64).mean())), 1e-12)
    model = LogisticRegression(C=c, max_iter=max_iter)
    # The matrix products are small: more BLAS threads gain nothing and slow other work by busy-waiting.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # an approximate optimum is good enough
        model.fit((features - mean) / scale, labels)
    weight = model.coef_ / scale
    bias = model.intercept_ - weight @ mean
    if len(weight) == 1:  # two classes: scikit-learn models the difference of their logits
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def linear_log_probs(features: NDArray[np.float32], weight: Floats, bias: Floats) -> Floats:
    """Natural log-probabilities, shape (num_images, num_classes), from `fit_logistic`'s weight and bias."""
    log_probs: Floats = log_softmax(features @ weight.T + bias, axis=1)
    return log_probs


def probe(
    features: NDArray[np.float32],
    labels: Ints,
    folds: Ints,
    *,
    c: float,
    max_iter: int,
    views: Sequence[NDArray[np.float32]] = (),
) -> Floats:
    """Predict each fold's rows by `fit_logistic` on the other folds' features.

    Args:
        labels: Class ids; every class must occur outside of each fold.
        folds: Fold of each image; rows of fold -1 are in every training side.
        views: Features of other views of the images; the predictions are the mean over all views.

    Returns:
        Natural log-probabilities, shape (num_images, num_classes); rows of fold -1 are NaN.
    """
    log_probs = np.full((len(labels), int(labels.max()) + 1), np.nan)
    for fold in range(int(folds.max()) + 1):
        valid = folds == fold
        weight, bias = fit_logistic(features[~valid], labels[~valid], c=c, max_iter=max_iter)
        shown = [linear_log_probs(view[valid], weight, bias) for view in (features, *views)]
        log_probs[valid] = np.logaddexp.reduce(shown, axis=0) - np.log(len(shown))
    return log_probs


def logme(features: NDArray[np.float32], labels: Ints) -> float:
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


def _evidence(squares: Floats, along: Floats, across: float, num_images: int, num_features: int) -> float:
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
