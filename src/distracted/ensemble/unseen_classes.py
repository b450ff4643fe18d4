"""Classes without a row in a fit keep the probabilities that the networks give them.

A class of a subject that alone shows it is always trained on and never scored. To a fit on the scored rows it
seems never to occur, so whatever sharpens predictions would take its probability away, while the test set may
show it. Such a fit sees the other classes only, and its predictions share what the networks leave to those.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from distracted.postprocess.step import Inputs, LogProbs, Runs, normalised

Occurs = NDArray[np.bool_]  # whether a class has a row, (num_classes,)


def among_occurring(runs: Runs, occurs: Occurs) -> Inputs:
    """Each run's predictions if the other classes did not exist, (num_images, num_occurring)."""
    return Inputs([partial(_among_occurring, runs, number, occurs) for number in range(len(runs))])


def _among_occurring(runs: Runs, number: int, occurs: Occurs) -> LogProbs:
    log_probs = runs[number][:, occurs]
    return normalised(log_probs).astype(log_probs.dtype, copy=False)


def with_unseen(
    log_probs: LogProbs, runs: Runs, occurs: Occurs, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Predictions of the occurring classes, (num_images, num_occurring), together with those of the others.

    Args:
        weights: Weights of the runs in the mean probabilities of the other classes, which sum to 1,
            (num_runs,): those of a linear pool, in which a run counts for little that wastes probability on
            such classes. Runs without weight are not read.

    Returns:
        Shape (num_images, num_classes).
    """
    probs = np.zeros((len(log_probs), len(occurs)))
    for number in np.flatnonzero(weights).tolist():
        probs += weights[number] * np.exp(normalised(runs[number]))
    rest = probs[:, occurs].sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):  # a probability of 0
        whole = np.log(probs)
        whole[:, occurs] = log_probs + np.log(rest)
    return normalised(whole)
