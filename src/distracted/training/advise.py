"""`make advise`: which backbone, recipe and settings suit a data set, by measurement.

The textbook's four cases depend on two things. The size of the data is counted: images, subjects, images a
class. Its similarity to ImageNet is measured: how well a backbone's frozen features tell the classes apart
on subjects that the probe has not seen. The same probe measures settings of the best backbone.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distracted.data.competition import Competition
from distracted.data.folds import Folds
from distracted.data.picture_sets import Images
from distracted.errors import ConfigError
from distracted.metrics import accuracy, difference_and_error, prior_log_loss
from distracted.models.linear import logme
from distracted.progress import Progress, silent
from distracted.training.advise_settings import Probed, Setting, measure_settings
from distracted.training.feed import pretrained_features
from distracted.training.resolve import Resolved

_log = logging.getLogger(__name__)

# Conventions, not measurements: the textbook draws no lines either.
#: Images a class from which data counts as large: ImageNet has 1,300.
LARGE = 1000
#: Skill of the best probe from which data counts as similar to ImageNet.
SIMILAR = 0.7
#: Skill from which little is left to win by training the backbone.
SOLVED = 0.98


@dataclass(frozen=True)
class Size:
    """How much data there is to train on."""

    images: int
    subjects: int
    images_a_class: int  # of the rarest class


@dataclass(frozen=True)
class Measured:
    """The score of one backbone's frozen features.

    Attributes:
        log_loss, accuracy: Scores of the cross-fitted probe.
        above: Difference of its log loss to the best backbone's, with its standard `error` over subjects.
        logme: Log evidence per image (LogME); higher is better.
        skill: 1 - log loss / log loss of the class prior; 0 is chance, 1 perfection.
        seconds: Time to compute the features, or to load them from the cache.
    """

    model: str
    origin: str
    image_size: int
    num_features: int
    log_loss: float
    accuracy: float
    above: float
    error: float
    logme: float
    skill: float
    seconds: float


@dataclass(frozen=True)
class Case:
    """One of the textbook's four cases: its advice, and this project's recipe."""

    name: str
    textbook: str
    recipe: str
    why: str


#: (large, similar) to the textbook's case. The recipes for small data are those that did best at equal time
#: on a data set of that case (docs/evidence_transfer.md), which is not always what the textbook says; large
#: data has not been measured.
CASES = {
    (False, True): Case(
        "small and similar to ImageNet",
        textbook="train a head on frozen features and leave the base alone",
        recipe="fine_tune",
        why="a fitted head, then the top blocks at a low rate, takes most of the loss that the head leaves",
    ),
    (False, False): Case(
        "small and unlike ImageNet",
        textbook="freeze the first layers and train the rest",
        recipe="freeze_first_k",
        why="edges and colours are the same everywhere; the layers above the first ten adapt",
    ),
    (True, True): Case(
        "large and similar to ImageNet",
        textbook="start from the weights and train everything",
        recipe="full",
        why="there is data enough for every layer, and the weights are the best start",
    ),
    (True, False): Case(
        "large and unlike ImageNet",
        textbook="train from scratch",
        recipe="full",
        why="pretrained weights cost nothing; training from scratch takes many times the epochs",
    ),
}
SOLVED_CASE = Case(
    "solved by frozen features",
    textbook="train a head on frozen features and leave the base alone",
    recipe="features",
    why="little loss is left to win by training the base",
)


@dataclass(frozen=True)
class Advice:
    """The measurements, best backbone first, and the case that they make, with its recipe.

    Attributes:
        settings: Measured with the best backbone, each alone.
        chance: Accuracy of always predicting the majority class.
        prior: Log loss of the class shares.
    """

    size: Size
    chance: float
    prior: float
    measured: tuple[Measured, ...]
    settings: tuple[Setting, ...]
    case: Case

    @property
    def model(self) -> str:
        return self.measured[0].model

    @property
    def overrides(self) -> list[str]:
        """The recipe and the settings that pay, as SET= takes them."""
        paying = [override for setting in self.settings if setting.pays for override in setting.overrides]
        if self.case is SOLVED_CASE:  # a regression does not draw its images
            paying = [override for override in paying if override.startswith("model.")]
        return [f"recipe={self.case.recipe}", *paying]

    @property
    def views(self) -> list[str]:
        """Views that pay, as VIEWS= of `make tta` takes them."""
        return [setting.views for setting in self.settings if setting.pays and setting.views]


def advise(
    resolved: Mapping[str, Resolved],
    *,
    competition: Competition,
    folds: Folds,
    cache: Path,
    progress: Progress = silent,
) -> Advice:
    """Measure backbones on a data set and advise a recipe.

    Args:
        resolved: Resolved configs by model; those with random weights are left out.
        cache: The data set's cache folder.

    Raises:
        ConfigError: none of the backbones has pretrained weights.
        ImageError: an image cannot be read.
    """
    labels = folds.labels
    counts = np.bincount(labels, minlength=competition.num_classes)
    size = Size(len(labels), competition.num_subjects, int(counts.min()))
    prior = prior_log_loss(labels, folds.ids, competition.num_classes)
    images = Images.to_train(competition)
    results: list[tuple[Measured, Probed]] = []
    for model, config in resolved.items():
        if not config.weights.pretrained:
            _log.warning("%s: left out, it has no pretrained weights here", model)
            continue
        start = time.perf_counter()
        [features] = pretrained_features(config, [images], cache, progress)
        results.append(_measure(model, config, features, folds, prior, time.perf_counter() - start))
    if not results:
        raise ConfigError(
            f"MODELS: none of {', '.join(resolved)} has pretrained weights here; with random ones there is "
            "nothing to transfer (recipe=scratch), or SET='model.weights=<file>' gives some"
        )
    results.sort(key=lambda result: result[0].log_loss)
    measured, (first, best) = [], results[0]
    for one, probed in results:
        losses = probed.losses(folds), best.losses(folds)
        above, error = difference_and_error(*losses, folds.subjects[folds.scored])
        measured.append(replace(one, above=above, error=error))
    settings = measure_settings(
        resolved[first.model], best, images=images, folds=folds, cache=cache, progress=progress
    )
    case = find_case(large=size.images_a_class >= LARGE, skill=first.skill)
    return Advice(size, float(counts.max() / counts.sum()), prior, tuple(measured), settings, case)


def find_case(*, large: bool, skill: float) -> Case:
    """The case for data of this size and a best probe of this skill."""
    return SOLVED_CASE if skill >= SOLVED else CASES[large, skill >= SIMILAR]


def _measure(
    model: str,
    resolved: Resolved,
    features: NDArray[np.float32],
    folds: Folds,
    prior: float,
    seconds: float,
) -> tuple[Measured, Probed]:
    """Measure one backbone; also returns its probe."""
    image_size = resolved.config.model.image_size
    assert isinstance(image_size, int)
    probed = Probed.of(features, folds)
    losses = probed.losses(folds)
    measured = Measured(
        model=model,
        origin=resolved.weights.origin,
        image_size=image_size,
        num_features=features.shape[1],
        log_loss=float(losses.mean()),
        accuracy=accuracy(probed.log_probs[folds.scored], folds.labels[folds.scored]),
        above=0.0,
        error=0.0,
        logme=logme(features, folds.labels),
        skill=1 - float(losses.mean()) / prior,
        seconds=seconds,
    )
    return measured, probed
