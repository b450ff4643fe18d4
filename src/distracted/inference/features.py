"""Features of the frozen base, computed once and cached on disk under a hash of their inputs."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.loading import Batch, Loader
from distracted.errors import TrainingError
from distracted.inference.cached_rows import cached_rows
from distracted.inference.device import Precision
from distracted.inference.forward import Forward, worth_folding
from distracted.models.network import Network
from distracted.progress import Progress, silent
from distracted.schema import Box


@torch.no_grad()
def cached_features(
    network: Network,
    loader: Callable[[], Loader],
    *,
    contents: list[str],
    paths: Sequence[Path] = (),
    size: int,
    crop: float,
    regions: Sequence[Box] = (),
    folder: Path,
    precision: Precision,
    progress: Progress = silent,
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """The head's input for some images, in their order, shape (num_images, num_features).

    The file's name is a hash of all inputs: the images' contents, the trunk's architecture and weights, where
    its features are taken, and the input's size, crop and regions. A change of any of them leads to a new
    file. The array is memory-mapped, since features without pooling can be large.

    Args:
        loader: Returns a loader of the images; called if the features are not in the cache.
        contents: Digest of each image.
        paths: File of each image, for messages.
        regions: Boxes that the loader shows in addition to the whole image.
        folder: Folder of feature files; may be deleted at any time.
        after_batch: Called after each batch; may raise, to stop.

    Raises:
        TrainingError: features are not finite; nothing is cached.
    """
    device = network.mean.device
    folding = "folded" if worth_folding(len(contents)) else "plain"  # they round differently
    image = [size, crop, *regions, network.normalisation]
    inputs = [*network.trunk_identity(), *image, precision, device.type, folding, *contents]
    key = sha256(repr(inputs).encode()).hexdigest()[:32]

    def start() -> tuple[Loader, Callable[[Batch], NDArray[np.float32]]]:
        forward = Forward(network, "features", num_images=len(contents), precision=precision)

        def compute(batch: Batch) -> NDArray[np.float32]:
            rows = forward(batch.images).cpu().numpy()
            _check_finite(rows, batch.indices.tolist(), paths, precision)
            return rows

        return loader(), compute

    return cached_rows(
        folder / f"{key}.npy",
        len(contents),
        start=start,
        device=device,
        label="features of the frozen base",
        progress=progress,
        after_batch=after_batch,
    )


def _check_finite(
    rows: NDArray[np.float32], indices: list[int], paths: Sequence[Path], precision: Precision
) -> None:
    """Raise TrainingError if features of a batch are not finite; says whose, and the remedy."""
    wrong = [index for index, row in zip(indices, rows, strict=True) if not np.isfinite(row).all()]
    if not wrong:
        return
    where = str(paths[wrong[0]]) if paths else f"image {wrong[0]}"
    more = f" and those of {len(wrong) - 1} others in its batch of {len(rows)}" if len(wrong) > 1 else ""
    remedy = "the weights are damaged or do not fit the backbone (model.weights, model.backbone)"
    if precision != "fp32":
        remedy = "SET='training.precision=fp32' computes them in a wider range"
    raise TrainingError(f"{where}: its features{more} are not finite in {precision}; {remedy}")
