"""Stacking: a multinomial regression on all runs' log-probabilities."""

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.newton import Vector
from distracted.ensemble.pools import fit_log_linear_pool, row_blocks
from distracted.postprocess.step import Labels, LogProbs, Runs, normalised

_RIDGE = 1.0  # on the squared distance of the coefficients from the log-linear pool's
_FLOOR = -15.0  # of a log-probability, so that no single row rules the fit
_MAX_STEPS = 200


def fit_stacking(log_probs: Runs, labels: Labels) -> Vector:
    """Coefficients, shape (num_runs * num_classes + 1, num_classes), of either sign; the last row is a bias.

    Each class's score depends on every run's log-probability of every class: the most flexible blender. In
    the log-linear pool it depends on the same class alone. The ridge penalty shrinks the coefficients towards
    that pool, where scikit-learn's shrinks them to zero. A class without a row keeps the pool's coefficients,
    and the others are fitted among themselves.
    """
    from scipy.optimize import minimize

    features, num_classes = _features(log_probs), log_probs[0].shape[1]
    blocks = row_blocks(*features.shape)
    occurs = np.bincount(labels, minlength=num_classes) > 0
    targets = np.eye(num_classes)[labels][:, occurs]
    pool = np.kron(fit_log_linear_pool(log_probs, labels)[:, None], np.eye(num_classes))
    everything = np.vstack([pool, np.zeros(num_classes)])
    start = everything[:, occurs]

    def objective(flat: Vector) -> tuple[float, Vector]:
        coefficients = flat.reshape(start.shape)
        loss, gradient = 0.0, np.zeros(start.shape)
        for rows in blocks:
            part = features[rows].astype(np.float64)
            fitted = normalised(part @ coefficients)
            gradient += part.T @ (np.exp(fitted) - targets[rows])
            loss -= float((fitted * targets[rows]).sum())
        away = coefficients - start
        value = loss / len(labels) + _RIDGE / 2 * float((away**2).sum())
        return value, (gradient / len(labels) + _RIDGE * away).ravel()

    result = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _MAX_STEPS})
    everything[:, occurs] = result.x.reshape(start.shape)
    return everything


def pool_stacked(log_probs: Runs, coefficients: Vector) -> NDArray[np.float64]:
    """The regression's log-probabilities, shape (num_images, num_classes)."""
    *of_runs, bias = np.split(coefficients, range(0, len(coefficients), coefficients.shape[1])[1:])
    scores = bias.astype(np.float64)
    for member, of_run in zip(log_probs, of_runs, strict=True):
        scores = scores + np.maximum(np.asarray(member, dtype=np.float64), _FLOOR) @ of_run
    return normalised(scores)


def _features(log_probs: Runs) -> LogProbs:
    """Floored log-probabilities side by side, with a column of ones."""
    num_images, num_classes = log_probs[0].shape
    kind = np.result_type(*(member.dtype for member in log_probs))  # float32 for stored predictions
    features = np.ones((num_images, len(log_probs) * num_classes + 1), dtype=kind)
    for number, member in enumerate(log_probs):
        features[:, number * num_classes : (number + 1) * num_classes] = np.maximum(member, _FLOOR)
    return features
