"""The training data of a phase of gradient descent: images in batches, their targets and loss weights."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.loading import Batch, ExtraRows
from distracted.inference.device import move
from distracted.schema import TrainPhase
from distracted.training.context import FoldContext, PseudoLabels
from distracted.training.feed import Feed
from distracted.training.mixing import Mixer, share_with_partner

_log = logging.getLogger(__name__)


class TrainingSet:
    """The augmented training side of a fold, and its pseudo-labelled images, in batches.

    Attributes:
        loader: Shuffled by (seed, epoch).
    """

    def __init__(self, context: FoldContext, feed: Feed, phase: TrainPhase) -> None:
        config, rows, labels = context.config, context.train_rows, context.folds.labels
        groups = {"rows": None, "subjects": context.folds.subjects[rows], "classes": labels[rows]}
        images, extra, weights = context.train_images, None, None
        targets = torch.tensor(labels)
        if context.pseudo is not None:
            images = images.and_then(context.pseudo.images)
            extra = ExtraRows(images.rows[len(labels) :], config.pseudo.share)
            targets, weights = joint_targets(labels, rows, context.pseudo, weight=config.pseudo.weight)
        policy = phase.augment or config.augment.policy
        self.loader = feed.loader(images, rows, policy, groups=groups[config.training.sampling], extra=extra)
        self._device = context.device
        self._targets = targets.to(self._device)
        self._weights = None if weights is None else weights.to(self._device)
        self._mixer = _make_mixer(context) if config.mixing.on else None

    def inputs(
        self, batch: Batch, *, epoch: int, number: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Images, targets and loss weights of a batch on the device; mixed if the config asks for it.

        Args:
            number: Number of the batch in its epoch, from 1.

        Returns:
            uint8 images, (B, H, W, 3) or (B, R, H, W, 3); class ids, (B,), or probabilities, (B,
            num_classes); weights, (B,), or None if all are 1.
        """
        images, indices = batch.images, move(batch.indices, self._device)
        targets = self._targets[indices]
        if self._mixer is not None:
            images, targets = self._mixer(images, targets, batch.indices, epoch=epoch, number=number)
        return images, targets, None if self._weights is None else self._weights[indices]


def _make_mixer(context: FoldContext) -> Mixer:
    training, labels, subjects = context.config.training, context.folds.labels, context.folds.subjects
    if context.config.mixing.stitch.prob > 0:
        rows = context.train_rows
        share = share_with_partner(labels[rows], subjects[rows], batch_size=training.batch_size)
        _log.info(
            f"mixing.stitch: in batches of {training.batch_size}, {share:.0%} of the images find a partner "
            "of their class and another subject; the rest stay as they are"
        )
    num_classes, seed = context.num_classes, training.seed
    return Mixer(context.config.mixing, labels=labels, subjects=subjects, num_classes=num_classes, seed=seed)


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
