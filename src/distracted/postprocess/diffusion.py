"""Diffusion: predictions spread along chains of images that are each other's neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distracted.postprocess.method import Method, Prior
from distracted.postprocess.neighbour_mean import distance_weights
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.step import LogProbs, normalised

if TYPE_CHECKING:
    from scipy.sparse import csr_array

COUNTS = (5, 10, 20)
BANDWIDTHS = (0.3, None)
SHARES = (0.5, 0.8, 0.95)
_STEPS = 30


@dataclass(frozen=True)
class Diffusion(Method):
    """Label spreading of Zhou et al. (NIPS 2003), from every image's own prediction instead of from labels.

    Attributes:
        k: Two images are linked if each is among the other's k nearest.
        bandwidth: As in `NeighbourMean`.
        share: Share of a prediction that finally comes from the linked images.
    """

    space: str
    k: int
    bandwidth: float | None
    share: float
    name: ClassVar[str] = "diffusion"
    index: ClassVar[type[Neighbours]] = Neighbours
    example: ClassVar[str] = "k=10 bandwidth=0.3 share=0.8"

    @classmethod
    def candidates(cls, spaces: Sequence[str], limits: Mapping[str, int]) -> list[Self]:
        counts = [k for k in COUNTS if k <= limits["k"]]
        return [cls(*values) for values in product(spaces, counts, BANDWIDTHS, SHARES)]

    def smooth(self, log_probs: LogProbs, index: Neighbours, prior: Prior) -> LogProbs:
        """Log-probabilities after spreading, (num_images, num_classes).

        P = (1 - share) (I - share S)^-1 P0 with the rows of S summing to 1, by fixed-point steps. An image
        without links keeps its prediction.
        """
        own: NDArray[np.float64] = np.exp(log_probs, dtype=np.float64)
        links = self._links(index)
        sums = links.sum(axis=1)
        alone = sums == 0
        scale = np.where(alone, 0, self.share / np.where(alone, 1, sums))[:, None]
        kept = np.where(alone, 1, 1 - self.share)[:, None]
        probs = own
        for _ in range(_STEPS):
            probs = scale * (links @ probs) + kept * own
        return normalised(np.log(np.maximum(probs, np.finfo(np.float64).tiny)))

    def _links(self, neighbours: Neighbours) -> "csr_array":
        """Weights between images that are each other's neighbours, (num_images, num_images)."""
        from scipy.sparse import csr_array

        num = len(neighbours.indices)
        weights = distance_weights(neighbours.distances[:, : self.k], self.bandwidth)
        indptr = np.arange(0, num * self.k + 1, self.k)
        columns = neighbours.indices[:, : self.k].ravel()
        nearest = csr_array((weights.ravel(), columns, indptr), shape=(num, num))
        return nearest.minimum(nearest.T)
