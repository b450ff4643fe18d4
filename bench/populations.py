"""Simulated competitions for judging the forecast: rows of log-probabilities, not losses.

A classifier is really trained in every competition, so that subjects depend on each other as they do in
practice: each helps to train the networks that score the others. An image's features are its class's centre,
its subject's shift (one for all classes and one for each class) and noise of its own. A network of fold k
takes the class centres from the subjects of the other folds and sees the features with noise of its own.
Its logits are the (negative half) squared distances to the centres, times a sharpness. Its OOF rows come from
one network, its test rows from all K.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Range = tuple[float, float]

_NUM_FEATURES = 12


@dataclass(frozen=True)
class Population:
    """Competitions of one kind. Ranges are drawn from log-uniformly, once a competition.

    Attributes:
        num_subjects, num_test_subjects: Training and test subjects.
        num_classes, per_class: Classes, and mean number of images of a subject in each.
        separation: Distance between class centres in units of an image's noise.
        shift: Size of a subject's shift in the same units.
        tail: Standard deviation of the logarithm of a subject's factor on its shift.
        outliers: Share of images that look like another class (wrong labels, hidden hands).
        own_noise: Size of each network's own noise.
        sharpness: Factor on the logits; 1 is about calibrated, more is over-confident.
        floor: Probability that a network spreads evenly over the classes: how sure it can get.
        num_folds: Networks, K.
        num_members: Members of a blend (of equal weight); each has noise of its own.
        uneven: Whether the first subject has 40% of the training rows, the others differ in size, too, and a
            quarter of a subject's classes are missing.
    """

    num_subjects: int = 26
    num_test_subjects: int = 52
    num_classes: int = 10
    per_class: float = 2.0
    separation: Range = (5.0, 9.0)
    shift: Range = (0.7, 1.4)
    tail: Range = (0.2, 0.5)
    outliers: Range = (1e-4, 1e-3)
    own_noise: Range = (0.3, 0.6)
    sharpness: Range = (0.7, 2.0)
    floor: Range = (1e-6, 1e-3)
    num_folds: int = 5
    num_members: int = 1
    uneven: bool = False


_GOOD = Population(
    separation=(8.0, 13.0), shift=(0.4, 0.8), tail=(0.3, 0.8), outliers=(5e-4, 4e-3), own_noise=(0.2, 0.6)
)
_HEAVY = Population(separation=(8.0, 11.0), shift=(0.5, 1.0), tail=(0.8, 1.2))

#: Populations by name.
POPULATIONS: Mapping[str, Population] = {
    "nearly perfect, 5": replace(_GOOD, num_subjects=5, num_test_subjects=5),
    "nearly perfect, 13": replace(_GOOD, num_subjects=13, num_test_subjects=13),
    "nearly perfect, 26": _GOOD,
    "nearly perfect, 150": replace(_GOOD, num_subjects=150, num_test_subjects=50, per_class=1.0),
    "heavy-tailed, 26": _HEAVY,
    "heavy-tailed, 150": replace(_HEAVY, num_subjects=150, num_test_subjects=150, per_class=1.0),
    "5 subjects": Population(num_subjects=5, num_test_subjects=8, per_class=6.0),
    "13 subjects": Population(num_subjects=13, num_test_subjects=4, num_classes=6, per_class=10.0),
    "26 subjects": Population(),
    "150 subjects": Population(num_subjects=150, num_test_subjects=75, per_class=1.0),
    "1,500 subjects": Population(num_subjects=1500, num_test_subjects=1500, per_class=0.3),
    "uneven": Population(num_subjects=13, num_test_subjects=6, num_classes=6, per_class=8.0, uneven=True),
    "bag of 10": Population(own_noise=(0.8, 1.6), num_folds=10),
    "one network": Population(num_folds=1),
    "blend": Population(own_noise=(0.6, 1.2), num_members=3),
}


@dataclass(frozen=True)
class Simulated:
    """One competition, as `expect_score` takes it, and the test rows' labels and subjects."""

    oof: Floats
    labels: Ints
    subjects: Ints
    test: Floats
    test_labels: Ints
    test_subjects: Ints


def simulate(population: Population, rng: np.random.Generator) -> Simulated:
    """Draw a competition and let its networks predict it."""
    world = _World.draw(population, rng)
    train = world.images(population.num_subjects, uneven=population.uneven)
    test = world.images(population.num_test_subjects, uneven=False)
    num_parts = max(population.num_folds, 5)  # one network: only the first part's predicts the test set
    folds = rng.permutation(population.num_subjects)[train.subjects] % num_parts
    members = [_predict(population, world, train, test, folds) for _ in range(population.num_members)]
    oof, of_test = (
        logsumexp([member[part] for member in members], axis=0) - np.log(len(members)) for part in (0, 1)
    )
    return Simulated(oof, train.labels, train.subjects, of_test, test.labels, test.subjects)


@dataclass(frozen=True)
class _Images:
    features: Floats
    labels: Ints
    subjects: Ints


@dataclass(frozen=True)
class _World:
    """The settings of one competition."""

    population: Population
    rng: np.random.Generator
    centres: Floats
    shift: float
    tail: float
    outliers: float
    own_noise: float
    sharpness: float
    floor: float

    @classmethod
    def draw(cls, population: Population, rng: np.random.Generator) -> "_World":
        def between(ends: Range) -> float:
            return float(np.exp(rng.uniform(*np.log(ends))))

        centres = rng.normal(size=(population.num_classes, _NUM_FEATURES))
        centres *= between(population.separation) / np.sqrt(2 * _NUM_FEATURES)
        shift, own_noise = between(population.shift), between(population.own_noise)
        return cls(
            population,
            rng,
            centres,
            shift,
            between(population.tail),
            between(population.outliers),
            own_noise,
            between(population.sharpness) / (1 + shift**2 + own_noise**2),
            between(population.floor),
        )

    def images(self, num_subjects: int, *, uneven: bool) -> _Images:
        rng, classes = self.rng, self.population.num_classes
        rate = np.full((num_subjects, classes), self.population.per_class)
        if self.population.uneven:
            rate *= np.exp(0.7 * rng.normal(size=(num_subjects, 1))) * (rng.random(rate.shape) < 0.75)
        if uneven:
            rate[0] = self.population.per_class
            rate[0] *= 2 / 3 * rate[1:].sum() / rate[0].sum()
        counts = rng.poisson(rate)
        counts[np.arange(num_subjects), rng.integers(0, classes, num_subjects)] += 1
        subjects = np.repeat(np.arange(num_subjects), counts.sum(axis=1))
        labels = np.repeat(np.tile(np.arange(classes), num_subjects), counts.ravel())
        factor = self.shift * np.exp(self.tail * rng.normal(size=(num_subjects, 1, 1)))
        of_all, of_class = (rng.normal(size=(num_subjects, num, _NUM_FEATURES)) for num in (1, classes))
        shifts = factor * (of_all + of_class) / np.sqrt(2)
        looks = np.where(
            rng.random(len(labels)) < self.outliers, rng.integers(0, classes, len(labels)), labels
        )
        features = (
            self.centres[looks] + shifts[subjects, labels] + rng.normal(size=(len(labels), _NUM_FEATURES))
        )
        return _Images(features, labels, subjects)


def _predict(
    population: Population, world: _World, train: _Images, test: _Images, folds: Ints
) -> tuple[Floats, Floats]:
    """OOF log-probabilities, and each network's of the test set."""
    rng, of_test = world.rng, []
    oof = np.empty((len(train.labels), population.num_classes))
    for fold in range(int(folds.max()) + 1):
        valid = folds == fold
        seen = train.features[~valid] + world.own_noise * rng.normal(
            size=(int((~valid).sum()), _NUM_FEATURES)
        )
        centres = np.zeros((population.num_classes, _NUM_FEATURES))
        for label in range(population.num_classes):
            rows = train.labels[~valid] == label
            centres[label] = (seen[rows].sum(axis=0)) / max(int(rows.sum()), 1)
        oof[valid] = _log_probs(world, train.features[valid], centres)
        if fold < population.num_folds:
            of_test.append(_log_probs(world, test.features, centres))
    return oof, np.stack(of_test)


def _log_probs(world: _World, features: Floats, centres: Floats) -> Floats:
    noisy = features + world.own_noise * world.rng.normal(size=features.shape)
    distances = ((noisy[:, None] - centres) ** 2).sum(axis=2)
    log_probs = log_softmax(-world.sharpness / 2 * distances, axis=1)
    floor = np.log(world.floor / log_probs.shape[1])
    saturated: Floats = np.logaddexp(log_probs + np.log1p(-world.floor), floor)
    return saturated
