"""Pseudo-labels as training targets: images without labels, and a teacher's probabilities for them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.training.feed import Images


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Images to learn from in addition to the training side.

    Attributes:
        images: Test images, or a fold's held-out images.
        probs: The teacher's probabilities, (num_images, num_classes).
    """

    images: Images
    probs: NDArray[np.float32]


def joint_targets(
    labels: NDArray[np.int64], rows: NDArray[np.int64], pseudo: PseudoLabels, *, weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets and loss weights of all training images, followed by those of the pseudo-labelled images.

    Only `rows` keep their label. All other training images, the held-out ones among them, get NaN: a batch
    that held one would stop the training.

    Returns:
        Probabilities, (num_images, num_classes), and weights, (num_images,).
    """
    one_hot = np.full((len(labels), pseudo.probs.shape[1]), np.nan, dtype=np.float32)
    one_hot[rows] = np.eye(pseudo.probs.shape[1], dtype=np.float32)[labels[rows]]
    weights = np.repeat([1.0, weight], [len(labels), len(pseudo.probs)]).astype(np.float32)
    return torch.from_numpy(np.concatenate([one_hot, pseudo.probs])), torch.from_numpy(weights)
