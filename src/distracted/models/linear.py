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
