"""Stitch, mixup and cutmix: each image of a training batch is combined with another of the batch.

Random numbers are drawn on the CPU from (seed, epoch, batch number); the images are mixed on their device.
Partners come from the same batch, so no image is decoded twice. Images stay uint8, the networks' input type.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distracted.inference.device import move
from distracted.schema import MixingConfig

#: Range of the cut in a stitched image, as a share of its width.
CUTS = (0.3, 0.7)

Ints = NDArray[np.int64]

_WAYS = ("stitch", "mixup", "cutmix", "none")


class Mixer:
    """Mixes each training batch in one way, drawn with the config's probabilities, or not at all.

    Args:
        labels: Class ids of all images of the data set, shape (num_images,).
        subjects: Their subject ids, shape (num_images,).
        seed: The run's seed.
    """

    def __init__(
        self, config: MixingConfig, *, labels: Ints, subjects: Ints, num_classes: int, seed: int
    ) -> None:
        self._config, self._labels, self._subjects = config, labels, subjects
        self._num_classes, self._seed = num_classes, seed
        self._up_to = np.cumsum(config.probs)

    def __call__(
        self, images: Tensor, targets: Tensor, indices: Tensor, *, epoch: int, number: int
    ) -> tuple[Tensor, Tensor]:
        """Mix one batch.

        Args:
            images: uint8, shape (B, H, W, 3), or with a dimension of regions after the first.
            targets: Class ids on the same device, shape (B,).
            indices: Positions in the data set, on the CPU, shape (B,).
            number: Number of the batch in its epoch, from 1.

        Returns:
            Images of the same shape and type, and targets: the class ids, or probabilities, shape
            (B, num_classes), if classes were mixed.
        """
        assert number > 0  # numpy pads seeds with zeros: batch 0 would repeat the draws of the shuffle
        rng = np.random.default_rng([self._seed, epoch, number])
        way = _WAYS[np.searchsorted(self._up_to, rng.random(), side="right")]
        rows = indices.numpy()
        if way == "none":
            return images, targets
        if way == "stitch":
            partners = find_partners(self._labels[rows], self._subjects[rows], rng)
            cuts = np.rint(rng.uniform(*CUTS, len(rows)) * images.shape[-2]).astype(np.int64)
            return stitch(images, partners, cuts), targets
        partners = rng.permutation(len(rows))
        if way == "mixup":
            share = rng.beta(self._config.mixup.alpha, self._config.mixup.alpha)
            mixed = mixup(images, partners, share)
        else:
            box = draw_box(images.shape[-3], images.shape[-2], self._config.cutmix.alpha, rng)
            mixed, share = cutmix(images, partners, box)
        return mixed, soft_targets(targets, partners, share, num_classes=self._num_classes)


def find_partners(labels: Ints, subjects: Ints, rng: np.random.Generator) -> Ints:
    """A random image of the same class and another subject for each image of a batch, else the image itself.

    Args:
        labels, subjects: Ids, shape (B,).

    Returns:
        Positions in the batch, shape (B,).
    """
    fits = (labels[:, None] == labels) & (subjects[:, None] != subjects)
    chosen = np.where(fits, rng.random(fits.shape), -1.0).argmax(axis=1)
    return np.where(fits.any(axis=1), chosen, np.arange(len(labels)))


def share_with_partner(labels: Ints, subjects: Ints, *, batch_size: int) -> float:
    """Expected share of images in a random batch that have a partner to be stitched with."""
    pairs = labels * (subjects.max() + 1) + subjects
    _, pair, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    fitting = np.bincount(labels)[labels] - counts[pair]
    missed = 1 - fitting / max(1, len(labels) - 1)
    return float((1 - missed ** (min(batch_size, len(labels)) - 1)).mean())


def stitch(images: Tensor, partners: Ints, cuts: Ints) -> Tensor:
    """Join the left part of each image with the right part of its partner.

    The 5th place of State Farm trained on left and right halves of two images of a class. Here images are
    augmented first, and the cut is drawn from `CUTS`.

    Args:
        images: Shape (B, ..., H, W, 3).
        cuts: First column of the partner's part, shape (B,).
    """
    columns = torch.arange(images.shape[-2], device=images.device)
    is_partners = columns >= _on(images, cuts)[:, None]
    shape = len(images), *[1] * (images.ndim - 3), images.shape[-2], 1
    return torch.where(is_partners.view(shape), images[_on(images, partners)], images)


def mixup(images: Tensor, partners: Ints, share: float) -> Tensor:
    """Blend each image with its partner, which gets 1 - `share` (Zhang et al. 2018).

    Rounding to uint8 changes a value by at most half a grey level.
    """
    other = images[_on(images, partners)].float()
    return other.lerp_(images.float(), share).round_().to(images.dtype)


def draw_box(height: int, width: int, alpha: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a cutmix box: uniform centre, area from Beta(alpha, alpha), clipped."""
    side = float(np.sqrt(1 - rng.beta(alpha, alpha)))
    y, x = int(rng.integers(height)), int(rng.integers(width))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    top, left = max(0, y - half_height), max(0, x - half_width)
    return top, min(height, y + half_height), left, min(width, x + half_width)


def cutmix(images: Tensor, partners: Ints, box: tuple[int, int, int, int]) -> tuple[Tensor, float]:
    """Replace a box of each image with the same box of its partner (Yun et al. 2019).

    Returns:
        The images, and the share of each image's own pixels.
    """
    top, bottom, left, right = box
    mixed = images.clone()
    mixed[..., top:bottom, left:right, :] = images[_on(images, partners)][..., top:bottom, left:right, :]
    return mixed, 1 - (bottom - top) * (right - left) / (images.shape[-3] * images.shape[-2])


def soft_targets(targets: Tensor, partners: Ints, share: float, *, num_classes: int) -> Tensor:
    """Probabilities, shape (B, num_classes): `share` for the own class, the rest for the partner's."""
    # F.one_hot would look at the values on some devices, and wait for them
    own = (targets[:, None] == torch.arange(num_classes, device=targets.device)).float()
    return torch.lerp(own[_on(targets, partners)], own, share)


def _on(tensor: Tensor, positions: Ints) -> Tensor:
    """Positions on the device of a tensor; from pinned memory, so that nothing waits for the copy."""
    copied = torch.from_numpy(positions)
    return move(copied.pin_memory() if tensor.is_cuda else copied, tensor.device)
