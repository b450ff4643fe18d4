"""Pseudo-labels on their way into training: images without labels, and what a teacher says of them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.training.feed import Images


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Images to learn from beside the training side.

    Attributes:
        images: Of the test set, or of a held-out fold.
        probs: What the teacher says, soft, (num_images, num_classes).
    """

    images: Images
    probs: NDArray[np.float32]


def joint_targets(
    labels: NDArray[np.int64], rows: NDArray[np.int64], pseudo: PseudoLabels, *, weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets and loss weights of all training images followed by the pseudo-labelled ones.

    Only `rows` keep their label: any other training image, such as a held-out one, is NaN, so that a batch
    that held it would stop the training.

    Returns:
        Probabilities, (num_images, num_classes), and weights, (num_images,).
    """
    one_hot = np.full((len(labels), pseudo.probs.shape[1]), np.nan, dtype=np.float32)
    one_hot[rows] = np.eye(pseudo.probs.shape[1], dtype=np.float32)[labels[rows]]
    weights = np.repeat([1.0, weight], [len(labels), len(pseudo.probs)]).astype(np.float32)
    return torch.from_numpy(np.concatenate([one_hot, pseudo.probs])), torch.from_numpy(weights)
