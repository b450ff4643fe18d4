"""Stitch, mixup and cutmix: a training batch whose images are made of two of its images each.

All is drawn on the CPU from (seed, epoch, batch number) and done on the images' device. Partners come from
the batch itself, so that no image is decoded twice. Images stay uint8, since networks take no other.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from distracted.schema import MixingConfig

#: Where a stitched image is cut, as a share of its width.
CUTS = (0.3, 0.7)

_WAYS = ("stitch", "mixup", "cutmix", "none")


class Mixer:
    """Mixes training batches, each in one of the ways that a config gives a probability, or in none.

    Args:
        labels: Class id of each of the data set's images, shape (num_images,).
        subjects: Subject id of each of them, shape (num_images,).
        seed: The run's seed.
    """

    def __init__(
        self,
        config: MixingConfig,
        *,
        labels: NDArray[np.int64],
        subjects: NDArray[np.int64],
        num_classes: int,
        seed: int,
    ) -> None:
        self._config, self._labels, self._subjects = config, labels, subjects
        self._num_classes, self._seed = num_classes, seed
        self._up_to = np.cumsum(config.probs)

    def __call__(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        indices: torch.Tensor,
        *,
        epoch: int,
        number: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix one batch.

        Args:
            images: uint8, shape (B, H, W, 3), perhaps with a dimension of regions after the first.
            targets: Their class ids, on the same device, shape (B,).
            indices: Their positions in the data set, on the CPU, shape (B,).
            number: The batch's, in its epoch, from 1 on.

        Returns:
            Images of the same shape and type, and their targets: the class ids, or, where classes were mixed,
            probabilities, shape (B, num_classes).
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


def find_partners(
    labels: NDArray[np.int64], subjects: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """For each image of a batch another of the same class and another subject, or itself where there is none.

    Args:
        labels: Class ids, shape (B,).
        subjects: Subject ids, shape (B,).

    Returns:
        Positions in the batch, shape (B,).
    """
    fits = (labels[:, None] == labels) & (subjects[:, None] != subjects)
    chosen = np.where(fits, rng.random(fits.shape), -1.0).argmax(axis=1)
    return np.where(fits.any(axis=1), chosen, np.arange(len(labels)))


def share_with_partner(labels: NDArray[np.int64], subjects: NDArray[np.int64], *, batch_size: int) -> float:
    """Expected share of images that find a partner to be stitched with in a random batch of these rows."""
    pairs = labels * (subjects.max() + 1) + subjects
    _, pair, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    fitting = np.bincount(labels)[labels] - counts[pair]
    missed = 1 - fitting / max(1, len(labels) - 1)
    return float((1 - missed ** (min(batch_size, len(labels)) - 1)).mean())


def stitch(images: torch.Tensor, partners: NDArray[np.int64], cuts: NDArray[np.int64]) -> torch.Tensor:
    """The left part of each image beside the right part of its partner.

    The 5th place of State Farm trained on left and right halves of two images of a class. Here images are
    augmented before they are cut, and the cut lies anywhere in `CUTS`.

    Args:
        images: Shape (B, ..., H, W, 3).
        cuts: The partner's first column, shape (B,).
    """
    stitched = images.clone()
    for image, partner, cut in zip(stitched, partners.tolist(), cuts.tolist(), strict=True):
        image[..., cut:, :] = images[partner, ..., cut:, :]
    return stitched


def mixup(images: torch.Tensor, partners: NDArray[np.int64], share: float) -> torch.Tensor:
    """Each image over its partner, `share` of the one and the rest of the other (Zhang et al. 2018).

    Rounded to uint8, which changes a value by half a grey level at most.
    """
    other = images[_on(images, partners)].float()
    return other.lerp_(images.float(), share).round_().to(images.dtype)


def draw_box(height: int, width: int, alpha: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the box of a cutmix: its centre anywhere, its area a Beta's share.

    What would lie outside of the image is cut off.
    """
    side = float(np.sqrt(1 - rng.beta(alpha, alpha)))
    y, x = int(rng.integers(height)), int(rng.integers(width))
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    top, left = max(0, y - half_height), max(0, x - half_width)
    return top, min(height, y + half_height), left, min(width, x + half_width)


def cutmix(
    images: torch.Tensor, partners: NDArray[np.int64], box: tuple[int, int, int, int]
) -> tuple[torch.Tensor, float]:
    """Each image with a box of its partner in the same place (Yun et al. 2019).

    Returns:
        The images, and the share of their pixels that are their own.
    """
    top, bottom, left, right = box
    mixed = images.clone()
    mixed[..., top:bottom, left:right, :] = images[_on(images, partners)][..., top:bottom, left:right, :]
    return mixed, 1 - (bottom - top) * (right - left) / (images.shape[-3] * images.shape[-2])


def soft_targets(
    targets: torch.Tensor, partners: NDArray[np.int64], share: float, *, num_classes: int
) -> torch.Tensor:
    """Probabilities, shape (B, num_classes): `share` of an image's own class, the rest of its partner's."""
    own = F.one_hot(targets, num_classes).float()
    return torch.lerp(own[_on(targets, partners)], own, share)


def _on(tensor: torch.Tensor, positions: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(positions).to(tensor.device)
