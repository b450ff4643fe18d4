"""Classes that no row shows which something is fitted on keep the probabilities that the networks give them.

A class of a subject that alone shows it is always trained on and never scored. The scored rows would say that
it does not occur: whatever sharpens predictions would take its probability away, while the test set may show
it. So a fit sees the other classes only, and what it predicts is divided among them.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from distracted.postprocess.step import Inputs, LogProbs, Runs, normalised

Shown = NDArray[np.bool_]


def among_shown(runs: Runs, shown: Shown) -> Inputs:
    """Each run's predictions if only some classes could occur, (num_images, num_shown).

    Args:
        shown: Whether a class has a row, (num_classes,).
    """
    return Inputs([partial(_among_shown, runs, number, shown) for number in range(len(runs))])


def _among_shown(runs: Runs, number: int, shown: Shown) -> LogProbs:
    return normalised(runs[number][:, shown])


def with_unseen(log_probs: LogProbs, runs: Runs, shown: Shown) -> LogProbs:
    """Predictions of the shown classes, (num_images, num_shown), together with the others as in `runs`.

    Of several runs the others' mean probabilities are taken.

    Returns:
        Shape (num_images, num_classes).
    """
    whole = np.full((len(log_probs), len(shown)), -np.inf)
    rest = np.full(len(log_probs), -np.inf)  # logarithm of the shown classes' share
    for run in runs:
        one = normalised(run)
        whole = np.logaddexp(whole, np.where(shown, -np.inf, one))
        rest = np.logaddexp(rest, np.logaddexp.reduce(one[:, shown], axis=1))
    whole[:, shown] = log_probs + rest[:, None]
    return normalised(whole)
