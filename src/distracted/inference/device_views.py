"""Views of images made on the device: one upload of each image; crops, rotations and colour are done there.

The pixels are those of `View` within rounding. A resize is linear along each axis, so it is a product with a
matrix of weights for the rows and one for the columns: OpenCV's weights, computed on the device.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F

from distracted.data.augment import crop_box, region_box, resize_interpolation
from distracted.inference.views import View, lookup_table, rotation_matrix
from distracted.schema import Box

_PIXELS = 2**25  # at once: as floats they take 400 MB of the device's memory, and rotated as much again


class DeviceViewer:
    """Makes all views of images on their device; arguments as for `Viewer`."""

    def __init__(self, views: Sequence[View], *, size: int, crop: float, regions: Sequence[Box] = ()) -> None:
        self._views, self._size, self._crop = tuple(views), size, crop
        self._regions = tuple(regions)

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """All views of images of any sizes, uint8, shape (H, W, 3) each.

        Returns:
            Shape (B, num_views, size, size, 3); with regions (B, num_views, 1 + num_regions, size, size, 3).
        """
        num_regions = [1 + len(self._regions)] if self._regions else []
        shape = len(images), len(self._views), *num_regions, self._size, self._size, 3
        views = torch.empty(shape, dtype=torch.uint8, device=images[0].device)
        by_shape: dict[torch.Size, list[int]] = {}
        for number, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(number)
        for (height, width, _), numbers in by_shape.items():
            at_once = max(1, _PIXELS // (height * width))
            for start in range(0, len(numbers), at_once):
                part = numbers[start : start + at_once]
                views[part] = self._of_one_size(torch.stack([images[number] for number in part]))
        return views

    def _of_one_size(self, images: Tensor) -> Tensor:
        """Views of images, shape (B, H, W, 3)."""
        height, width = images.shape[1:3]
        boxes = [(slice(0, height), slice(0, width))]
        boxes += [region_box(height, width, box) for box in self._regions]
        parts = [images[:, rows, columns].permute(0, 3, 1, 2).float() for rows, columns in boxes]
        views = [torch.stack([self._view(part, view) for part in parts], dim=1) for view in self._views]
        stacked = torch.stack(views, dim=1)
        return stacked if self._regions else stacked[:, :, 0]

    def _view(self, images: Tensor, view: View) -> Tensor:
        """One view of images (B, 3, H, W) with values from 0 to 255: uint8, shape (B, size, size, 3)."""
        if view.degrees:
            images = _rotate(images, view.degrees)
        height, width = images.shape[2:]
        rows, columns = crop_box(height, width, self._crop * view.share, view.across, view.down)
        images = images[:, :, rows, columns]
        by_row, by_column = resize_weights(*images.shape[2:], self._size, images.device)
        resized = (by_row @ images @ by_column.T).round_().clamp_(0, 255).permute(0, 2, 3, 1)
        if view.gamma == 1 and view.contrast == 1:
            return resized.to(torch.uint8)
        table = torch.from_numpy(lookup_table(view.gamma, view.contrast)).to(images.device)
        return table[resized.long()]


@lru_cache(16)  # the views of an image have few sizes
def resize_weights(height: int, width: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights of OpenCV's resize from (height, width) to (size, size), along each axis.

    Positions are integers, in fractions of a pixel, so that the weights are exact on any device.

    Returns:
        Shapes (size, height) and (size, width).
    """
    if resize_interpolation(height, width, size) == cv2.INTER_CUBIC:
        weights = _cubic
    else:  # OpenCV's INTER_AREA is another method where either side grows
        weights = _area_growing if min(height, width) < size else _area
    return weights(height, size, device), weights(width, size, device)


def _area(length: int, size: int, device: torch.device) -> Tensor:
    """INTER_AREA: the share of each output pixel that each input pixel covers.

    OpenCV drops the overlap of less than 0.001 of an input pixel, which changes no grey level by 1.
    """
    output = length * torch.arange(size, device=device)[:, None]  # in 1 / size input pixels
    start = size * torch.arange(length, device=device) - output
    end = (start + size).clamp_(max=length)
    return end.sub_(start.clamp_(min=0)).clamp_(min=0) / length


def _area_growing(length: int, size: int, device: torch.device) -> Tensor:
    """INTER_AREA where either side grows: a mean of two pixels.

    The input pixel in which an output pixel starts has the share that it covers; the next one has the rest.
    Where both start at the same point, rounding decides which pixel is the first; it is that of OpenCV.
    """
    ratio, output = size / length, torch.arange(size, dtype=torch.float64)
    first = (output * (1 / ratio)).floor().clamp(max=length - 1)
    rest = (output + 1 - (first + 1) * ratio).float().clamp(min=0) % 1
    rest = rest.masked_fill(first == length - 1, 0).to(device)[:, None]
    place = torch.arange(length, device=device) - first.long().to(device)[:, None]
    return (place == 0) * (1 - rest) + (place == 1) * rest


def _cubic(length: int, size: int, device: torch.device) -> Tensor:
    """INTER_CUBIC: Keys' kernel around the centre of each output pixel; the image's border is repeated."""
    a = -0.75  # OpenCV's
    centre = length * (2 * torch.arange(size, device=device)[:, None] + 1) - size  # in 1 / (2 * size) pixels
    d = (centre - 2 * size * torch.arange(-2, length + 2, device=device)).abs() / (2 * size)
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    weights = torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))
    inside = weights[:, 2:-2].clone()
    inside[:, 0] += weights[:, :2].sum(1)
    inside[:, -1] += weights[:, -2:].sum(1)
    return inside


def _rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotate counter-clockwise about the centre; bilinear, rounded, the border filled by reflection."""
    height, width = images.shape[2:]
    inverse = cv2.invertAffineTransform(rotation_matrix(height, width, degrees))
    matrix = torch.from_numpy(inverse).to(images.device, torch.float32)
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device), torch.arange(width, device=images.device), indexing="ij"
    )
    source = torch.stack([x, y, torch.ones_like(x)], dim=-1).float() @ matrix.T
    ends = torch.tensor([width - 1, height - 1], device=images.device)
    grid = (2 * source / ends - 1).expand(len(images), -1, -1, -1)
    rotated = F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    return rotated.round_().clamp_(0, 255)
