"""Neighbour smoothing: a prediction becomes the weighted mean of its own and its neighbours'."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distracted.postprocess.method import Method, Prior
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.step import LogProbs, normalised

COUNTS = (1, 2, 5, 10, 20, 50)
BANDWIDTHS = (0.15, 0.3, 0.6, None)
MEANS = ("arithmetic", "geometric")
_ROWS = 4096  # smoothed at a time


@dataclass(frozen=True)
class NeighbourMean(Method):
    """The weighted mean of an image's own prediction and those of its nearest neighbours.

    Attributes:
        mean: arithmetic (of probabilities) or geometric (of their logarithms).
        bandwidth: A neighbour at distance d has exp(-(d / bandwidth)^2 / 2) times the image's own weight;
            None: the same weight at any distance.
        k: Number of neighbours.
    """

    space: str
    mean: str
    bandwidth: float | None
    k: int
    name: ClassVar[str] = "neighbours"
    index: ClassVar[type[Neighbours]] = Neighbours
    example: ClassVar[str] = "mean=arithmetic bandwidth=0.3 k=10"

    @classmethod
    def candidates(cls, spaces: Sequence[str], limits: Mapping[str, int]) -> list[Self]:
        counts = [k for k in COUNTS if k <= limits["k"]]
        return [cls(*values) for values in product(spaces, MEANS, BANDWIDTHS, counts)]

    def smooth(self, log_probs: LogProbs, index: Neighbours, prior: Prior) -> LogProbs:
        (smoothed,) = neighbour_means(log_probs, index, self.mean, self.bandwidth, [self.k])
        return smoothed

    @classmethod
    def smooth_all(
        cls, candidates: Sequence[Self], log_probs: LogProbs, index: Neighbours, prior: Prior
    ) -> Iterator[tuple[Self, LogProbs]]:
        """Candidates that differ only in `k` share their sums."""
        for (mean, bandwidth), group in groupby(candidates, lambda one: (one.mean, one.bandwidth)):
            by_count = sorted(group, key=lambda candidate: candidate.k)
            counts = [candidate.k for candidate in by_count]
            smoothed = neighbour_means(log_probs, index, mean, bandwidth, counts)
            yield from zip(by_count, smoothed, strict=True)


def neighbour_means(
    log_probs: LogProbs, neighbours: Neighbours, mean: str, bandwidth: float | None, counts: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Smoothed log-probabilities, (num_images, num_classes), for each of several ascending counts."""
    values = np.exp(log_probs) if mean == "arithmetic" else np.asarray(log_probs, dtype=np.float64)
    smoothed = [np.empty(log_probs.shape) for _ in counts]
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
            smoothed[number][rows] = normalised(averaged)
    return smoothed


def distance_weights(distances: NDArray[np.float32], bandwidth: float | None) -> NDArray[np.float64]:
    """Weights of neighbours, where the image itself has weight 1; zero at an infinite distance."""
    if bandwidth is None:
        return np.isfinite(distances).astype(np.float64)
    weights: NDArray[np.float64] = np.exp(-((distances.astype(np.float64) / bandwidth) ** 2) / 2)
    return weights
