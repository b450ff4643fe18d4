"""Augmentation: named policies of albumentations, each image's draws fixed by (seed, epoch, index, repeat).

This is the only module that knows albumentations.
"""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from distracted.data.images import Image
from distracted.errors import ConfigError, first_line
from distracted.schema import Box

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for updates on import

import albumentations as A

Policy = Sequence[Mapping[str, Mapping[str, Any] | None]]


def resize_and_crop(image: Image, *, size: int, crop: float, across: float = 0.5, down: float = 0.5) -> Image:
    """What evaluation sees: the picture's central `crop` share of each side, squeezed to (size, size, 3).

    The aspect ratio is given up, not the borders: in a car the radio and the seat behind are at the border.

    Args:
        across: Where the window lies in the picture, from 0 (its left) to 1 (its right).
        down: The same from its top to its bottom.
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
    """The part of a picture (H, W, 3) that lies in a box, at the picture's resolution; at least one pixel."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
    right, bottom = max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)
    return image[top:bottom, left:right].copy()  # a transform in place would draw on the picture


class Augmenter:
    """Applies a policy to one image at a time; the same (seed, epoch, index, repeat) gives the same draws.

    A region is cut from the picture first and is then a picture of its own: seen at full resolution, with
    draws of its own.

    One counter-based generator is re-keyed in place for each image: albumentations' own re-seeding costs a
    fifth of a heavy policy.

    Args:
        policy: Transforms by albumentations' names, each with its arguments, in order.
        size: Side of the square that comes out, in pixels.
        crop: Share of the picture's sides that is seen, as in `resize_and_crop`.
        seed: The run's seed.
        regions: Boxes that are seen beside the whole picture.

    Raises:
        ConfigError: a transform or an argument that albumentations does not know.
    """

    def __init__(
        self, policy: Policy, *, size: int, crop: float, seed: int, regions: Sequence[Box] = ()
    ) -> None:
        self._size, self._crop, self._seed = size, crop, seed
        self._regions = tuple(regions)
        self._philox = np.random.Philox(0)
        self._python = random.Random(0)
        transforms = [
            _build(name, arguments or {}, size) for item in policy for name, arguments in item.items()
        ]
        crops = [isinstance(transform, A.RandomResizedCrop) for transform in transforms]
        self._resizes, self._crops_first = any(crops), crops[:1] == [True]
        self._compose = A.Compose(transforms) if transforms else None
        if self._compose is not None:
            self._compose.set_random_state(np.random.Generator(self._philox), self._python)

    def __call__(self, image: Image, *, epoch: int, index: int, repeat: int = 0) -> Image:
        """Augment one uint8 RGB image (H, W, 3) to (size, size, 3).

        With regions to (1 + num_regions, size, size, 3), the whole picture first.

        Args:
            repeat: How often it was drawn before in this epoch.
        """
        if not self._regions:
            return self._augment(image, (epoch, index, repeat), region=0)
        pictures = [image, *(cut_region(image, box) for box in self._regions)]
        key = epoch, index, repeat
        return np.stack([self._augment(picture, key, region=i) for i, picture in enumerate(pictures)])

    def _augment(self, image: Image, key: tuple[int, int, int], *, region: int) -> Image:
        if self._compose is None:
            return resize_and_crop(image, size=self._size, crop=self._crop)
        if not self._resizes:
            image = resize_and_crop(image, size=self._size, crop=self._crop)
        elif not self._crops_first and not image.flags.writeable:
            image = image.copy()  # what comes first may draw on it
        self._rekey(*key, region)
        try:
            result: Image = self._compose(image=image)["image"]
        except Exception as error:  # a crop beyond the picture, a transform that wants more than a picture
            raise ConfigError(
                f"augment.policies: it fails on a picture of {image.shape[1]} x {image.shape[0]} pixels: "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        if result.dtype != np.uint8 or result.shape != (self._size, self._size, 3):
            raise ConfigError(
                f"augment.policies: expected uint8 images of shape {(self._size, self._size, 3)}, got "
                f"{result.dtype} of shape {tuple(result.shape)}; leave out normalisation, tensors and sizes"
            )
        return result

    def _rekey(self, epoch: int, index: int, repeat: int, region: int) -> None:
        state = self._philox.state
        state["state"]["key"][:] = (np.uint64(self._seed % 2**64), np.uint64(epoch))
        state["state"]["counter"][:] = (0, repeat, region, index)
        state["buffer_pos"], state["has_uint32"], state["uinteger"] = 4, 0, 0
        self._philox.state = state
        draw = repeat << 128 | region << 96
        self._python.seed(draw | (self._seed % 2**32) << 64 | epoch << 40 | index)


class _Affine(A.Affine):  # type: ignore[misc]
    def apply(self, img: Image, **params: Any) -> Image:
        return _through_rgba(super().apply, img, **params)


class _Perspective(A.Perspective):  # type: ignore[misc]
    def apply(self, img: Image, **params: Any) -> Image:
        return _through_rgba(super().apply, img, **params)


def _through_rgba(warp: Callable[..., Image], image: Image, **params: Any) -> Image:
    """Warp a picture with a fourth channel beside its three: the same bytes.

    OpenCV 5 warps four channels in a third of the time of three.
    """
    if image.shape[-1] != 3 or not isinstance(params["fill"], int | float):
        return warp(image, **params)
    warped = warp(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), **params)
    rgb: Image = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return rgb


#: Transforms of which we have a faster form with the same draws and the same pictures.
_FASTER = {"Affine": _Affine, "Perspective": _Perspective}


def _build(name: str, arguments: Mapping[str, Any], size: int) -> A.BasicTransform:
    kind: Any = _FASTER.get(name) or getattr(A, name, None)
    if not isinstance(kind, type) or not issubclass(kind, A.BasicTransform):
        raise ConfigError(f"augment.policies: albumentations has no transform {name!r}")
    known = kind.InitSchema.model_fields  # type: ignore[attr-defined]
    if "size" in known:
        arguments = {"size": (size, size), **arguments}
    if unknown := set(arguments) - set(known):
        raise ConfigError(f"augment.policies: {name} has no argument {sorted(unknown)[0]!r}")
    try:
        return kind(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
        )
    except ValueError as error:  # pydantic's validation included, whose message has three lines an argument
        lines = [line.strip() for line in str(error).splitlines() if "For further information" not in line]
        raise ConfigError(f"augment.policies: {name}: {' '.join(lines)}") from error
