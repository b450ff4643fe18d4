"""A cache of decoded images at the size that a network needs, in memory-mapped files ("packs").

The cache holds the pixels that decoding gives, so a run's results do not depend on it. Training keeps reduced
images, which are augmented; evaluation keeps the network's input itself.
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.cores import decoding_threads
from distracted.data.images import Image
from distracted.data.picture_sets import Pictures
from distracted.errors import ImageError
from distracted.files import atomic_paths, remove_leftovers
from distracted.locks import hold, holder
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

_VERSION = 1  # part of the packs' names; to be increased when images are shrunk in another way
_HASH = 16  # characters of a pack's hash of its contents, in its name
_CHUNK = 64  # images in memory at once during decoding
_NUM_SAMPLED = 32  # images from which the size of all of them is estimated
_GB = 1e9


class CachedPictures:
    """Images from packs; those that are in no pack are decoded at each access.

    Args:
        contents: Digest of each image file.
    """

    def __init__(self, pictures: Pictures, contents: Sequence[str], packs: Sequence["Pack"]) -> None:
        self._pictures, self._packs = pictures, list(packs)
        places = {
            content: (number, row)
            for number, pack in enumerate(packs)
            for row, content in enumerate(pack.contents)
            if pack.sizes[row].any()  # unreadable images have size 0
        }
        self._places = np.array([places.get(content, (-1, 0)) for content in contents], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Image:
        number, row = map(int, self._places[index])
        if number >= 0:
            with suppress(FileNotFoundError):  # deleted before this process opened it
                return self._packs[number][row]
        return self._pictures[index]

    @property
    def is_complete(self) -> bool:
        """Whether all of them are in packs."""
        return bool((self._places[:, 0] >= 0).all())


@dataclass
class Pack:
    """A file of concatenated decoded images and its table.

    Attributes:
        contents: Digest of each image file.
        sizes: Height and width of each image, shape (num_images, 2); 0 if it could not be read.
    """

    path: Path
    contents: list[str]
    sizes: NDArray[np.int64]

    def __post_init__(self) -> None:
        self._offsets = np.concatenate([[0], np.cumsum(3 * self.sizes.prod(axis=1))])
        self._bytes: NDArray[np.uint8] | None = None

    def __getitem__(self, row: int) -> Image:
        if self._bytes is None:
            self._bytes = np.memmap(self.path, dtype=np.uint8, mode="r")
        height, width = self.sizes[row]
        picture: Image = self._bytes[self._offsets[row] : self._offsets[row + 1]].reshape(height, width, 3)
        return picture

    def __getstate__(self) -> dict[str, object]:
        """Leave out the memory map, which would be pickled as all of its bytes."""
        return {**self.__dict__, "_bytes": None}

    @property
    def is_complete(self) -> bool:
        """Whether the file exists and has the length that its table gives."""
        return self.path.is_file() and self.path.stat().st_size == self._offsets[-1]


def cached_pictures(
    pictures: Pictures,
    contents: Sequence[str],
    *,
    kind: str,
    folder: Path,
    limit: float | Literal["auto"],
    progress: Progress = silent,
    after_chunk: Callable[[], None] = lambda: None,
) -> Pictures:
    """Decode the images that the cache lacks, if there is room, and return all of them from there.

    If several processes call this at once, one decodes and the others wait. Without room the missing images
    are decoded at each access, and a warning says so.

    Args:
        contents: Digest of each image file.
        kind: Says how the pictures are made of the files, such as their size; part of the packs' names.
        folder: The data set's decoded images; may be deleted at any time.
        limit: Maximum size of the folder in GB; "auto": half of the disk's free space, 0: no cache.
        after_chunk: Called after each chunk of images, and about every second of waiting; may raise, to stop.
    """
    if limit == 0:
        return pictures
    name = f"{_VERSION}-{kind}"
    packs = list(_find_packs(folder, name))
    if not _missing(contents, packs):
        return CachedPictures(pictures, contents, packs)
    lock_path, work = folder / "pictures.lock", "decoding images"
    if (owner := holder(lock_path)) is not None:
        _log.info("waiting for %s, which decodes the images", owner)
    with hold(lock_path, work, patience=float("inf"), while_waiting=after_chunk) as lock:

        def check() -> None:
            after_chunk()
            if lock.is_lost:
                lock.check()

        remove_leftovers(folder)
        packs = list(_find_packs(folder, name))
        missing = _missing(contents, packs)
        if missing and _has_room(pictures, missing, folder, limit):
            digests = [contents[index] for index in missing]
            pack = _decode(pictures, missing, digests, folder, name, progress, check)
            packs += [pack] if pack is not None else []
    return CachedPictures(pictures, contents, packs)


def _missing(contents: Sequence[str], packs: Sequence[Pack]) -> list[int]:
    """Positions of the images that are in no pack; of identical ones the first."""
    first = {content: index for index, content in reversed(list(enumerate(contents)))}
    return sorted(first[content] for content in first.keys() - {c for pack in packs for c in pack.contents})


def _find_packs(folder: Path, name: str) -> Iterator[Pack]:
    for path in sorted(folder.glob(f"{name}-{'?' * _HASH}.parquet")):  # not those of a longer kind
        try:
            table = pd.read_parquet(path)
            sizes = table[["height", "width"]].to_numpy(dtype=np.int64)
            pack = Pack(path.with_suffix(".u8"), table["content"].tolist(), sizes)
        except FileNotFoundError:  # removed by another process
            continue
        except (OSError, ValueError, KeyError, TypeError):
            pack = None
        if pack is not None and pack.is_complete:
            yield pack
        else:
            _log.warning("%s is damaged; its images are decoded again", path)


def _decode(
    pictures: Pictures,
    indices: list[int],
    contents: list[str],
    folder: Path,
    name: str,
    progress: Progress,
    after_chunk: Callable[[], None],
) -> Pack | None:
    """Write a pack of some images; None if the disk is full."""
    path = folder / f"{name}-{sha256(''.join(contents).encode()).hexdigest()[:_HASH]}.u8"
    try:
        with atomic_paths([path, path.with_suffix(".parquet")]) as [pixels, table]:
            sizes = _write_pixels(pictures, indices, pixels, progress, after_chunk)
            columns = {"content": contents, "height": sizes[:, 0], "width": sizes[:, 1]}
            pd.DataFrame(columns).to_parquet(table, index=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _log.warning("%s: %s; each image is decoded whenever it is needed", folder, os.strerror(error.errno))
        return None
    return Pack(path, contents, sizes)


def _has_room(pictures: Pictures, indices: list[int], folder: Path, limit: float | Literal["auto"]) -> bool:
    """Whether a pack of some images fits into the folder; log the answer."""
    sample = np.unique(np.linspace(0, len(indices) - 1, _NUM_SAMPLED).astype(np.int64)).tolist()
    sizes = [image.nbytes for image in (_try(pictures, indices[i]) for i in sample) if image is not None]
    size = len(indices) * float(np.mean(sizes)) if sizes else 0.0
    taken = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    free = shutil.disk_usage(folder).free
    room = free / 2 if limit == "auto" else min(limit * _GB - taken, free)
    need = f"{len(indices):,} decoded images take about {_amount(size)}"
    if size <= room:
        _log.info("%s in %s: decoded once, for all runs with this image size", need, folder)
        return True
    _log.warning(
        f"{need}, but there is room for {_amount(max(0.0, room))} in {folder} (runtime.cache_gb={limit}; it "
        f"holds {_amount(taken)}, {_amount(free)} are free): each image is decoded whenever it is needed; "
        "deleting the folder makes room"
    )
    return False


def _write_pixels(
    pictures: Pictures, indices: list[int], path: Path, progress: Progress, after_chunk: Callable[[], None]
) -> NDArray[np.int64]:
    """Decode some images into one file; returns heights and widths, shape (num_images, 2)."""
    sizes = np.zeros((len(indices), 2), dtype=np.int64)
    pool = ThreadPoolExecutor(decoding_threads())  # decoding releases the GIL
    try:
        with path.open("wb") as out, progress("decoding images", total=len(indices), unit="img") as step:
            for start in range(0, len(indices), _CHUNK):
                rows = range(start, min(start + _CHUNK, len(indices)))
                chunk = [pool.submit(_try, pictures, indices[row]) for row in rows]
                for row, decoding in zip(rows, chunk, strict=True):
                    while not decoding.done() and wait([decoding], timeout=1.0).not_done:
                        after_chunk()
                    image = decoding.result()
                    if image is not None:
                        sizes[row] = image.shape[:2]
                        out.write(np.ascontiguousarray(image).data)
                step(len(rows))
                after_chunk()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a stop does not wait for a disk
    return sizes


def _try(pictures: Pictures, index: int) -> Image | None:
    """Decode an image; None if it cannot be read, which is an error only for those who access it."""
    try:
        return pictures[index]
    except ImageError:
        return None


def _amount(size: float) -> str:
    return f"{size / _GB:.1f} GB" if size >= _GB else f"{size / 1e6:.1f} MB"
