"""The gain of averaging several networks' probabilities, estimated without labels.

The gain would be known if the labels' probabilities were. The networks' own probabilities will not do:
overconfident networks gain most from averaging but predict the smallest gain. So these probabilities, the
belief, are tempered, q = belief^b / sum, until the expected loss of single networks under q equals the
forecast for one network. The loss of the mean under the same q is the expected score; it never exceeds that
of single networks (Jensen's inequality). The belief is half-way, in logarithms, between the networks'
arithmetic and geometric mean: with overconfident networks the first overrates the accuracy of the mean and
the second underrates it.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distracted.metrics import CLIP

Floats = NDArray[np.floating]

_EXPONENTS = np.concatenate([[0.0], np.geomspace(0.02, 32.0, 31)])  # b


@dataclass(frozen=True)
class Bag:
    """Predictions of unlabelled images by several networks (bagging).

    Attributes:
        pooled: Logarithm of the mean of their probabilities, shape (num_test, num_classes).
        single: Mean of their log-probabilities, of the same shape.
        losses: Each image's log loss of single networks and of their mean, for labels drawn from the belief
            tempered with each b; shape (num_exponents, 2, num_test).
    """

    pooled: NDArray[np.float64]
    single: NDArray[np.float64]
    losses: NDArray[np.float64]

    @classmethod
    def of(cls, test: Floats) -> Self:
        """Make a bag from the log-probabilities of each network, shape (num_folds, num_test, num_classes)."""
        clipped = np.maximum(np.asarray(test, dtype=np.float64), math.log(CLIP))
        pooled = np.logaddexp.reduce(clipped, axis=0) - math.log(len(test))
        single = clipped.mean(axis=0)
        belief = (pooled + single) / 2
        belief -= belief.max(axis=1, keepdims=True)
        losses = np.empty((len(_EXPONENTS), 2, len(belief)))
        for row, b in zip(losses, _EXPONENTS, strict=True):
            weights = np.exp(b * belief)
            total = -weights.sum(axis=1)
            row[0] = np.einsum("ij,ij->i", weights, single) / total
            row[1] = np.einsum("ij,ij->i", weights, pooled) / total
        return cls(pooled, single, losses)

    def ratios(self, single: Floats, *, rows: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Expected log loss of the mean, divided by that of single networks on all images.

        Args:
            single: Average log losses of a single network on all images, any shape. Beyond what a b explains,
                the ratio is the nearest b's.
            rows: Some images; the mean's loss is that on these.
        """
        of_single, of_mean = self.losses[::-1].mean(axis=2).T
        of_single = np.maximum.accumulate(of_single)  # it increases, but for rare steps among few images
        of_mean = (
            np.minimum(of_mean, of_single) if rows is None else self.losses[::-1, 1][:, rows].mean(axis=1)
        )
        tiny = np.finfo(np.float64).tiny
        logarithms = np.log(np.maximum(of_single, tiny))
        ratios: NDArray[np.float64] = np.interp(
            np.log(np.maximum(single, tiny)), logarithms, of_mean / np.maximum(of_single, tiny)
        )
        return ratios

    def expected(self, single: float, *, rows: NDArray[np.bool_] | None = None) -> float:
        """Expected log loss of the mean, on some images if `rows` are given.

        Args:
            single: Average log loss of a single network on all images.
        """
        return single * float(self.ratios(np.array(single), rows=rows))
