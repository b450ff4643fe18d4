"""Rows computed from images, once, and cached on disk under a hash of their inputs.

One process computes them while others wait. After an interruption the next process continues from the rows
that are on disk.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.loading import Batch, Loader
from distracted.errors import TrainingError
from distracted.files import remove_leftovers, write_json
from distracted.inference.device import prefetch
from distracted.locks import hold, holder
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

_SYNC_SECONDS = 5.0  # between the moments at which rows are flushed to disk and counted


def cached_rows(
    path: Path,
    num_rows: int,
    *,
    start: Callable[[], tuple[Loader, Callable[[Batch], NDArray[np.float32]]]],
    device: torch.device,
    label: str,
    progress: Progress = silent,
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """A row of numbers for each image of a loader, in its order, memory-mapped, shape (num_images, width).

    Where the function computes an array for each image, the row is that array, flattened.

    Args:
        path: The .npy file; its name stands for all inputs.
        start: Called if rows are missing; returns the loader, and the function that computes the rows of a
            batch on the device. A TrainingError of it removes what there is of the file.
        after_batch: Called after each batch; may raise, to stop.
    """
    lock = path.with_suffix(".lock")
    if not lock.exists() and (rows := _load(path, num_rows)) is not None:
        return rows
    if (owner := holder(lock)) is not None:
        _log.info("%s: being computed by %s; waiting for them", label, owner)
    with hold(lock, label, patience=float("inf"), while_waiting=after_batch) as held:
        remove_leftovers(path.parent, of=path.stem)
        if (rows := _load(path, num_rows)) is not None:
            path.with_suffix(".proven").unlink(missing_ok=True)  # left by a process killed at its very end
            return rows
        loader, compute = start()
        with _GrowingFile(path, loader) as file, progress(label, total=file.num_left, unit="img") as step:
            for batch in prefetch(loader.epoch(after=file.num_batches), device):
                try:
                    computed = compute(batch)
                except TrainingError:
                    file.discard()
                    raise
                file.write(computed.reshape(len(computed), -1))
                step(len(computed))
                after_batch()
                if held.is_lost:
                    held.check()
            held.check()
    rows = _load(path, num_rows)
    assert rows is not None
    return rows


def _load(path: Path, num_rows: int) -> NDArray[np.float32] | None:
    if path.is_file():
        try:
            rows: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
            if rows.ndim == 2 and len(rows) == num_rows:
                return rows
        except (ValueError, EOFError):
            pass
        _log.warning("%s is damaged; computing it again", path)
    return None


class _GrowingFile(AbstractContextManager["_GrowingFile"]):
    """An .npy file written batch by batch as *.part, and renamed when complete.

    An interrupted pass can be resumed, because a pass is long: features of 100,000 images take hours by a
    large backbone on a CPU, and notebook sessions end after nine hours. Rows count as written only once they
    are flushed to disk and their number is in *.proven: after a power cut the file may have its full size and
    contain zeros.

    Attributes:
        num_batches: Batches on disk from an interrupted pass.
        num_left: Rows that were missing at the start.
    """

    def __init__(self, path: Path, loader: Loader) -> None:
        self._path, self._num_rows = path, loader.num_images
        self._part, self._proven = path.with_suffix(".part"), path.with_suffix(".proven")
        self._done, size = self._read_proven()
        self.num_batches = loader.batches_of(self._done)
        if not self.num_batches:  # nothing there, or written with another batch size
            self._done, size = 0, 0
        self.num_left = self._num_rows - self._done
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self._part.open("r+b" if self._done else "wb")
        self._file.truncate(size)
        self._file.seek(size)
        self._last_sync, self._keeps = time.monotonic(), True

    def write(self, rows: NDArray[np.float32]) -> None:
        """Append a batch; not through a memory map, where a full disk would kill the process."""
        if not self._done:
            _write_header(self._file, (self._num_rows, rows.shape[1]))
        self._file.write(rows.tobytes())
        self._done += len(rows)
        if time.monotonic() - self._last_sync >= _SYNC_SECONDS:
            self._sync()

    def discard(self) -> None:
        """Keep nothing of what was written."""
        self._keeps = False

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._part.replace(self._path)
                self._proven.unlink(missing_ok=True)
            elif self._keeps:
                with suppress(OSError):  # perhaps a full disk; the last successful sync still counts
                    self._sync()
        finally:
            with suppress(OSError):  # closing flushes again, and fails again on a full disk
                self._file.close()
            if not self._keeps:
                self._part.unlink(missing_ok=True)
                self._proven.unlink(missing_ok=True)

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _sync(self) -> None:
        self._flush()
        write_json(self._proven, {"rows": self._done, "size": self._file.tell()})
        self._last_sync = time.monotonic()

    def _read_proven(self) -> tuple[int, int]:
        """Rows and bytes that are known to be on disk; zeros where nothing is."""
        try:
            proven = json.loads(self._proven.read_text())
            rows, size = int(proven["rows"]), int(proven["size"])
            if rows > 0 and self._part.stat().st_size >= size > 0:
                return rows, size
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, 0


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Write the header of an .npy file of float32."""
    descr = np.lib.format.dtype_to_descr(np.dtype(np.float32))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
