"""Settings of a backbone, measured by the probe of `make advise`: image size, views, and class balance."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distracted.data.folds import Folds
from distracted.data.picture_sets import Images
from distracted.inference.views import VIEWS
from distracted.metrics import difference_and_error, log_losses
from distracted.models.linear import probe
from distracted.progress import Progress
from distracted.training.feed import pretrained_features
from distracted.training.resolve import TRAINING_SHARE, Resolved

Floats = NDArray[np.float64]

C, MAX_ITER = 0.03, 300  # of the probe

_LARGER, _STEP = 1.5, 32  # the larger size that is tried, a multiple of the latter
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
        seconds: Time to compute the features, or to load them from the cache.
    """

    about: str
    overrides: tuple[str, ...]
    views: str
    log_loss: float
    gain: float
    error: float
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
        log_probs = probe(features, folds.labels, folds.ids, c=C, max_iter=MAX_ITER, views=views)
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

    def features(**changed: int | float) -> NDArray[np.float32]:
        config = resolved.config.model_copy(update={"model": model.model_copy(update=changed)})
        [computed] = pretrained_features(replace(resolved, config=config), [images], cache, progress)
        return computed

    def setting(
        about: str, overrides: tuple[str, ...], probed: Probed, start: float, views: str = ""
    ) -> Setting:
        after = probed.losses(folds)
        gain, error = difference_and_error(before, after, folds.subjects[folds.scored])
        seconds = time.perf_counter() - start
        return Setting(about, overrides, views, float(after.mean()), gain, error, seconds)

    start = time.perf_counter()
    size = _STEP * round(_LARGER * model.image_size / _STEP)
    larger = Probed.of(features(image_size=size), folds)
    settings = [
        setting(
            f"images of {size} pixels",
            (f"model.image_size={size}", f"augment.size={TRAINING_SHARE}"),
            larger,
            start,
        )
    ]
    start = time.perf_counter()
    zoomed = [features(crop=model.crop * view.share) for view in VIEWS[_VIEWS] if view.share < 1]
    several = Probed.of(plain.features, folds, *zoomed)
    settings.append(setting(f"mean over the views {_VIEWS}", (), several, start, _VIEWS))
    start = time.perf_counter()
    even = Probed(plain.features, with_even_classes(plain.log_probs, folds))
    settings.append(setting("classes drawn equally often", ("training.sampling=classes",), even, start))
    return tuple(settings)


def with_even_classes(log_probs: Floats, folds: Folds) -> Floats:
    """Predictions as if each class had been equally frequent on the training side of each fold.

    Args:
        log_probs: Of each fold's rows by a model of the other rows, (num_images, num_classes).
    """
    even = log_probs.copy()
    for fold in range(folds.num_folds):
        rows = folds.valid(fold)
        counts = np.bincount(folds.labels[folds.train(fold)], minlength=even.shape[1])
        even[rows] -= np.log(np.maximum(counts, 1))
    even -= np.logaddexp.reduce(even, axis=1, keepdims=True)
    return even
