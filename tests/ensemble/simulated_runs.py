"""Out-of-fold predictions of runs that never were: they share errors, by subject and by row, and add their
own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from distracted.ensemble.sources import ScoredRows, StoredSource

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Simulated:
    """Runs (num_runs, num_images, num_classes) and each image's label, fold and subject, (num_images,)."""

    log_probs: Floats
    labels: Ints
    folds: Ints
    subjects: Ints

    def sources(self) -> list[StoredSource]:
        """The runs as members of a blend; every other row also stands for the test set."""
        scored, num_folds = ScoredRows(self.labels, self.folds, self.subjects), int(self.folds.max()) + 1
        tests = [rows[None, ::2].repeat(num_folds, 0) for rows in self.log_probs]
        names = [f"run {number}" for number in range(len(tests))]
        return [
            StoredSource(*run, scored, test) for *run, test in zip(names, self.log_probs, tests, strict=True)
        ]


def simulate(
    num_runs: int,
    *,
    num_images: int = 600,
    num_classes: int = 5,
    num_subjects: int = 13,
    num_folds: int = 5,
    skill: float = 3.0,
    seed: int = 0,
) -> Simulated:
    """Runs of differing skill and sharpness over folds by subject."""
    rng = np.random.default_rng(seed)
    subjects = np.arange(num_images) * num_subjects // num_images
    labels = rng.integers(0, num_classes, num_images)
    shared = rng.normal(size=(num_subjects, num_classes))[subjects]
    shared += rng.normal(size=(num_images, num_classes))
    own = rng.normal(size=(num_runs, num_images, num_classes))
    signal = rng.uniform(0.7, 1.3, size=(num_runs, 1, 1)) * skill * np.eye(num_classes)[labels]
    sharpness = rng.uniform(0.5, 2.0, size=(num_runs, 1, 1))
    log_probs = log_softmax(sharpness * (signal + shared + own), axis=2)
    return Simulated(log_probs, labels, subjects % num_folds, subjects)


def useless_runs(num_runs: int, like: Simulated, *, seed: int = 0) -> Floats:
    """Runs that know nothing: almost uniform, with a little noise."""
    noise = np.random.default_rng(seed).normal(size=(num_runs, *like.log_probs.shape[1:]))
    return log_softmax(0.1 * noise, axis=2)
