"""Training losses by name. A new loss is one function and one row of `LOSSES`.

Every loss takes class ids, shape (B,), or probabilities, shape (B, num_classes), as targets: mixup, cutmix
and pseudo-labels give the latter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from distracted.errors import ConfigError
from distracted.schema import TrainingConfig

Reduction = Literal["mean", "none"]

_LEAST = 1e-6  # of 1 - p in the focal loss: below an exponent of 1 its gradient is infinite at 0


@dataclass(frozen=True, eq=False)
class Options:
    """Settings that the losses share.

    Attributes:
        label_smoothing: Share of each target that is spread evenly over all classes.
        class_weights: Weight of each class's term, shape (num_classes,); None: all 1.
        focal_gamma: Exponent of the focal loss.
    """

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    focal_gamma: float = 2.0


#: Maps logits, shape (B, num_classes), and targets to the mean over images, or to each image's loss, (B,).
Loss = Callable[[Tensor, Tensor, Options, Reduction], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor, options: Options, reduction: Reduction) -> Tensor:
    """Cross-entropy of the softmax."""
    weights, smoothing = options.class_weights, options.label_smoothing
    return F.cross_entropy(logits, targets, weights, label_smoothing=smoothing, reduction=reduction)


def focal(logits: Tensor, targets: Tensor, options: Options, reduction: Reduction) -> Tensor:
    """Cross-entropy with each class's term scaled by (1 - p) ** gamma (Lin et al., ICCV 2017)."""
    log_probs = logits.log_softmax(1)
    scale = (1 - log_probs.exp()).clamp(min=_LEAST) ** options.focal_gamma
    return _reduce(-_soft(targets, logits, options) * scale * log_probs, options, reduction)


def binary_cross_entropy(logits: Tensor, targets: Tensor, options: Options, reduction: Reduction) -> Tensor:
    """One sigmoid a class against one-hot targets, summed over classes (Wightman et al. 2021: the mean).

    Predictions are still the softmax of the logits: calibrate such a run (`make calibrate`).
    """
    soft = _soft(targets, logits, options)
    losses = F.binary_cross_entropy_with_logits(logits, soft.to(logits.dtype), reduction="none")
    return _reduce(losses, options, reduction)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "binary_cross_entropy": binary_cross_entropy,
}


def _soft(targets: Tensor, logits: Tensor, options: Options) -> Tensor:
    """Targets as smoothed probabilities, shape (B, num_classes)."""
    num_classes = logits.shape[1]
    soft = targets if targets.ndim == 2 else F.one_hot(targets, num_classes).float()
    return soft * (1 - options.label_smoothing) + options.label_smoothing / num_classes


def _reduce(terms: Tensor, options: Options, reduction: Reduction) -> Tensor:
    """Weigh and sum the classes' terms, shape (B, num_classes)."""
    losses = (terms if options.class_weights is None else terms * options.class_weights).sum(1)
    return losses.mean() if reduction == "mean" else losses


def make_criterion(
    config: TrainingConfig, *, labels: NDArray[np.int64], num_classes: int, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The loss of a batch: a function of logits, targets and the images' weights, shape (B,) or None.

    It is the mean over images, whatever their weights and those of their classes, so that a batch in parts
    gives the same gradient.

    Args:
        labels: Class ids of the training side, for balanced class weights, shape (num_images,).

    Raises:
        ConfigError: class weights that do not fit the classes.
    """
    loss, weights = LOSSES[config.loss], class_weights(config, labels, num_classes)
    on_device = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    options = Options(config.label_smoothing, on_device, config.focal_gamma)

    def criterion(logits: Tensor, targets: Tensor, image_weights: Tensor | None) -> Tensor:
        if image_weights is None and options.class_weights is None:
            return loss(logits, targets, options, "mean")
        losses = loss(logits, targets, options, "none")
        return (losses if image_weights is None else losses * image_weights).mean()

    return criterion


def check_loss(config: TrainingConfig) -> None:
    """Refuse a loss that is not in the table."""
    if config.loss not in LOSSES:
        raise ConfigError(f"training.loss={config.loss}: unknown loss; expected {', '.join(LOSSES)}")


def class_weights(
    config: TrainingConfig, labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.float64] | None:
    """Weight of each class, shape (num_classes,); None: all 1.

    `balanced` is scikit-learn's: inverse to the class's share of the training side, 1 on average over images.
    """
    if config.class_weights == "none":
        return None
    if config.class_weights == "balanced":
        counts = np.bincount(labels, minlength=num_classes)
        return len(labels) / (num_classes * np.maximum(counts, 1))
    if len(config.class_weights) != num_classes:
        raise ConfigError(
            f"training.class_weights: got {len(config.class_weights)} weights for {num_classes} classes; "
            "expected one for each class, in the order of the classes"
        )
    return np.array(config.class_weights)
