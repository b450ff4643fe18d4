"""A weight for each run and class, since a run may be good at some classes only."""

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.newton import Vector
from distracted.ensemble.pools import fit_linear_pool
from distracted.postprocess.step import Labels, LogProbs, normalised

_MAX_LOG_PROB = np.log1p(-1e-15)  # keeps the complement above 0; the competition clips there, too


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


def pool_by_class(log_probs: LogProbs, weights: Vector) -> NDArray[np.float64]:
    """Log of each class's weighted mean of probabilities, normalised, shape (num_images, num_classes)."""
    top = log_probs.max(axis=0)
    total = (weights[:, None, :] * np.exp(log_probs - top)).sum(axis=0)
    with np.errstate(divide="ignore"):  # all runs with weight rule the class out
        scores: NDArray[np.float64] = np.log(total) + top
    return normalised(np.maximum(scores, np.log(np.finfo(np.float64).tiny)))
