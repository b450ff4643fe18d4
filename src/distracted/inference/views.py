"""Test-time augmentation: named, fixed views of a picture, and the mean of what a network says of them.

Crops from the corners and the centre are those of Krizhevsky et al. (2012), without the flips: left and right
hand are different classes. Nothing here is random, so the same view is the same picture everywhere.
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

#: Ways to average log-probabilities over their first dimension: arithmetic in probabilities, or geometric.
AVERAGES = ("probs", "log_probs")


@dataclass(frozen=True)
class View:
    """A way to look at a picture; the defaults are what evaluation sees.

    Attributes:
        share: Sides of the window that is seen, as a share of those that evaluation sees.
        across, down: Where the window lies in the picture, from 0 (left, top) to 1 (right, bottom).
        degrees: The camera's roll, counter-clockwise; what lies beyond the border is mirrored in.
        gamma: Exponent of the values in [0, 1]; above 1 is darker.
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
        """The network's input, uint8 of shape (size, size, 3), of an RGB picture (H, W, 3)."""
        if self.degrees:
            image = _roll(image, self.degrees)
        image = resize_and_crop(image, size=size, crop=crop * self.share, across=self.across, down=self.down)
        if self.gamma != 1 or self.contrast != 1:
            image = cv2.LUT(image, _curve(self.gamma, self.contrast))
        return image


_CENTRE = View("centre")
_CORNER = 0.9  # near enough to what training's random crops show

#: Views by the name of their group.
VIEWS: dict[str, tuple[View, ...]] = {
    "centre": (_CENTRE,),
    "five_crops": (
        View("crop_centre", share=_CORNER),
        View("crop_top_left", share=_CORNER, across=0, down=0),
        View("crop_top_right", share=_CORNER, across=1, down=0),
        View("crop_bottom_left", share=_CORNER, across=0, down=1),
        View("crop_bottom_right", share=_CORNER, across=1, down=1),
    ),
    # Closer, not wider: random crops make things larger in training than they are in evaluation (Touvron et
    # al. 2019).
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
    """The views of some groups, each once, in order.

    Raises:
        ConfigError: no group, or one that does not exist.
    """
    known = ", ".join(f"{name} ({len(views)})" for name, views in VIEWS.items())
    if not groups:
        raise ConfigError(f"VIEWS= is empty: names of groups, separated by spaces; there are {known}")
    for group in groups:
        if group not in VIEWS:
            raise ConfigError(f"VIEWS: unknown group {group!r}; there are {known}")
    return tuple(dict.fromkeys(view for group in groups for view in VIEWS[group]))


def check_average(name: str) -> str:
    """Return the name of a way to average views, or raise ConfigError."""
    if name not in AVERAGES:
        raise ConfigError(f"AVERAGE={name}: expected {' or '.join(AVERAGES)}")
    return name


class Viewer:
    """Makes all views of a picture: decoded once, whatever their number.

    Args:
        size, crop: As evaluation's, see `resize_and_crop`.
        regions: Boxes that are seen beside the whole picture, each under the same view as the whole.
    """

    def __init__(self, views: Sequence[View], *, size: int, crop: float, regions: Sequence[Box] = ()) -> None:
        self._views, self._size, self._crop = tuple(views), size, crop
        self._regions = tuple(regions)

    def __call__(self, image: Image, *, epoch: int, index: int, repeat: int = 0) -> NDArray[np.uint8]:
        """Views of an RGB picture (H, W, 3), the same in any epoch.

        Shape (num_views, size, size, 3); with regions (num_views, 1 + num_regions, size, size, 3).
        """
        pictures = [image, *(cut_region(image, box) for box in self._regions)]
        seen = [
            np.stack([view(picture, size=self._size, crop=self._crop) for picture in pictures])
            for view in self._views
        ]
        return np.stack(seen) if self._regions else np.concatenate(seen)


def average_views(log_probs: NDArray[np.floating], average: str) -> NDArray[np.float64]:
    """Log-probabilities of several views as one prediction.

    Args:
        log_probs: Shape (num_views, num_images, num_classes).
        average: One of `AVERAGES`; the geometric mean is normalised.

    Returns:
        Shape (num_images, num_classes).
    """
    values = np.asarray(log_probs, dtype=np.float64)
    mean = np.logaddexp.reduce(values, axis=0) if average == "probs" else values.mean(axis=0)
    normalised: NDArray[np.float64] = mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
    return normalised


def _roll(image: Image, degrees: float) -> Image:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    rolled: Image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return rolled


@cache
def _curve(gamma: float, contrast: float) -> NDArray[np.uint8]:
    """What each of the 256 values becomes."""
    values = 255 * (np.arange(256) / 255) ** gamma
    return np.clip(np.rint(127.5 + contrast * (values - 127.5)), 0, 255).astype(np.uint8)
