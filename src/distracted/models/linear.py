"""Multinomial logistic regression on features."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]


def fit_logistic(
    features: NDArray[np.float32], labels: NDArray[np.int64], *, c: float, max_iter: int
) -> tuple[Floats, Floats]:
    """Fit on centred and scaled features, both folded into the result.

    One scale for all features, not one for each: what hardly ever fires would be blown up by its own, and the
    regression would be sure of nonsense as soon as a picture is augmented.

    Args:
        features: Shape (num_images, num_features).
        labels: Class ids, each class present, shape (num_images,).
        c: scikit-learn's inverse strength of the L2 penalty, features scaled to unit variance.

    Returns:
        Weight, shape (num_classes, num_features), and bias, shape (num_classes,), of the features as given.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scale = max(float(np.sqrt(features.var(axis=0, dtype=np.float64).mean())), 1e-12)
    model = LogisticRegression(C=c, max_iter=max_iter)
    # One thread of BLAS: its products are small, and threads that wait for the next one hold up all else.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a starting point need not be the optimum
        model.fit((features - mean) / scale, labels)
    weight = model.coef_ / scale
    bias = model.intercept_ - weight @ mean
    if len(weight) == 1:  # two classes: scikit-learn keeps the difference of their logits
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def linear_log_probs(features: NDArray[np.float32], weight: Floats, bias: Floats) -> Floats:
    """Natural log-probabilities, shape (num_images, num_classes), by `fit_logistic`'s result."""
    log_probs: Floats = log_softmax(features @ weight.T + bias, axis=1)
    return log_probs
