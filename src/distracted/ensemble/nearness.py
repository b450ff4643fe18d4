"""Whether smoothing will do on the test set, with its many drivers, what it did on a fold with few."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.members import open_sources, scored_rows
from distracted.ensemble.sources import ScoredRows, held_out_log_probs
from distracted.metrics import log_loss
from distracted.postprocess.methods import any_of
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.smooth import Smoothed
from distracted.postprocess.spaces import ALL_DRIVERS, Space
from distracted.postprocess.step import Subset
from distracted.predictions.store import Store

RANKS = (1, 5, 10, 20, 50)
SHARES = (0.5, 0.25)


@dataclass(frozen=True)
class Distance:
    """Median distance to the k-th neighbour.

    Attributes:
        folds: In the validation folds, the mean over them; test: in the test set; drivers: among all held-out
            rows at once, None where the space is not the same for all folds.
    """

    space: str
    k: int
    folds: float
    test: float
    drivers: float | None


def neighbour_distances(store: Store, spaces: Mapping[str, Space[Neighbours]]) -> list[Distance]:
    """How near neighbours are in the folds and in the test set, in each space."""
    found = []
    folds = range(store.folds.num_folds)
    for name, space in spaces.items():
        drivers = space(ALL_DRIVERS) if ALL_DRIVERS in space.keys else None
        valid, test = [space(Subset(f)) for f in folds], [space(Subset(f, test=True)) for f in folds]
        most = min(part.k for part in (*valid, *test))
        for k in (rank for rank in RANKS if rank <= most):
            of_drivers = None if drivers is None else _median(drivers, k)
            of_folds, of_test = (float(np.mean([_median(p, k) for p in parts])) for parts in (valid, test))
            found.append(Distance(name, k, of_folds, of_test, of_drivers))
    return found


def _median(neighbours: Neighbours, k: int) -> float:
    return float(np.median(neighbours.distances[:, k - 1]))


def sensitivity(
    store: Store, run: str, fitted: Sequence[Smoothed | None], spaces: Mapping[str, Space[Neighbours]]
) -> dict[str, float]:
    """Log loss of a run smoothed by neighbours as fitted, with fewer frames, and with all drivers at once.

    Folds that another way smooths, or none, stay as they were before.

    Args:
        run: What was smoothed.
        fitted: Of each fold.

    Returns:
        By what was done to the neighbours; empty where no fold is smoothed by them.
    """
    if not any(_by_neighbours(found) for found in fitted):
        return {}
    scored = scored_rows(store.folds)
    most = max(found.how.k for found in fitted if found is not None and _by_neighbours(found))
    [parent] = open_sources(store, [store.read_run(run)], scored)
    log_probs, rng = held_out_log_probs(parent, scored), np.random.default_rng(0)
    losses = {
        "none": log_loss(log_probs, scored.labels),
        "as fitted": _score(log_probs, scored, fitted, spaces),
    }
    kept = min(space(Subset(fold)).k for space in spaces.values() for fold in range(scored.num_folds))
    for share in SHARES:
        if most > share * kept / 2:  # too few would be left of those that were found
            continue
        thin = {name: _Thinned(space, share, rng) for name, space in spaces.items()}
        losses[f"a random {share:.0%} of the frames"] = _score(log_probs, scored, fitted, thin)
    if all(ALL_DRIVERS in space.keys for space in spaces.values()):
        losses["drivers of all folds at once"] = _score(log_probs, scored, fitted, spaces, at_once=True)
    return losses


class _Thinned:
    """A space in which only a share of the images may be neighbours."""

    def __init__(self, space: Space[Neighbours], share: float, rng: np.random.Generator) -> None:
        self._space, self._share, self._rng = space, share, rng

    def __call__(self, part: Subset) -> Neighbours:
        return self._space(part).thinned(self._share, self._rng)


def _by_neighbours(found: Smoothed | None) -> bool:
    return found is not None and hasattr(found.how, "k")


def _score(
    log_probs: NDArray[np.float64],
    scored: ScoredRows,
    fitted: Sequence[Smoothed | None],
    spaces: Mapping[str, Any],
    *,
    at_once: bool = False,
) -> float:
    smoothed = np.empty_like(log_probs)
    for fold, found in enumerate(fitted):
        rows = scored.folds == fold
        if at_once:
            smoothed[rows] = _smoothed(log_probs, ALL_DRIVERS, found, spaces)[rows]
        else:
            smoothed[rows] = _smoothed(log_probs[rows], Subset(fold), found, spaces)
    return log_loss(smoothed, scored.labels)


def _smoothed(
    log_probs: NDArray[np.floating], part: Subset, found: Smoothed | None, spaces: Mapping[str, Any]
) -> NDArray[np.floating]:
    if found is None or not _by_neighbours(found):
        return log_probs
    method = any_of({"neighbours": spaces}, [found.how])
    ((_, smoothed),) = method.smoothed(log_probs, part, np.array(found.prior), [found.how])
    return smoothed
