"""Stacking: a multinomial regression on all runs' log-probabilities."""

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.newton import Vector
from distracted.ensemble.pools import fit_log_linear_pool
from distracted.postprocess.step import Labels, LogProbs, normalised

_RIDGE = 1.0  # on the squared distance of the coefficients from the log-linear pool's
_FLOOR = -15.0  # of a log-probability, so that no single row rules the fit
_MAX_STEPS = 200


def fit_stacking(log_probs: LogProbs, labels: Labels) -> Vector:
    """Coefficients, shape (num_runs * num_classes + 1, num_classes), of either sign; the last row is a bias.

    Each class's score depends on every run's log-probability of every class: the most flexible blender. In
    the log-linear pool it depends on the same class alone. The ridge penalty shrinks the coefficients towards
    that pool, where scikit-learn's shrinks them to zero.
    """
    from scipy.optimize import minimize

    features = _features(log_probs)
    num_classes = log_probs.shape[2]
    targets = np.eye(num_classes)[labels]
    pool = np.kron(fit_log_linear_pool(log_probs, labels)[:, None], np.eye(num_classes))
    start = np.vstack([pool, np.zeros(num_classes)])

    def objective(flat: Vector) -> tuple[float, Vector]:
        coefficients = flat.reshape(start.shape)
        fitted = normalised(features @ coefficients)
        away = coefficients - start
        gradient = features.T @ (np.exp(fitted) - targets) / len(labels) + _RIDGE * away
        value = -(fitted * targets).sum() / len(labels) + _RIDGE / 2 * (away**2).sum()
        return float(value), gradient.ravel()

    result = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _MAX_STEPS})
    coefficients: Vector = result.x.reshape(start.shape)
    return coefficients


def pool_stacked(log_probs: LogProbs, coefficients: Vector) -> NDArray[np.float64]:
    """The regression's log-probabilities, shape (num_images, num_classes)."""
    return normalised(_features(log_probs) @ coefficients)


def _features(log_probs: LogProbs) -> NDArray[np.float64]:
    """Floored log-probabilities side by side, with a column of ones."""
    floored = np.maximum(np.asarray(log_probs, dtype=np.float64), _FLOOR)
    num_runs, num_images, num_classes = floored.shape
    flat = floored.transpose(1, 0, 2).reshape(num_images, num_runs * num_classes)
    return np.hstack([flat, np.ones((num_images, 1))])
