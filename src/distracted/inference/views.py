"""Test-time augmentation: named, deterministic views of an image, and averaging predictions over them.

The crops of corners and centre are those of Krizhevsky et al. (2012), without flips: left and right hand are
different classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from distracted.data.augment import cut_region, resize_and_crop
from distracted.data.images import Image
from distracted.errors import ConfigError
from distracted.schema import Box

#: How to average predictions: arithmetic mean of probabilities, or of log-probabilities (geometric mean).
AVERAGES = ("probs", "log_probs")


@dataclass(frozen=True)
class View:
    """A deterministic transform of an image; the defaults are the evaluation transform.

    Attributes:
        share: Side of the crop, as a fraction of evaluation's crop.
        across, down: Position of the crop in the image, from 0 (left, top) to 1 (right, bottom).
        degrees: Counter-clockwise rotation; the border is filled by reflection.
        gamma: Exponent of pixel values in [0, 1]; above 1 is darker.
        contrast: Factor on the distance from mid-grey.
    """

    name: str
    share: float = 1.0
    across: float = 0.5
    down: float = 0.5
    degrees: float = 0.0
    gamma: float = 1.0
    contrast: float = 1.0

    def __call__(self, image: Image, *, size: int, crop: float) -> Image:
        """Transform an RGB image, shape (H, W, 3), to the network's input, uint8, shape (size, size, 3)."""
        if self.degrees:
            image = _rotate(image, self.degrees)
        image = resize_and_crop(image, size=size, crop=crop * self.share, across=self.across, down=self.down)
        if self.gamma != 1 or self.contrast != 1:
            image = cv2.LUT(image, lookup_table(self.gamma, self.contrast))
        return image


_CENTRE = View("centre")
_CORNER = 0.9  # within the range of training's random crops

#: Views by group, as named by `VIEWS=`.
VIEWS: dict[str, tuple[View, ...]] = {
    "centre": (_CENTRE,),
    "five_crops": (
        View("crop_centre", share=_CORNER),
        View("crop_top_left", share=_CORNER, across=0, down=0),
        View("crop_top_right", share=_CORNER, across=1, down=0),
        View("crop_bottom_left", share=_CORNER, across=0, down=1),
        View("crop_bottom_right", share=_CORNER, across=1, down=1),
    ),
    # Zoomed in, never out: random crops make objects larger in training than in evaluation (Touvron et al.
    # 2019).
    "scales": (View("scale_0.85", share=0.85), View("scale_0.92", share=0.92), _CENTRE),
    "rotations": (View("rotate_left", degrees=6), View("rotate_right", degrees=-6)),
    "colour": (
        View("brighter", gamma=0.8),
        View("darker", gamma=1.25),
        View("less_contrast", contrast=0.8),
        View("more_contrast", contrast=1.25),
    ),
}


def find_views(groups: Sequence[str]) -> tuple[View, ...]:
    """The views of some groups, in order, without repetitions.

    Raises:
        ConfigError: no group, or an unknown one.
    """
    known = ", ".join(f"{name} ({len(views)})" for name, views in VIEWS.items())
    if not groups:
        raise ConfigError(
            f"VIEWS= is empty: expected names of groups, separated by spaces; there are {known}"
        )
    for group in groups:
        if group not in VIEWS:
            raise ConfigError(f"VIEWS: unknown group {group!r}; there are {known}")
    return tuple(dict.fromkeys(view for group in groups for view in VIEWS[group]))


def check_average(name: str) -> str:
    """Return the name if it is one of `AVERAGES`, else raise ConfigError."""
    if name not in AVERAGES:
        raise ConfigError(f"AVERAGE={name}: expected {' or '.join(AVERAGES)}")
    return name


class Viewer:
    """A loader's transform that makes all views of a decoded image.

    Args:
        size, crop: As in evaluation, see `resize_and_crop`.
        regions: Boxes that the network takes in addition to the whole image; each view applies to all.
    """

    def __init__(self, views: Sequence[View], *, size: int, crop: float, regions: Sequence[Box] = ()) -> None:
        self._views, self._size, self._crop = tuple(views), size, crop
        self._regions = tuple(regions)

    def __call__(self, image: Image, *, epoch: int, index: int, repeat: int = 0) -> NDArray[np.uint8]:
        """All views of an RGB image, shape (H, W, 3); the epoch and index are ignored.

        Returns:
            Shape (num_views, size, size, 3); with regions (num_views, 1 + num_regions, size, size, 3).
        """
        images = [image, *(cut_region(image, box) for box in self._regions)]
        views = [
            np.stack([view(i, size=self._size, crop=self._crop) for i in images]) for view in self._views
        ]
        return np.stack(views) if self._regions else np.concatenate(views)


def average_views(log_probs: NDArray[np.floating], average: str) -> NDArray[np.float64]:
    """Average log-probabilities over their first dimension.

    Args:
        log_probs: Shape (num_views, num_images, num_classes).
        average: One of `AVERAGES`.

    Returns:
        Normalised log-probabilities, shape (num_images, num_classes).
    """
    values = np.asarray(log_probs, dtype=np.float64)
    mean = np.logaddexp.reduce(values, axis=0) if average == "probs" else values.mean(axis=0)
    normalised: NDArray[np.float64] = mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
    return normalised


def _rotate(image: Image, degrees: float) -> Image:
    height, width = image.shape[:2]
    matrix = rotation_matrix(height, width, degrees)
    rotated: Image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return rotated


def rotation_matrix(height: int, width: int, degrees: float) -> NDArray[np.float64]:
    """The affine map of a counter-clockwise rotation about an image's centre, shape (2, 3)."""
    matrix: NDArray[np.float64] = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return matrix


@cache
def lookup_table(gamma: float, contrast: float) -> NDArray[np.uint8]:
    """The new value of each of the 256 pixel values."""
    values = 255 * (np.arange(256) / 255) ** gamma
    return np.clip(np.rint(127.5 + contrast * (values - 127.5)), 0, 255).astype(np.uint8)
