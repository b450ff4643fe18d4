"""The forward pass over a set of images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.loading import Loader
from distracted.inference.device import Precision, prefetch
from distracted.inference.forward import Forward
from distracted.models.network import Network
from distracted.progress import Progress, silent

_ROWS = 1024  # of features at a time


@torch.no_grad()
def predict_log_probs(
    network: Network,
    loader: Loader,
    *,
    device: torch.device,
    precision: Precision,
    label: str = "predicting",
    progress: Progress = silent,
    done: list[NDArray[np.float32]] | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Natural log-probabilities of a loader's images in its order, shape (num_images, num_classes).

    The softmax is taken in float64, so that each row's probabilities sum to 1 within float32's rounding.

    Args:
        done: What each of the first batches gave before the pass was interrupted: they are not predicted
            again, and the others are added to it.
        after_batch: Called after each batch; may raise, to stop.
    """
    forward = Forward(network, "logits", num_images=loader.num_images, precision=precision)
    batches = [] if done is None else done
    left = loader.num_images - loader.num_before(len(batches))
    with progress(label, total=left, unit="img") as step:
        for batch in prefetch(loader.epoch(after=len(batches)), device):
            log_probs = _log_probs(forward, batch.images)
            batches.append(log_probs.astype(np.float32))
            step(len(batch.images))
            after_batch()
    return np.concatenate(batches)


@torch.no_grad()
def predict_together(
    networks: Sequence[Network],
    loader: Loader,
    *,
    device: torch.device,
    precision: Precision,
    label: str = "predicting",
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """As `predict_log_probs`, of each view of each image by each of several networks of the same input.

    Images are decoded once for all of them. One view of a batch at a time: memory is that of a batch, and
    each view is predicted as if it were alone.

    Args:
        loader: Its images have a dimension of views after that of the batch.

    Returns:
        Shape (num_networks, num_views, num_images, num_classes).
    """
    num_images = loader.num_images
    forwards = [Forward(net, "logits", num_images=num_images, precision=precision) for net in networks]
    parts = []
    with progress(label, total=loader.num_images, unit="img") as step:
        for batch in prefetch(loader.epoch(), device):
            views = [view.contiguous() for view in batch.images.unbind(1)]
            parts.append([[_log_probs(forward, view) for view in views] for forward in forwards])
            step(len(batch.images))
    return np.concatenate(parts, axis=2).astype(np.float32)


@torch.no_grad()
def predict_from_features(
    network: Network, features: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """As `predict_log_probs`, from the frozen base's features of the images, (num_images, num_features).

    Args:
        rows: Those to predict.
    """
    network.eval()
    parts = []
    for batch in np.array_split(rows, max(1, -(-len(rows) // _ROWS))):
        logits = network.head(torch.from_numpy(features[batch]).to(network.mean.device))
        parts.append(torch.log_softmax(logits.float().cpu().double(), dim=1).numpy())
    return np.concatenate(parts).astype(np.float32)


def _log_probs(forward: Forward, images: torch.Tensor) -> NDArray[np.float64]:
    try:
        logits = forward(images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
        logits = None
    if logits is None:  # outside of the `except`, whose traceback holds on to what was computed
        return np.concatenate([_log_probs(forward, half) for half in images.tensor_split(2)])
    log_probs: NDArray[np.float64] = torch.log_softmax(logits.cpu().double(), dim=1).numpy()
    return log_probs
