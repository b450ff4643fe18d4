"""Augmentation by policies; an image's random draws depend only on (seed, epoch, index, repeat)."""

import random
from collections.abc import Sequence

import cv2
import numpy as np

from distracted.data.images import Image
from distracted.data.transforms import Policy, Transforms
from distracted.errors import ConfigError, first_line
from distracted.schema import Box


def resize_and_crop(image: Image, *, size: int, crop: float, across: float = 0.5, down: float = 0.5) -> Image:
    """Evaluation's transform: crop a fraction of each side and squeeze it to (size, size, 3).

    This changes the aspect ratio and keeps the borders, where a car has the radio and the seat behind.

    Args:
        crop: Fraction of each side to keep.
        across: Horizontal position of the crop, 0 (left) to 1 (right).
        down: Vertical position of the crop, 0 (top) to 1 (bottom).
    """
    height, width = image.shape[:2]
    rows, columns = crop_box(height, width, crop, across, down)
    image = image[rows, columns]
    interpolation = resize_interpolation(image.shape[0], image.shape[1], size)
    resized: Image = cv2.resize(image, (size, size), interpolation=interpolation)
    return resized


def crop_box(height: int, width: int, crop: float, across: float, down: float) -> tuple[slice, slice]:
    """Rows and columns of the crop that `resize_and_crop` takes of an image."""
    crop_height, crop_width = max(1, round(height * crop)), max(1, round(width * crop))
    top, left = int((height - crop_height) * down), int((width - crop_width) * across)
    return slice(top, top + crop_height), slice(left, left + crop_width)


def resize_interpolation(height: int, width: int, size: int) -> int:
    """OpenCV's interpolation for a resize of (height, width) to (size, size)."""
    return cv2.INTER_AREA if height * width > size * size else cv2.INTER_CUBIC


def cut_region(image: Image, box: Box) -> Image:
    """Copy the part of an image (H, W, 3) in a box, at full resolution; at least one pixel."""
    rows, columns = region_box(image.shape[0], image.shape[1], box)
    return image[rows, columns].copy()  # transforms may work in place


def region_box(height: int, width: int, box: Box) -> tuple[slice, slice]:
    """Rows and columns of a box in an image; at least one of each."""
    x0, y0, x1, y1 = box
    left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
    right, bottom = max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)
    return slice(top, bottom), slice(left, right)


class Draws:
    """Random generators for albumentations that are set to the start of an image's draws.

    The counter-based generator is re-keyed in place; albumentations' own re-seeding would take a fifth of a
    heavy policy's time.

    Attributes:
        generators: numpy's and Python's, the arguments of `set_random_state`.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._philox = np.random.Philox(0)
        self._python = random.Random(0)
        self.generators = np.random.Generator(self._philox), self._python

    def key(self, epoch: int, index: int, repeat: int = 0, region: int = 0) -> None:
        """Set both generators to the start of an image's draws.

        Args:
            epoch, index, repeat: As for `Augmenter`.
            region: 0 for the whole image, then 1, 2, ...
        """
        state = self._philox.state
        state["state"]["key"][:] = (np.uint64(self._seed % 2**64), np.uint64(epoch))
        state["state"]["counter"][:] = (0, repeat, region, index)
        state["buffer_pos"], state["has_uint32"], state["uinteger"] = 4, 0, 0
        self._philox.state = state
        draw = repeat << 128 | region << 96
        self._python.seed(draw | (self._seed % 2**32) << 64 | epoch << 40 | index)


class Augmenter:
    """Applies a policy to one image at a time; the same (seed, epoch, index, repeat) gives the same result.

    A region is cut from the image before augmentation: at full resolution, with its own draws.

    Args:
        policy: albumentations transforms by name, each with its arguments, in order.
        size: Side of the square output, in pixels.
        crop: Fraction of each side to keep if the policy does not crop, as in `resize_and_crop`.
        seed: The run's seed.
        regions: Boxes to cut out in addition to the whole image.

    Raises:
        ConfigError: albumentations has no such transform or argument.
    """

    def __init__(
        self, policy: Policy, *, size: int, crop: float, seed: int, regions: Sequence[Box] = ()
    ) -> None:
        self._size, self._crop = size, crop
        self._regions = tuple(regions)
        self._draws = Draws(seed)
        self._transforms = Transforms(policy, size=size)
        self._transforms.set_random_state(*self._draws.generators)

    def __call__(self, image: Image, *, epoch: int, index: int, repeat: int = 0) -> Image:
        """Augment a uint8 RGB image (H, W, 3) to (size, size, 3).

        With regions the result is (1 + num_regions, size, size, 3), the whole image first.

        Args:
            index: Position of the image in its set.
            repeat: How often the image was drawn before in this epoch.
        """
        if not self._regions:
            return self._augment(image, (epoch, index, repeat), region=0)
        key = epoch, index, repeat
        parts = [image, *(cut_region(image, box) for box in self._regions)]
        return np.stack([self._augment(part, key, region=number) for number, part in enumerate(parts)])

    def _augment(self, image: Image, key: tuple[int, int, int], *, region: int) -> Image:
        if not self._transforms.resizes:
            image = resize_and_crop(image, size=self._size, crop=self._crop)
        elif not self._transforms.crops_first and not image.flags.writeable:
            image = image.copy()  # the first transform may work in place
        if self._transforms.is_empty:
            return image
        self._draws.key(*key, region)
        try:
            result = self._transforms(image)
        except Exception as error:  # a crop larger than the image, a transform that needs masks ...
            raise ConfigError(
                f"augment.policies: a transform fails on an image of {image.shape[1]} x {image.shape[0]} "
                f"pixels: {type(error).__name__}: {first_line(error)}"
            ) from error
        if result.dtype != np.uint8 or result.shape != (self._size, self._size, 3):
            raise ConfigError(
                f"augment.policies: expected uint8 images of shape {(self._size, self._size, 3)}, got "
                f"{result.dtype} of shape {tuple(result.shape)}; leave out transforms that normalise, resize "
                "or make tensors"
            )
        return result
