"""Greedy selection: runs are added to a bag one at a time, with repeats, while their mean improves."""

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.newton import Vector
from distracted.postprocess.step import Labels, LogProbs

_STEPS = 30
_BAGS = 10
_SMALLEST_BAG = 5


def fit_greedy_selection(log_probs: LogProbs, labels: Labels) -> Vector:
    """Weights of an arithmetic blend, as shares of greedy picks with replacement, shape (num_runs,).

    Ensemble selection of Caruana et al. (ICML 2004): each step adds the run that lowers the log loss of the
    mean most, and the best prefix of the steps is kept. This is repeated on several random halves of the
    runs, and their weights are averaged, so that a lucky run is not picked everywhere.
    """
    true = np.asarray(log_probs[:, np.arange(len(labels)), labels], dtype=np.float64)
    likelihoods = np.exp(true - true.max(axis=0))  # a row's factor does not move the order
    num_runs = len(likelihoods)
    size = min(num_runs, max(_SMALLEST_BAG, num_runs // 2))
    rng = np.random.default_rng(0)
    bags = [rng.permutation(num_runs)[:size] for _ in range(_BAGS if size < num_runs else 1)]
    counts = np.zeros(num_runs)
    for bag in bags:
        picked = bag[_picks(likelihoods[bag])]
        counts += np.bincount(picked, minlength=num_runs) / len(picked)
    return counts / len(bags)


def _picks(likelihoods: NDArray[np.float64]) -> list[int]:
    """Positions of the runs that are picked, in order, up to where their mean was best."""
    total = np.zeros(likelihoods.shape[1])
    picks: list[int] = []
    best, length = -np.inf, 1
    for number in range(1, _STEPS + 1):
        with np.errstate(divide="ignore"):  # a run that gives the true class nothing at all
            gains = np.log(likelihoods + total).mean(axis=1)
        run = int(gains.argmax())
        picks.append(run)
        total += likelihoods[run]
        if gains[run] - np.log(number) > best:
            best, length = gains[run] - np.log(number), number
    return picks[:length]
