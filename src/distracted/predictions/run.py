"""Stored runs: their manifests, and their predictions in memory, aligned with the competition's rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distracted.predictions.manifest import Kind, Manifest, Parent, as_parent


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A run whose files have been checked; its predictions are read when they are needed.

    Attributes:
        manifests: One for each finished fold.
    """

    name: str
    manifests: tuple[Manifest, ...]

    @property
    def folds(self) -> tuple[int, ...]:
        """The finished folds."""
        return tuple(manifest.fold for manifest in self.manifests)

    @property
    def kind(self) -> Kind:
        return self.manifests[0].kind

    @property
    def leaky(self) -> bool:
        return any(manifest.leaky for manifest in self.manifests)

    @property
    def fitted(self) -> bool:
        return any(manifest.fitted for manifest in self.manifests)

    def as_parent(self) -> Parent:
        return as_parent(self.manifests)


@dataclass(frozen=True, eq=False)
class Run(StoredRun):
    """A run's stored predictions in memory: the test set's are large.

    Attributes:
        oof: Log-probabilities in the order of `Competition.train`, (num_images, num_classes); rows that no
            finished fold holds out are NaN.
        test: Log-probabilities of each fold's network, (num_folds, num_test, num_classes), in the order of
            `folds`.
    """

    oof: NDArray[np.float64]
    test: NDArray[np.float64]

    @property
    def test_log_probs(self) -> NDArray[np.float64]:
        """Log of the arithmetic mean of probabilities over folds, (num_test, num_classes)."""
        mean: NDArray[np.float64] = np.logaddexp.reduce(self.test, axis=0) - np.log(len(self.folds))
        return mean
