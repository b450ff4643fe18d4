"""Features of the frozen base: computed once, kept on disk by what they were made from."""

import logging
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from distracted.data.loading import Loader
from distracted.files import atomic_path
from distracted.inference.device import Precision, autocast, move
from distracted.models.network import Network, fingerprint
from distracted.progress import Progress, silent
from distracted.schema import Box

_log = logging.getLogger(__name__)


@torch.no_grad()
def cached_features(
    network: Network,
    loader: Loader,
    *,
    contents: list[str],
    size: int,
    crop: float,
    regions: Sequence[Box] = (),
    folder: Path,
    device: torch.device,
    precision: Precision,
    progress: Progress = silent,
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """What the head takes of a loader's images, in its order, shape (num_images, num_features).

    The file's name is a hash of the images' contents, the trunk's architecture and weights, where and how its
    output is taken, and the input's size, crop and regions: what changes any of them finds no file and
    computes anew.
    The array stays on disk until it is read, since un-pooled features can be large.

    Args:
        contents: Digest of each image, in the loader's order.
        regions: Boxes that the loader shows beside the whole picture.
        folder: Where feature files are kept; may be deleted at any time.
        after_batch: Called after each batch; may raise, to stop.
    """
    normalisation = [tensor.flatten().tolist() for tensor in (network.mean, network.std)]
    trunk = [network.backbone.name, timm.__version__, fingerprint(network.trunk)]
    seen = [size, crop, *regions, normalisation]
    made_from = [*trunk, *network.taken, *seen, precision, device.type, *contents]
    key = sha256(repr(made_from).encode()).hexdigest()[:32]
    path = folder / f"{key}.npy"
    if path.is_file():
        try:
            features: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
            if len(features) == len(contents):
                return features
        except (ValueError, EOFError):
            _log.warning("%s is damaged; computing the features anew", path)
    network.eval()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        done = 0
        with progress("features of the frozen base", total=loader.num_images, unit="img") as step:
            for batch in loader.epoch():
                with autocast(device, precision):
                    rows = network.features(move(batch.images, device)).float().cpu().numpy()
                if not done:
                    _write_header(file, (loader.num_images, rows.shape[1]))
                file.write(rows.tobytes())  # not through a memory map: a full disk has to be an error
                done += len(rows)
                step(len(rows))
                after_batch()
    written: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return written


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    """The beginning of an .npy file of float32."""
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float32))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
