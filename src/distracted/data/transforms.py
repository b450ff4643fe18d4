"""A policy's transforms: albumentations, with faster versions of the slowest ones.

The faster versions draw the same random numbers. Consecutive geometric transforms become one warp, so an
image is interpolated once instead of up to three times; the others do the same arithmetic in fewer passes.
Results differ from albumentations' by a few grey levels at edges and by one or two elsewhere.

No other module imports albumentations.
"""

import inspect
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

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # on import it would look for updates online

import albumentations as A
from albucore import sz_lut

#: albumentations transforms by name, each with its arguments, in order; `OneOf` and others hold a policy.
Policy = Sequence[Mapping[str, Mapping[str, Any] | None]]
Matrix = NDArray[np.float64]

# OpenCV's weights of red, green and blue in grey
_GREY = np.array([0.299, 0.587, 0.114])
_LEVELS = np.arange(256, dtype=np.float32)


class Transforms:
    """A policy's transforms, applied to one image at a time.

    Attributes:
        is_empty: The policy has no transforms.
        resizes: The policy crops and resizes images of any size to `size`; otherwise it expects that size.
        crops_first: The first transform is a random crop, which does not change its input in place.

    Args:
        size: Side of the square output, in pixels.

    Raises:
        ConfigError: albumentations has no such transform or argument.
    """

    def __init__(self, policy: Policy, *, size: int) -> None:
        built = [_build(name, arguments or {}, size) for item in policy for name, arguments in item.items()]
        crops = [isinstance(transform, A.RandomResizedCrop) for transform in built]
        self.is_empty, self.resizes, self.crops_first = not built, any(crops), crops[:1] == [True]
        self._compose = A.Compose(_merge_warps(built))

    def set_random_state(self, generator: np.random.Generator, python: random.Random) -> None:
        """Set the generators that the transforms draw from."""
        self._compose.set_random_state(generator, python)

    def __call__(self, image: Image) -> Image:
        """Transform a uint8 RGB image; raises whatever a transform raises."""
        result: Image = self._compose(image=image)["image"]
        return result


def _merge_warps(transforms: Iterable[A.BasicTransform]) -> list[A.BasicTransform]:
    """Replace each sequence of an optional random crop and geometric transforms by one warp."""
    merged: list[A.BasicTransform] = []
    parts: list[A.BasicTransform] = []
    for transform in transforms:
        if parts and not (_can_warp(transform) and _same_border(parts, transform)):
            merged.append(_Warp(parts))
            parts = []
        if _can_warp(transform) or (not parts and _can_crop(transform)):
            parts.append(transform)
        else:
            merged.append(transform)
    return [*merged, _Warp(parts)] if parts else merged


def _can_crop(transform: A.BasicTransform) -> bool:
    return type(transform) is A.RandomResizedCrop and bool(transform.interpolation == cv2.INTER_LINEAR)


def _can_warp(transform: A.BasicTransform) -> bool:
    return (
        type(transform) in (A.Affine, A.Perspective)  # no subclasses: they draw differently
        and transform.interpolation == cv2.INTER_LINEAR
        and transform.border_mode == cv2.BORDER_CONSTANT
        and isinstance(transform.fill, int | float)
        and not transform.fit_output
        and getattr(transform, "keep_size", True)
    )


def _same_border(parts: Sequence[A.BasicTransform], transform: A.BasicTransform) -> bool:
    return all(getattr(part, "fill", transform.fill) == transform.fill for part in parts)


class _Warp(A.BasicTransform):  # type: ignore[misc]
    """An optional random crop and affine or perspective transforms, applied as one interpolation."""

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
        matrix, size, only_crop = np.eye(3), image.shape[:2], True
        for part in self._parts:
            if not part.should_apply():
                continue
            params = _draw(part, (*size, 3))
            if isinstance(part, A.RandomResizedCrop):
                x0, y0, x1, y1 = params["crop_coords"]
                image = image[y0:y1, x0:x1]  # the following transforms see nothing outside
                size = part.size
                matrix = _scaling(image.shape[:2], size) @ matrix
                continue
            only_crop = False
            if isinstance(part, A.Perspective):
                drawn_size = params["max_height"], params["max_width"]
                matrix = _scaling(drawn_size, size) @ params["matrix"] @ matrix
            else:
                matrix = params["matrix"] @ matrix
        if only_crop:
            resized: Image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
            return resized
        return _warp_rgb(image, matrix, size, self._fill)


def _draw(part: A.BasicTransform, shape: tuple[int, ...]) -> dict[str, Any]:
    """Draw a transform's parameters as calling it would."""
    data = {"image": _blank(shape)}
    params = part.update_transform_params(part.get_params(), data)
    return {**params, **part.get_params_dependent_on_data(params, data)}


@cache
def _blank(shape: tuple[int, ...]) -> Image:
    """An image that stands for its shape and takes no memory."""
    return np.broadcast_to(np.uint8(0), shape)


def _scaling(before: Sequence[int], after: Sequence[int]) -> Matrix:
    """Matrix from pixel coordinates before a resize (height, width) to those after it, by pixel centres."""
    down, across = after[0] / before[0], after[1] / before[1]
    return np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])


def _warp_rgb(image: Image, matrix: Matrix, size: Sequence[int], fill: float) -> Image:
    """Warp an image as RGBA: with four channels OpenCV 5 takes a third of the time."""
    source = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    options: dict[str, Any] = {"flags": cv2.INTER_LINEAR, "borderValue": (fill,) * 4}
    if (matrix[2] == (0, 0, 1)).all():
        warped = cv2.warpAffine(source, matrix[:2], size[::-1], **options)
    else:
        warped = cv2.warpPerspective(source, matrix, size[::-1], **options)
    rgb: Image = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return rgb


class _ColorJitter(A.ColorJitter):  # type: ignore[misc]
    """Saturation as one matrix product, contrast from the mean colour without a grey image."""

    def apply(self, img: Image, **params: Any) -> Image:
        for number in params["order"]:
            match number:
                case 0:
                    img = _look_up(img, _LEVELS * params["brightness"])
                case 1:
                    mean = float(_GREY @ cv2.mean(img)[:3])
                    img = _look_up(img, (_LEVELS - mean) * params["contrast"] + mean)
                case 2:
                    saturation = params["saturation"]
                    img = cv2.transform(img, saturation * np.eye(3) + (1 - saturation) * _GREY)
                case 3:
                    img = _shift_hue(img, params["hue"])
        return img


def _look_up(image: Image, values: NDArray[np.floating]) -> Image:
    """Replace each grey level by its entry in `values`, shape (256,)."""
    table = np.clip(values, 0, 255).astype(np.uint8)
    result: Image = sz_lut(image, table, inplace=False)
    return result


def _shift_hue(image: Image, share: float) -> Image:
    """Shift the hue by a fraction of the colour circle, which has 180 levels in OpenCV."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    table = np.mod(np.arange(256) + 180 * share, 180).astype(np.uint8)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, 0), table), hsv, 0)
    shifted: Image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return shifted


class _GaussNoise(A.GaussNoise):  # type: ignore[misc]
    """Noise in whole grey levels; the sum is rounded to them anyway."""

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        if not self.per_channel or self.noise_scale_factor != 1:
            return dict(super().get_params_dependent_on_data(params, data))
        sigma = self.py_random.uniform(*self.std_range)
        mean = self.py_random.uniform(*self.mean_range)
        cv2.setRNGSeed(int(self.random_generator.integers(0, 2**16)))
        noise = np.empty(data["image"].shape, dtype=np.int16)
        return {"noise_map": cv2.randn(noise, (255 * mean,) * 3, (255 * sigma,) * 3)}

    def apply(self, img: Image, noise_map: NDArray[Any], **params: Any) -> Image:
        is_ours = noise_map.dtype == np.int16
        noisy: Image = cv2.add(img, noise_map, dtype=cv2.CV_8U) if is_ours else super().apply(img, noise_map)
        return noisy


# Faster versions by the names of the transforms that they replace
_FASTER = {"ColorJitter": _ColorJitter, "GaussNoise": _GaussNoise}


# Transforms that choose among others, which they list as a policy does: {OneOf: {transforms: [...], p: 0.5}}
_GROUPS = ("OneOf", "SomeOf", "RandomOrder", "Sequential")


def _build(name: str, arguments: Mapping[str, Any], size: int) -> A.BasicTransform | A.BaseCompose:
    if not isinstance(arguments, Mapping):  # within a group, which the config's schema does not look into
        raise ConfigError(f"augment.policies: {name}: expected arguments by name, got {arguments!r}")
    if name in _GROUPS:
        return _build_group(name, arguments, size)
    kind: Any = _FASTER.get(name) or getattr(A, str(name), None)
    if isinstance(kind, type) and issubclass(kind, A.BaseCompose):
        raise ConfigError(
            f"augment.policies: albumentations' {name} cannot be part of a policy; of those that hold other "
            f"transforms {', '.join(_GROUPS)} can"
        )
    if not isinstance(kind, type) or not issubclass(kind, A.BasicTransform):
        raise ConfigError(f"augment.policies: albumentations has no transform {name!r}")
    known = kind.InitSchema.model_fields  # type: ignore[attr-defined]
    if "size" in known:
        arguments = {"size": (size, size), **arguments}
    return _call(kind, name, arguments, known)


def _build_group(name: str, arguments: Mapping[str, Any], size: int) -> A.BaseCompose:
    kind, inner = getattr(A, name), arguments.get("transforms")
    are_listed = isinstance(inner, Sequence) and all(isinstance(item, Mapping) for item in inner)
    if not inner or not are_listed:
        example = "{transforms: [{Blur: {}}, {GaussNoise: {}}], p: 0.5}"
        raise ConfigError(f"augment.policies: {name}: expected transforms as a list, such as {example}")
    if not isinstance(p := arguments.get("p", 0.5), int | float) or not 0 <= p <= 1:
        raise ConfigError(f"augment.policies: {name}: expected p from 0 to 1, got {p!r}")
    built = [_build(key, given or {}, size) for item in inner for key, given in item.items()]
    known = inspect.signature(kind).parameters
    return _call(kind, name, {**arguments, "transforms": built}, known)


def _call(kind: Any, name: str, arguments: Mapping[str, Any], known: Iterable[str]) -> Any:
    if unknown := set(arguments) - set(known):
        raise ConfigError(f"augment.policies: {name} has no argument {sorted(unknown)[0]!r}")
    tuples = {
        key: tuple(value) if isinstance(value, list) and key != "transforms" else value
        for key, value in arguments.items()
    }
    try:
        return kind(**tuples)
    except (ValueError, TypeError, ArithmeticError) as error:  # pydantic's have three lines per argument
        lines = [line.strip() for line in str(error).splitlines() if "For further information" not in line]
        raise ConfigError(f"augment.policies: {name}: {' '.join(lines)}") from error
