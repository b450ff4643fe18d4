"""Fits a head on features of the frozen base: by logistic regression, or by gradient descent."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distracted.errors import TrainingError
from distracted.models.linear import fit_logistic
from distracted.models.network import Network
from distracted.progress import Progress, silent
from distracted.schema import FeaturesPhase, HeadPhase
from distracted.training.optim import make_head_optimizer


def fit_head(
    network: Network, features: NDArray[np.float32], labels: NDArray[np.int64], phase: FeaturesPhase
) -> None:
    """Fit a logistic regression and load it into the network's head.

    Args:
        features: Features of the training side, shape (num_images, num_features).
        labels: Class ids, each class present, shape (num_images,).
    """
    weight, bias = fit_logistic(features, labels, c=phase.c, max_iter=phase.max_iter)
    with torch.no_grad():
        network.head.classifier.weight.copy_(torch.from_numpy(weight))
        network.head.classifier.bias.copy_(torch.from_numpy(bias))


def train_head(
    network: Network,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    phase: HeadPhase,
    *,
    seed: int,
    progress: Progress = silent,
    label: str = "",
) -> None:
    """Train the head by gradient descent on features, in place; batches are shuffled by (seed, epoch).

    Args:
        features: Features of all images, (num_images, num_features); may be a memory map, read by batches.
        labels: Class ids, shape (num_images,).
        rows: Rows to train on.

    Raises:
        TrainingError: the loss is not finite.
    """
    device = network.mean.device
    optimizer = make_head_optimizer(network, phase)
    network.head.train()
    with progress(label, total=phase.epochs * len(rows), unit="img") as step:
        for epoch in range(phase.epochs):
            shuffled = np.random.default_rng([seed, epoch]).permutation(rows)
            for batch in np.array_split(shuffled, -(-len(rows) // phase.batch_size)):
                optimizer.zero_grad(set_to_none=True)
                logits = network.head(torch.from_numpy(features[batch]).to(device))
                loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch]).to(device))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                step(len(batch), lr=phase.lr)
            if not bool(loss.isfinite()):
                raise TrainingError(
                    f"{label}: the loss is {loss.item()} after epoch {epoch + 1}; a lower rate than "
                    f"{phase.lr:.2g} may help"
                )
