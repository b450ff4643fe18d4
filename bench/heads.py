"""Small competitions for measurements: features of labelled people, and logistic heads as runs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import console
from distracted.config import load_config
from distracted.data.competition import load_competition
from distracted.data.picture_sets import Images
from distracted.data.split import split_by_subject
from distracted.ensemble.sources import ScoredRows
from distracted.models.linear import fit_logistic, linear_log_probs
from distracted.models.network import build_network
from distracted.training.feed import Feed
from distracted.training.resolve import Resolved, resolve

NUM_FOLDS = 5

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class People:
    """Features of images, shape (num_images, num_features), their labels and subjects."""

    features: NDArray[np.float32]
    labels: Ints
    subjects: Ints

    def of(self, subjects: Ints) -> "People":
        """The images of some subjects, which are renumbered from 0."""
        rows = np.isin(self.subjects, subjects)
        ids = np.unique(self.subjects[rows], return_inverse=True)[1].astype(np.int64)
        return People(self.features[rows], self.labels[rows], ids)


def resolve_features(data: str, size: int) -> Resolved:
    """Resolve EfficientNet-Lite0's frozen features at `size` pixels a side."""
    settings = [f"model.image_size={size}", "recipe=features"]
    settings += ["runtime.tracking=none", "runtime.num_workers=0"]
    config = load_config(model="efficientnet_lite0", data=data, overrides=settings)
    return resolve(config, num_folds=NUM_FOLDS)


def labelled_people(data: str, root: Path, size: int) -> People:
    """Features, labels and subjects of a competition's training images."""
    resolved = resolve_features(data, size)
    competition = load_competition(resolved.config.data, cache=root / "cache", progress=console.progress)
    network = build_network(resolved.config.model, resolved.weights, num_classes=competition.num_classes)
    features = Feed(resolved, root / "cache", console.progress).features(
        network, Images.to_train(competition)
    )
    subjects = np.unique(competition.train["subject"].to_numpy(str), return_inverse=True)[1]
    labels = competition.train["label"].to_numpy(np.int64)
    return People(np.array(features), labels, subjects.astype(np.int64))


def fold_people(people: People) -> ScoredRows:
    """Folds by subject."""
    folds = split_by_subject(people.labels, people.subjects, NUM_FOLDS)
    assert folds is not None
    return ScoredRows(people.labels, folds, people.subjects)


def some_columns(num_features: int, taken: int | None, rng: np.random.Generator) -> Ints:
    """Random columns for a run; None takes all."""
    return np.arange(num_features) if taken is None else rng.choice(num_features, taken, replace=False)


def fit_heads(
    people: People, others: People, scored: ScoredRows, columns: Ints, *, c: float, max_iter: int
) -> tuple[Floats, Floats]:
    """Fit a run of logistic heads.

    Returns:
        Out-of-fold log-probabilities, (num_images, num_classes), and each fold's log-probabilities of the
        others, (num_folds, num_others, num_classes).
    """
    oof, of_others = np.empty((len(people.labels), int(people.labels.max()) + 1)), []
    for fold in range(NUM_FOLDS):
        valid = scored.folds == fold
        seen = people.features[:, columns]
        fit = fit_logistic(seen[~valid], people.labels[~valid], c=c, max_iter=max_iter)
        oof[valid] = linear_log_probs(seen[valid], *fit)
        of_others.append(linear_log_probs(others.features[:, columns], *fit))
    return oof, np.stack(of_others)
