"""Diffusion: predictions spread along chains of images that are each other's neighbours."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from distracted.postprocess.neighbour_mean import distance_weights
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.smooth import Prior
from distracted.postprocess.step import LogProbs, Subset, normalised

COUNTS = (5, 10, 20)
BANDWIDTHS = (0.3, None)
SHARES = (0.5, 0.8, 0.95)
_STEPS = 30


@dataclass(frozen=True)
class Spreading:
    """How predictions spread.

    Attributes:
        space, k: Two images are joined where each is among the other's k nearest.
        bandwidth: As in `Averaging`.
        share: Of an image's prediction that comes from those that it is joined to, in the end.
    """

    space: str
    k: int
    bandwidth: float | None
    share: float


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Label spreading of Zhou et al. (NIPS 2003), from every image's own prediction instead of from labels.

    Attributes:
        spaces: Of each space by name the neighbours in a part.
    """

    spaces: Mapping[str, Callable[[Subset], Neighbours]]
    candidates: Sequence[Spreading]
    uses_prior: ClassVar[bool] = False

    def smoothed(
        self, log_probs: LogProbs, part: Subset, prior: Prior, candidates: Sequence[Spreading]
    ) -> Iterator[tuple[Spreading, NDArray[np.float64]]]:
        for candidate in candidates:
            yield candidate, spread(log_probs, self.spaces[candidate.space](part), candidate)


def spreadings(spaces: Sequence[str], *, most: int) -> list[Spreading]:
    """All settings in some spaces with at most so many neighbours."""
    counts = [k for k in COUNTS if k <= most]
    return [Spreading(*values) for values in product(spaces, counts, BANDWIDTHS, SHARES)]


def spread(log_probs: LogProbs, neighbours: Neighbours, how: Spreading) -> NDArray[np.float64]:
    """Log-probabilities after spreading, (num_images, num_classes).

    P = (1 - share) (I - share S)^-1 P0 with the rows of S summing to 1, by fixed-point steps. An image that
    is joined to none keeps its prediction.
    """
    own: NDArray[np.float64] = np.exp(log_probs, dtype=np.float64)
    joined = _mutual(neighbours, how)
    sums = joined.sum(axis=1)
    alone = sums == 0
    scale = np.where(alone, 0, how.share / np.where(alone, 1, sums))[:, None]
    kept = np.where(alone, 1, 1 - how.share)[:, None]
    probs = own
    for _ in range(_STEPS):
        probs = scale * (joined @ probs) + kept * own
    return normalised(np.log(np.maximum(probs, np.finfo(np.float64).tiny)))


def _mutual(neighbours: Neighbours, how: Spreading) -> csr_array:
    """Weights between images that are each other's neighbours, (num_images, num_images)."""
    num = len(neighbours.indices)
    weights = distance_weights(neighbours.distances[:, : how.k], how.bandwidth)
    indptr = np.arange(0, num * how.k + 1, how.k)
    nearest = csr_array((weights.ravel(), neighbours.indices[:, : how.k].ravel(), indptr), shape=(num, num))
    return nearest.minimum(nearest.T)
