"""Smoothing: images that lie near each other in a feature space are predicted together.

Neighbours and clusters are of images of the same part: of an out-of-fold row they are rows of its fold, of a
test image test images, as in the solutions of the 1st and 3rd place of State Farm. Labels and subjects of the
rows that are smoothed are never read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from distracted.metrics import log_losses, prior_log_probs
from distracted.postprocess.step import Examples, LogProbs, Subset

Prior = NDArray[np.float64]


class Method(Protocol):
    """A way to smooth, with its settings.

    A candidate is a frozen dataclass of settings.
    """

    @property
    def candidates(self) -> Sequence[Any]: ...

    @property
    def uses_prior(self) -> bool: ...

    def smoothed(
        self, log_probs: LogProbs, part: Subset, prior: Prior, candidates: Sequence[Any]
    ) -> Iterator[tuple[Any, NDArray[np.float64]]]:
        """A part's predictions as each candidate smooths them, in any order; (num_images, num_classes).

        Args:
            prior: Class shares, (num_classes,).
        """


@dataclass(frozen=True)
class Smoothed:
    """What was fitted.

    Attributes:
        how: The settings that were best.
        prior: Class shares of the labels that were fitted on.
    """

    how: Any
    prior: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Smooth:
    """Predictions smoothed by the method's settings that were best on the out-of-fold rows.

    Attributes:
        fixed: The first candidate it is, whatever the labels say.
    """

    method: Method
    fixed: bool = False
    name: str = "smooth"
    min_folds: ClassVar[int] = 1

    @property
    def reads_labels(self) -> bool:
        """Whether anything is fitted on out-of-fold rows."""
        return not self.fixed or self.method.uses_prior

    def learn(self, examples: Examples) -> Smoothed:
        (log_probs,), labels = examples.log_probs, examples.labels
        prior = np.exp(prior_log_probs(labels, log_probs.shape[1]))
        candidates = self.method.candidates
        how = candidates[0] if self.fixed else self._best(log_probs, examples, prior)
        return Smoothed(how, tuple(prior.tolist()))

    def apply(self, fitted: Smoothed, log_probs: LogProbs, part: Subset) -> NDArray[np.float64]:
        (plain,) = log_probs
        ((_, found),) = self.method.smoothed(plain, part, np.array(fitted.prior), [fitted.how])
        return found

    def _best(self, log_probs: LogProbs, examples: Examples, prior: Prior) -> Any:
        labels, candidates = examples.labels, self.method.candidates
        losses = {candidate: np.empty(len(labels)) for candidate in candidates}
        for part, rows in examples.parts():
            for candidate, found in self.method.smoothed(log_probs[rows], part, prior, candidates):
                losses[candidate][rows] = log_losses(found, labels[rows])
        return min(losses, key=lambda candidate: float(losses[candidate].mean()))
