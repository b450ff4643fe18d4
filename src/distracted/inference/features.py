"""Features of the frozen base: computed once, kept on disk by what they were made from.

One process computes them while others wait for it. Where it is killed, the next goes on from the rows that
are known to be on disk.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from distracted.data.loading import Loader
from distracted.files import remove_leftovers, write_json
from distracted.inference.device import Precision, prefetch
from distracted.inference.forward import Forward, worth_folding
from distracted.locks import hold, holder
from distracted.models.network import Network, fingerprint
from distracted.progress import Progress, silent
from distracted.schema import Box

_log = logging.getLogger(__name__)

_PROVE_EVERY = 5.0  # seconds between the moments at which rows are made sure of


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
    computes anew. The array stays on disk until it is read, since un-pooled features can be large.

    Args:
        contents: Digest of each image, in the loader's order.
        regions: Boxes that the loader shows beside the whole picture.
        folder: Where feature files are kept; may be deleted at any time.
        after_batch: Called after each batch; may raise, to stop.
    """
    normalisation = [tensor.flatten().tolist() for tensor in (network.mean, network.std)]
    trunk = [network.backbone.name, timm.__version__, fingerprint(network.trunk)]
    seen = [size, crop, *regions, normalisation]
    way = "folded" if worth_folding(len(contents)) else "plain"  # rounds differently
    made_from = [*trunk, *network.taken, *seen, precision, device.type, way, *contents]
    key = sha256(repr(made_from).encode()).hexdigest()[:32]
    path = folder / f"{key}.npy"
    lock = path.with_suffix(".lock")
    if not lock.exists() and (features := _load(path, len(contents))) is not None:
        return features
    if (other := holder(lock)) is not None:
        _log.info("features of the frozen base: being computed by %s; waiting for them", other)
    patience = float("inf")
    with hold(lock, "features of the frozen base", patience=patience, while_waiting=after_batch) as held:
        remove_leftovers(folder, of=key)
        if (features := _load(path, len(contents))) is not None:
            path.with_suffix(".proven").unlink(missing_ok=True)  # who made them was killed at the very end
            return features
        forward = Forward(network, "features", num_images=loader.num_images, precision=precision)
        with (
            _Rows(path, loader) as file,
            progress("features of the frozen base", total=file.num_left, unit="img") as step,
        ):
            for batch in prefetch(loader.epoch(after=file.num_batches), device):
                rows = forward(batch.images).cpu().numpy()
                file.write(rows)
                step(len(rows))
                after_batch()
                if held.is_lost:
                    held.check()
            held.check()
    features = _load(path, len(contents))
    assert features is not None
    return features


def _load(path: Path, num_images: int) -> NDArray[np.float32] | None:
    if path.is_file():
        try:
            features: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
            if features.ndim == 2 and len(features) == num_images:
                return features
        except (ValueError, EOFError):
            pass
        _log.warning("%s is damaged; computing the features anew", path)
    return None


class _Rows:
    """A file of rows that grows by batches under another name, and takes its own when it is whole.

    Attributes:
        num_batches: That are there from a pass that was interrupted.
        num_left: Rows that were not there then.
    """

    def __init__(self, path: Path, loader: Loader) -> None:
        self._path, self._num_rows = path, loader.num_images
        self._part, self._proven = path.with_suffix(".part"), path.with_suffix(".proven")
        self._done, size = self._find_proven()
        batches = [n for n in range(len(loader) + 1) if loader.num_before(n) == self._done]
        if not batches:  # it was made in batches of another size
            batches, self._done, size = [0], 0, 0
        [self.num_batches] = batches
        self.num_left = self._num_rows - self._done
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self._part.open("r+b" if self._done else "wb")
        self._file.truncate(size)
        self._file.seek(size)
        self._last = time.monotonic()

    def write(self, rows: NDArray[np.float32]) -> None:
        """Append a batch; not through a memory map, since a full disk has to be an error."""
        if not self._done:
            _write_header(self._file, (self._num_rows, rows.shape[1]))
        self._file.write(rows.tobytes())
        self._done += len(rows)
        if time.monotonic() - self._last >= _PROVE_EVERY:
            self._prove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._part.replace(self._path)
                self._proven.unlink(missing_ok=True)
            else:
                with suppress(OSError):  # a full disk, perhaps: what was proven before is kept
                    self._prove()
        finally:
            with suppress(OSError):  # which tries to write once more
                self._file.close()

    def _prove(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        write_json(self._proven, {"rows": self._done, "size": self._file.tell()})
        self._last = time.monotonic()

    def _find_proven(self) -> tuple[int, int]:
        try:
            told = json.loads(self._proven.read_text())
            rows, size = int(told["rows"]), int(told["size"])
            if rows > 0 and self._part.stat().st_size >= size > 0:
                return rows, size
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, 0


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    """The beginning of an .npy file of float32."""
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float32))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
