"""Neighbour smoothing: a prediction becomes the weighted mean of its own and its neighbours'."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.smooth import Prior
from distracted.postprocess.step import LogProbs, Subset, normalised

COUNTS = (1, 2, 5, 10, 20, 50)
BANDWIDTHS = (0.15, 0.3, 0.6, None)
MEANS = ("arithmetic", "geometric")
_ROWS = 4096  # smoothed at a time


@dataclass(frozen=True)
class Averaging:
    """How neighbours are averaged.

    Attributes:
        space: Where they are looked for.
        mean: Of probabilities (arithmetic) or of their logarithms (geometric).
        bandwidth: In the space's distances: at d a neighbour counts exp(-(d / bandwidth)^2 / 2) times as much
            as the image itself; None: as much, however far it is.
        k: How many there are.
    """

    space: str
    mean: str
    bandwidth: float | None
    k: int


@dataclass(frozen=True, eq=False)
class NeighbourMean:
    """The weighted mean over nearest neighbours, in one of several spaces.

    Attributes:
        spaces: Of each space by name the neighbours in a part.
    """

    spaces: Mapping[str, Callable[[Subset], Neighbours]]
    candidates: Sequence[Averaging]
    uses_prior: ClassVar[bool] = False

    def smoothed(
        self, log_probs: LogProbs, part: Subset, prior: Prior, candidates: Sequence[Averaging]
    ) -> Iterator[tuple[Averaging, NDArray[np.float64]]]:
        for (space, mean, bandwidth), family in groupby(candidates, lambda c: (c.space, c.mean, c.bandwidth)):
            by_count = sorted(family, key=lambda candidate: candidate.k)
            counts = [candidate.k for candidate in by_count]
            found = neighbour_means(log_probs, self.spaces[space](part), mean, bandwidth, counts)
            yield from zip(by_count, found, strict=True)


def averagings(spaces: Sequence[str], *, most: int) -> list[Averaging]:
    """All settings in some spaces with at most so many neighbours."""
    counts = [k for k in COUNTS if k <= most]
    return [Averaging(*values) for values in product(spaces, MEANS, BANDWIDTHS, counts)]


def neighbour_means(
    log_probs: LogProbs, neighbours: Neighbours, mean: str, bandwidth: float | None, counts: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Smoothed log-probabilities, (num_images, num_classes), for each of several ascending counts."""
    values = np.exp(log_probs) if mean == "arithmetic" else np.asarray(log_probs, dtype=np.float64)
    found = [np.empty(log_probs.shape) for _ in counts]
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        indices = neighbours.indices[rows, : counts[-1]]
        weights = distance_weights(neighbours.distances[rows, : counts[-1]], bandwidth)
        total, weight = values[rows].copy(), np.ones((len(indices), 1))  # the image itself
        for number, (done, count) in enumerate(zip([0, *counts], counts, strict=False)):
            more = slice(done, count)
            total += np.einsum("nk,nkc->nc", weights[:, more], values[indices[:, more]])
            weight += weights[:, more].sum(axis=1, keepdims=True)
            averaged = total / weight
            if mean == "arithmetic":
                averaged = np.log(np.maximum(averaged, np.finfo(np.float64).tiny))
            found[number][rows] = normalised(averaged)
    return found


def distance_weights(distances: NDArray[np.float32], bandwidth: float | None) -> NDArray[np.float64]:
    """How much neighbours count beside the image itself; nothing at an infinite distance."""
    if bandwidth is None:
        return np.isfinite(distances).astype(np.float64)
    weights: NDArray[np.float64] = np.exp(-((distances.astype(np.float64) / bandwidth) ** 2) / 2)
    return weights
