"""Does smoothing help as much on a test set of many drivers as in a fold of few?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distracted.ensemble.members import open_sources, scored_rows
from distracted.metrics import log_loss
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.smooth import Smoothing
from distracted.postprocess.spaces import ALL_DRIVERS, Space
from distracted.postprocess.step import Subset
from distracted.predictions.store import Store

RANKS = (1, 5, 10, 20, 50)
SHARES = (0.5, 0.25)


@dataclass(frozen=True)
class Distance:
    """Median distance to the k-th neighbour.

    Attributes:
        folds: Mean over the folds; test: in the test set.
        drivers: Among all held-out rows at once; None if each fold has a feature space of its own.
    """

    space: str
    k: int
    folds: float
    test: float
    drivers: float | None


def neighbour_distances(store: Store, spaces: Mapping[str, Space]) -> list[Distance]:
    """How near neighbours are in the folds and in the test set, in each space."""
    distances = []
    for name, space in spaces.items():
        drivers = space.get(Neighbours, ALL_DRIVERS) if _has_all_drivers(space) else None
        valid, test = (
            [space.get(Neighbours, Subset(fold, test)) for fold in range(store.folds.num_folds)]
            for test in (False, True)
        )
        most = min(subset.k for subset in (*valid, *test))
        for k in (rank for rank in RANKS if rank <= most):
            in_folds, in_test = (float(np.mean([_median(n, k) for n in part])) for part in (valid, test))
            at_once = None if drivers is None else _median(drivers, k)
            distances.append(Distance(name, k, in_folds, in_test, at_once))
    return distances


def _has_all_drivers(space: Space) -> bool:
    return ALL_DRIVERS in space.keys[Neighbours.kind]


def _median(neighbours: Neighbours, k: int) -> float:
    return float(np.median(neighbours.distances[:, k - 1]))


def sensitivity(
    store: Store, run: str, fits: Sequence[Smoothing | None], spaces: Mapping[str, Space]
) -> dict[str, float]:
    """Log loss of a run smoothed as fitted, with a share of the frames, and with all drivers at once.

    Folds that are not smoothed by neighbours keep the run's predictions.

    Args:
        run: The run before smoothing.
        fits: One for each fold.

    Returns:
        Log losses by the change to the neighbours; empty if no fold is smoothed by neighbours.
    """
    methods = [fitted.how for fitted in fits if fitted is not None and fitted.how.index is Neighbours]
    if not methods:
        return {}
    most = max(method.k for method in methods)  # type: ignore[attr-defined]  # all with neighbours have k
    scored, rng = scored_rows(store), np.random.default_rng(0)
    [parent] = open_sources(store, [store.read_run(run)])
    log_probs = parent.held_out_log_probs()

    def loss(*, share: float = 1.0, at_once: bool = False) -> float:
        """Log loss if each fold is smoothed as fitted, among its own rows or among those of all folds."""
        smoothed = log_probs.copy()
        for fold, fitted in enumerate(fits):
            if fitted is None or fitted.how.index is not Neighbours:
                continue
            rows = scored.folds == fold
            subset, among = (ALL_DRIVERS, np.ones_like(rows)) if at_once else (Subset(fold), rows)
            near = spaces[fitted.how.space].get(Neighbours, subset)
            near = near if share == 1 else near.thinned(share, rng)
            smoothed[rows] = fitted.how.smooth(log_probs[among], near, np.array(fitted.prior))[rows[among]]
        return log_loss(smoothed, scored.labels)

    losses = {"none": log_loss(log_probs, scored.labels), "as fitted": loss()}
    folds = [Subset(fold) for fold in range(scored.num_folds)]
    kept = min(space.get(Neighbours, fold).k for space in spaces.values() for fold in folds)
    for share in SHARES:
        if most <= share * kept / 2:  # else too few of the stored neighbours would be left
            losses[f"a random {share:.0%} of the frames"] = loss(share=share)
    if all(map(_has_all_drivers, spaces.values())):
        losses["drivers of all folds at once"] = loss(at_once=True)
    return losses
