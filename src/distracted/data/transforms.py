"""The transforms that a policy names: albumentations', the costliest of them in a form of our own.

Ours draw the same and make the same pictures, sooner. Geometric transforms in a row become one warp, so that
a picture is interpolated once instead of up to three times; the others do the same arithmetic in fewer
passes. From what albumentations makes they are a few grey levels off at edges, and one or two elsewhere.

This is the only module that knows albumentations.
"""

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from distracted.data.images import Image
from distracted.errors import ConfigError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for updates on import

import albumentations as A
from albucore import sz_lut

#: Transforms by albumentations' names, each with its arguments, in order.
Policy = Sequence[Mapping[str, Mapping[str, Any] | None]]
Matrix = NDArray[np.float64]

#: Grey of an RGB pixel, as OpenCV weighs it.
_GREY = np.array([0.299, 0.587, 0.114])
_LEVELS = np.arange(256, dtype=np.float32)


class Transforms:
    """A policy's transforms, ready to be applied to one image at a time.

    Attributes:
        are_none: The policy is empty.
        resize: They make an image of the given size of any; else they take one of that size.
        crop_first: They begin with a random crop, which leaves the image that comes in as it is.

    Args:
        size: Side of the square that comes out, in pixels.

    Raises:
        ConfigError: a transform or an argument that albumentations does not know.
    """

    def __init__(self, policy: Policy, *, size: int) -> None:
        named = [_build(name, arguments or {}, size) for item in policy for name, arguments in item.items()]
        crops = [isinstance(transform, A.RandomResizedCrop) for transform in named]
        self.are_none, self.resize, self.crop_first = not named, any(crops), crops[:1] == [True]
        self._compose = A.Compose(_quicken(named))

    def set_random_state(self, generator: np.random.Generator, python: random.Random) -> None:
        """From what they draw."""
        self._compose.set_random_state(generator, python)

    def __call__(self, image: Image) -> Image:
        """Apply them to an RGB image; it raises whatever a transform raises."""
        result: Image = self._compose(image=image)["image"]
        return result


def _quicken(transforms: Iterable[A.BasicTransform]) -> list[A.BasicTransform]:
    """The same transforms in the same order, in our own form where there is one."""
    quick: list[A.BasicTransform] = []
    row: list[A.BasicTransform] = []
    for transform in transforms:
        if row and not (_can_warp(transform) and _same_border(row, transform)):
            quick.append(_Warp(row))
            row = []
        if _can_warp(transform) or (not row and _can_crop(transform)):
            row.append(transform)
        else:
            quick.append(transform)
    return [*quick, _Warp(row)] if row else quick


def _can_crop(transform: A.BasicTransform) -> bool:
    return type(transform) is A.RandomResizedCrop and bool(transform.interpolation == cv2.INTER_LINEAR)


def _can_warp(transform: A.BasicTransform) -> bool:
    return (
        type(transform) in (A.Affine, A.Perspective)  # none of their children, which draw otherwise
        and transform.interpolation == cv2.INTER_LINEAR
        and transform.border_mode == cv2.BORDER_CONSTANT
        and isinstance(transform.fill, int | float)
        and not transform.fit_output
        and getattr(transform, "keep_size", True)
    )


def _same_border(row: Sequence[A.BasicTransform], transform: A.BasicTransform) -> bool:
    return all(getattr(other, "fill", transform.fill) == transform.fill for other in row)


class _Warp(A.BasicTransform):  # type: ignore[misc]
    """A random crop and affine or perspective transforms after it, drawn one by one, done at once."""

    def __init__(self, parts: Sequence[A.BasicTransform]) -> None:
        super().__init__(p=1.0)
        self._parts = list(parts)
        self._fill = next((part.fill for part in parts if _can_warp(part)), 0)

    @property
    def targets(self) -> dict[str, Any]:
        return {}

    def set_random_state(self, random_generator: Any, py_random: Any) -> None:
        super().set_random_state(random_generator, py_random)
        for part in self._parts:
            part.set_random_state(random_generator, py_random)

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> dict[str, Any]:
        return {**data, "image": self._warp(data["image"])}

    def _warp(self, image: Image) -> Image:
        matrix, size, straight = np.eye(3), image.shape[:2], True
        for part in self._parts:
            if not part.should_apply():
                continue
            params = _draw(part, (*size, 3))
            if isinstance(part, A.RandomResizedCrop):
                x0, y0, x1, y1 = params["crop_coords"]
                image = image[y0:y1, x0:x1]  # what lies outside of it is outside for the others, too
                size = part.size
                matrix = _scaling(image.shape[:2], size) @ matrix
                continue
            straight = False
            if isinstance(part, A.Perspective):
                between = params["max_height"], params["max_width"]
                matrix = _scaling(between, size) @ params["matrix"] @ matrix
            else:
                matrix = params["matrix"] @ matrix
        if straight:
            resized: Image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
            return resized
        return _warp_rgb(image, matrix, size, self._fill)


def _draw(part: A.BasicTransform, shape: tuple[int, ...]) -> dict[str, Any]:
    """A transform's parameters, drawn as it draws them when it is called."""
    data = {"image": _of_shape(shape)}
    params = part.update_transform_params(part.get_params(), data)
    return {**params, **part.get_params_dependent_on_data(params, data)}


@cache
def _of_shape(shape: tuple[int, ...]) -> Image:
    """A picture of which nothing is asked but its shape; it takes no memory."""
    return np.broadcast_to(np.uint8(0), shape)


def _scaling(before: Sequence[int], after: Sequence[int]) -> Matrix:
    """From pixels of a picture (height, width) to those of the resized one, whose centres count."""
    down, across = after[0] / before[0], after[1] / before[1]
    return np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])


def _warp_rgb(image: Image, matrix: Matrix, size: Sequence[int], fill: float) -> Image:
    """Warp a picture with a fourth channel beside its three: OpenCV 5 takes a third of the time."""
    source = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    options: dict[str, Any] = {"flags": cv2.INTER_LINEAR, "borderValue": (fill,) * 4}
    if (matrix[2] == (0, 0, 1)).all():
        warped = cv2.warpAffine(source, matrix[:2], size[::-1], **options)
    else:
        warped = cv2.warpPerspective(source, matrix, size[::-1], **options)
    rgb: Image = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return rgb


class _ColorJitter(A.ColorJitter):  # type: ignore[misc]
    """Saturation as one matrix, contrast around a mean that needs no grey picture."""

    def apply(
        self,
        img: Image,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        order: Sequence[int],
        **params: Any,
    ) -> Image:
        for number in order:
            match number:
                case 0:
                    img = _by_table(img, _LEVELS * brightness)
                case 1:
                    mean = float(_GREY @ cv2.mean(img)[:3])
                    img = _by_table(img, (_LEVELS - mean) * contrast + mean)
                case 2:
                    img = cv2.transform(img, saturation * np.eye(3) + (1 - saturation) * _GREY)
                case 3:
                    img = _shift_hue(img, hue)
        return img


def _by_table(image: Image, values: NDArray[np.floating]) -> Image:
    """Each of the 256 values replaced."""
    table = np.clip(values, 0, 255).astype(np.uint8)
    replaced: Image = sz_lut(image, table, inplace=False)
    return replaced


def _shift_hue(image: Image, share: float) -> Image:
    """Turn the hue by a share of the circle, of which OpenCV makes 180 levels."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    table = np.mod(np.arange(256) + 180 * share, 180).astype(np.uint8)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, 0), table), hsv, 0)
    turned: Image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return turned


class _GaussNoise(A.GaussNoise):  # type: ignore[misc]
    """Noise in whole grey levels, which is what the sum is rounded to anyway."""

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        if not self.per_channel or self.noise_scale_factor != 1:
            return dict(super().get_params_dependent_on_data(params, data))
        sigma = self.py_random.uniform(*self.std_range)
        mean = self.py_random.uniform(*self.mean_range)
        cv2.setRNGSeed(int(self.random_generator.integers(0, 2**16)))
        noise = np.empty(data["image"].shape, dtype=np.int16)
        return {"noise_map": cv2.randn(noise, (255 * mean,) * 3, (255 * sigma,) * 3)}

    def apply(self, img: Image, noise_map: NDArray[Any], **params: Any) -> Image:
        whole = noise_map.dtype == np.int16
        noisy: Image = cv2.add(img, noise_map, dtype=cv2.CV_8U) if whole else super().apply(img, noise_map)
        return noisy


#: Those that replace albumentations' own one by one.
_FASTER = {"ColorJitter": _ColorJitter, "GaussNoise": _GaussNoise}


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
