"""Settings of a backbone, measured by the probe of `make advise`: image size, views, and class balance."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distracted.data.folds import Folds
from distracted.data.picture_sets import Images
from distracted.errors import ConfigError
from distracted.inference.views import VIEWS
from distracted.metrics import difference_and_error, log_losses
from distracted.models.linear import probe
from distracted.progress import Progress
from distracted.training.feed import pretrained_features
from distracted.training.resolve import TRAINING_SHARE, Resolved

_log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

_C, _MAX_ITER = 0.03, 300  # of the probe

_LARGER, _STEP = 1.5, 32  # the larger size that is tried: so many times as large, a multiple of 32
_VIEWS = "scales"
_LEAST = 0.01  # share of the log loss; less is not worth a setting


@dataclass(frozen=True)
class Setting:
    """A setting of the best backbone.

    Attributes:
        about: The setting in words.
        overrides: The setting for SET=; empty for views, which are a step of their own.
        views: The setting for VIEWS= of `make tta`.
        log_loss: Score of the cross-fitted probe with this setting.
        gain: How much lower that is than without it, with its standard `error` over subjects.
        costs: What it costs later, in words.
        seconds: Time to compute the features, or to load them from the cache.
    """

    about: str
    overrides: tuple[str, ...]
    views: str
    log_loss: float
    gain: float
    error: float
    costs: str
    seconds: float

    @property
    def pays(self) -> bool:
        """Whether the gain exceeds its standard error and is worth mentioning."""
        return self.gain > self.error and self.gain > _LEAST * (self.log_loss + self.gain)


@dataclass(frozen=True)
class Probed:
    """A backbone's features with the probe's log-probabilities; rows of fold -1 are NaN there."""

    features: NDArray[np.float32]
    log_probs: Floats

    @classmethod
    def of(cls, features: NDArray[np.float32], folds: Folds, *views: NDArray[np.float32]) -> "Probed":
        """Fit the probe on each fold's training side; predictions are averaged with those of the views."""
        log_probs = probe(features, folds.labels, folds.ids, c=_C, max_iter=_MAX_ITER, views=views)
        return cls(features, log_probs)

    def losses(self, folds: Folds) -> Floats:
        """Log loss of each scored row."""
        return log_losses(self.log_probs[folds.scored], folds.labels[folds.scored])


def measure_settings(
    resolved: Resolved, plain: Probed, *, images: Images, folds: Folds, cache: Path, progress: Progress
) -> tuple[Setting, ...]:
    """Measure each setting alone.

    Args:
        resolved: Config of the backbone.
        plain: The backbone with this config.
        cache: The data set's cache folder.
    """
    model, before = resolved.config.model, plain.losses(folds)
    assert isinstance(model.image_size, int) and isinstance(model.crop, float)
    uncached = resolved.config.runtime.model_copy(update={"cache_gb": 0.0})  # decoded images that serve once

    def features(**changed: int | float) -> NDArray[np.float32]:
        update = {"model": model.model_copy(update=changed), "runtime": uncached}
        config = resolved.config.model_copy(update=update)
        [computed] = pretrained_features(replace(resolved, config=config), [images], cache, progress)
        return computed

    def setting(
        about: str, probed: Probed, start: float, costs: str, overrides: Sequence[str] = (), views: str = ""
    ) -> Setting:
        after = probed.losses(folds)
        gain, error = difference_and_error(before, after, folds.subjects[folds.scored])
        seconds = time.perf_counter() - start
        return Setting(about, tuple(overrides), views, float(after.mean()), gain, error, costs, seconds)

    start, settings = time.perf_counter(), []
    size = _STEP * round(_LARGER * model.image_size / _STEP)
    try:
        larger = Probed.of(features(image_size=size), folds)
    except ConfigError as error:  # a network of one size
        _log.info("images of %d pixels: left out; %s", size, error)
    else:
        times = f"training and predictions take {(size / model.image_size) ** 2:.1f} times as long"
        sizes = f"model.image_size={size}", f"augment.size={TRAINING_SHARE}"
        settings.append(setting(f"images of {size} pixels", larger, start, times, sizes))
    start = time.perf_counter()
    views = VIEWS[_VIEWS]
    zoomed = [features(crop=model.crop * view.share) for view in views if view.share < 1]
    several = Probed.of(plain.features, folds, *zoomed)
    times = f"predictions take {len(views)} times as long"
    settings.append(setting(f"mean over the views {_VIEWS}", several, start, times, views=_VIEWS))
    start = time.perf_counter()
    even = Probed(plain.features, with_even_classes(plain.log_probs, folds))
    evenly = ["training.sampling=classes"]
    settings.append(setting("classes drawn equally often", even, start, "nothing", evenly))
    return tuple(settings)


def with_even_classes(log_probs: Floats, folds: Folds) -> Floats:
    """Predictions as if each class had been equally frequent on the training side of each fold.

    Args:
        log_probs: Log-probabilities of each image, shape (num_images, num_classes), predicted by a model that
            was fitted on the other folds.
    """
    even = log_probs.copy()
    for fold in range(folds.num_folds):
        rows = folds.valid(fold)
        counts = np.bincount(folds.labels[folds.train(fold)], minlength=even.shape[1])
        scores = even[rows] - np.log(np.maximum(counts, 1))
        even[rows] = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    return even
