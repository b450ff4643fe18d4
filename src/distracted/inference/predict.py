"""Predictions over a set of images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.loading import Batch, Loader
from distracted.inference.device import Precision, prefetch
from distracted.inference.forward import Forward
from distracted.models.network import Network
from distracted.progress import Progress, silent

_CHUNK = 1024  # rows of features per forward pass of the head


@torch.no_grad()
def predict_log_probs(
    network: Network,
    loader: Loader,
    *,
    precision: Precision,
    label: str = "predicting",
    progress: Progress = silent,
    done: list[NDArray[np.float32]] | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Natural log-probabilities of a loader's images in its order, shape (num_images, num_classes).

    The softmax is computed in float64, so that the probabilities of a row sum to 1 within float32's rounding.

    Args:
        done: Results of the batches that were predicted before an interruption. They are not repeated, unless
            their batches were of another size, and those of further batches are appended.
        after_batch: Called after each batch; may raise, to stop.
    """
    forward = Forward(network, "logits", num_images=loader.num_images, precision=precision)
    batches = [] if done is None else done
    num_done = loader.batches_of(sum(map(len, batches)))
    if not num_done:  # none yet, or of another batch size
        batches.clear()
    left = loader.num_images - loader.num_before(num_done)
    with progress(label, total=left, unit="img") as step:
        for batch in prefetch(loader.epoch(after=num_done), network.mean.device):
            batches.append(_log_probs(forward, batch.images).astype(np.float32))
            step(len(batch.images))
            after_batch()
    return np.concatenate(batches)


@dataclass(frozen=True)
class Together:
    """Predicts views of images by several networks with the same input; each image is decoded once.

    Networks see one view of a batch at a time, so memory is that of one batch and the results equal those of
    separate passes.

    Args:
        networks: On one device.
        num_images: Number of images to come, as for `Forward`.
        viewer: Makes the views on the device, from untransformed images; by default batches hold the views,
            with a dimension after the first.
    """

    networks: Sequence[Network]
    num_images: int
    precision: Precision
    viewer: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None

    @cached_property
    def _forwards(self) -> list[Forward]:
        num_images, precision = self.num_images, self.precision
        return [Forward(net, "logits", num_images=num_images, precision=precision) for net in self.networks]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        """Log-probabilities of a batch on the device, shape (B, num_networks, num_views, num_classes)."""
        images = batch.images if self.viewer is None else self.viewer(batch.untransformed())
        views = [view.contiguous() for view in images.unbind(1)]
        log_probs = np.stack([[_log_probs(forward, view) for view in views] for forward in self._forwards])
        return np.moveaxis(log_probs, 2, 0).astype(np.float32)

    def all_of(self, loader: Loader, label: str, progress: Progress = silent) -> NDArray[np.float32]:
        """Log-probabilities of a loader's images, (num_networks, num_views, num_images, num_classes)."""
        batches = []
        with progress(label, total=loader.num_images, unit="img") as step:
            for batch in prefetch(loader.epoch(), self.networks[0].mean.device):
                batches.append(self(batch))
                step(len(batch.indices))
        return np.moveaxis(np.concatenate(batches), 0, 2)


@torch.no_grad()
def predict_from_features(
    network: Network, features: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Natural log-probabilities, shape (num_rows, num_classes), of some rows of the head's input.

    Args:
        features: Shape (num_images, num_features).
    """
    network.eval()
    chunks = []
    for chunk in np.array_split(rows, max(1, -(-len(rows) // _CHUNK))):
        logits = network.head(torch.from_numpy(features[chunk]).to(network.mean.device))
        chunks.append(torch.log_softmax(logits.float().cpu().double(), dim=1).numpy())
    return np.concatenate(chunks).astype(np.float32)


def _log_probs(forward: Forward, images: torch.Tensor) -> NDArray[np.float64]:
    log_probs: NDArray[np.float64] = torch.log_softmax(forward(images).cpu().double(), dim=1).numpy()
    return log_probs
