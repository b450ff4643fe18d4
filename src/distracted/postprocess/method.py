"""The base class of ways to smooth."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distracted.postprocess.spaces import Index
from distracted.postprocess.step import LogProbs

Prior = NDArray[np.float64]


class Method(ABC):
    """A way to smooth, with its settings.

    To add one: one module with a subclass, a frozen dataclass whose fields are the settings (`space` first),
    and one line in `smooth.METHODS`.

    Attributes:
        name: In METHODS= and in manifests.
        index: What it reads of a feature space.
        uses_prior: Whether it reads the class shares, which come from labels.
        example: Settings as HOW= takes them, without the space.
        space: Name of the feature space.
    """

    name: ClassVar[str]
    index: ClassVar[type[Index]]
    uses_prior: ClassVar[bool] = False
    example: ClassVar[str]
    space: str

    @classmethod
    @abstractmethod
    def candidates(cls, spaces: Sequence[str], limits: Mapping[str, int]) -> list[Self]:
        """All settings to choose among; `limits` holds the largest value of a field by its name."""

    @abstractmethod
    def smooth(self, log_probs: LogProbs, index: Any, prior: Prior) -> LogProbs:
        """Smoothed log-probabilities of a subset, (num_images, num_classes).

        Args:
            index: Its neighbours or clusters, of the type `self.index`.
            prior: From `class_shares`.
        """

    @classmethod
    def smooth_all(
        cls, candidates: Sequence[Self], log_probs: LogProbs, index: Any, prior: Prior
    ) -> Iterator[tuple[Self, LogProbs]]:
        """As `smooth` by each of several candidates of one space, in any order."""
        for candidate in candidates:
            yield candidate, candidate.smooth(log_probs, index, prior)
