"""Augmentation by a policy; an image's random numbers are fixed by (seed, epoch, index, repeat)."""

import random
from collections.abc import Sequence

import cv2
import numpy as np

from distracted.data.images import Image
from distracted.data.transforms import Policy, Transforms
from distracted.errors import ConfigError, first_line
from distracted.schema import Box


def resize_and_crop(image: Image, *, size: int, crop: float, across: float = 0.5, down: float = 0.5) -> Image:
    """Crop a window of `crop` of each side, by default the central one, and resize it to (size, size, 3).

    The aspect ratio changes, so that the borders stay: in a car the radio and the back seat are at the
    border.

    Args:
        across: Position of the window, from 0 (left) to 1 (right).
        down: Position of the window, from 0 (top) to 1 (bottom).
    """
    height, width = image.shape[:2]
    kept_h, kept_w = max(1, round(height * crop)), max(1, round(width * crop))
    top, left = int((height - kept_h) * down), int((width - kept_w) * across)
    image = image[top : top + kept_h, left : left + kept_w]
    shrinks = kept_h * kept_w > size * size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized: Image = cv2.resize(image, (size, size), interpolation=interpolation)
    return resized


def cut_region(image: Image, box: Box) -> Image:
    """Cut a box from a picture (H, W, 3) at its resolution; at least one pixel."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
    right, bottom = max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)
    return image[top:bottom, left:right].copy()  # a transform may write in place


class Draws:
    """Random generators for albumentations, re-keyed in place for each image.

    Re-seeding them the library's way takes a fifth of the time of a heavy policy.

    Attributes:
        generators: A numpy and a Python generator, for `set_random_state`.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._philox = np.random.Philox(0)
        self._python = random.Random(0)
        self.generators = np.random.Generator(self._philox), self._python

    def key(self, epoch: int, index: int, repeat: int = 0, region: int = 0) -> None:
        """Set the generators to the beginning of an image's random numbers."""
        state = self._philox.state
        state["state"]["key"][:] = (np.uint64(self._seed % 2**64), np.uint64(epoch))
        state["state"]["counter"][:] = (0, repeat, region, index)
        state["buffer_pos"], state["has_uint32"], state["uinteger"] = 4, 0, 0
        self._philox.state = state
        draw = repeat << 128 | region << 96
        self._python.seed(draw | (self._seed % 2**32) << 64 | epoch << 40 | index)


class Augmenter:
    """Applies a policy to one image at a time; the same (seed, epoch, index, repeat) gives the same image.

    A region is cut from the picture first and then treated as a picture of its own: at full resolution,
    with its own random numbers.

    Args:
        policy: Transforms by albumentations' names with their arguments, in order.
        size: Side of the square output in pixels.
        crop: Share of the picture's sides, as in `resize_and_crop`.
        seed: The run's seed.
        regions: Boxes that the network sees in addition to the whole picture.

    Raises:
        ConfigError: a transform or an argument is unknown to albumentations.
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
        """Augment one uint8 RGB image (H, W, 3) to (size, size, 3).

        With regions the result is (1 + num_regions, size, size, 3), the whole picture first.

        Args:
            repeat: How often the image was drawn earlier in this epoch.
        """
        if not self._regions:
            return self._augment(image, (epoch, index, repeat), region=0)
        pictures = [image, *(cut_region(image, box) for box in self._regions)]
        key = epoch, index, repeat
        return np.stack([self._augment(picture, key, region=i) for i, picture in enumerate(pictures)])

    def _augment(self, image: Image, key: tuple[int, int, int], *, region: int) -> Image:
        if not self._transforms.resize:
            image = resize_and_crop(image, size=self._size, crop=self._crop)
        elif not self._transforms.crop_first and not image.flags.writeable:
            image = image.copy()  # the first transform may write in place
        if self._transforms.are_none:
            return image
        self._draws.key(*key, region)
        try:
            result = self._transforms(image)
        except Exception as error:  # such as a crop larger than the picture
            raise ConfigError(
                f"augment.policies: a transform fails on a picture of {image.shape[1]} x {image.shape[0]} "
                f"pixels: {type(error).__name__}: {first_line(error)}"
            ) from error
        if result.dtype != np.uint8 or result.shape != (self._size, self._size, 3):
            raise ConfigError(
                f"augment.policies: expected uint8 images of shape {(self._size, self._size, 3)}, got "
                f"{result.dtype} of shape {tuple(result.shape)}; leave out normalisation, tensors and sizes"
            )
        return result
