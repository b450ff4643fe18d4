"""The cache of decoded training pictures: decoded once at the size a network needs, then memory-mapped.

It holds the very pixels that decoding gives: a run sees the same with the cache and without.
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from distracted.data.images import Image, read_rgb
from distracted.errors import ImageError
from distracted.files import atomic_paths, remove_leftovers
from distracted.locks import hold, holder
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

#: In the files' names; counted up when pictures are reduced in another way.
_VERSION = 1
_CHUNK = 64  # pictures in memory at once while they are decoded
_LOOKED_AT = 32  # pictures by which the size of all is estimated
_GB = 1e9


class Pictures(Protocol):
    """Decoded pictures by their position: uint8 RGB, shape (H, W, 3), perhaps read-only."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image: ...


class Files:
    """Pictures that are decoded each time they are read.

    Args:
        short_side: As `read_rgb` takes it.
    """

    def __init__(self, paths: Sequence[Path], *, short_side: int | None = None) -> None:
        self._paths, self._short_side = list(paths), short_side

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Image:
        return read_rgb(self._paths[index], short_side=self._short_side)


class Kept:
    """Pictures from packs; a picture that is in none of them is decoded each time.

    Args:
        contents: Digest of each picture's file.
    """

    def __init__(self, files: Files, contents: Sequence[str], packs: Sequence["Pack"]) -> None:
        self._files, self._packs = files, list(packs)
        places = {
            content: (number, row)
            for number, pack in enumerate(packs)
            for row, content in enumerate(pack.contents)
            if pack.sizes[row].any()  # it could be decoded
        }
        self._places = np.array([places.get(content, (-1, 0)) for content in contents], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Image:
        number, row = self._places[index]
        return self._files[index] if number < 0 else self._packs[number][int(row)]


@dataclass
class Pack:
    """A file of decoded pictures, one after another, with a table of their digests and sizes.

    Attributes:
        contents: Digest of each picture's file.
        sizes: Height and width of each picture, shape (num_pictures, 2); 0 if it could not be decoded.
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
        """Leave out the memory map, which pickles as all of its bytes: each process maps the file itself."""
        return {**self.__dict__, "_bytes": None}

    @property
    def is_whole(self) -> bool:
        """Whether the file exists and has the length that its table implies."""
        return self.path.is_file() and self.path.stat().st_size == self._offsets[-1]


def keep_pictures(
    paths: Sequence[Path],
    contents: Sequence[str],
    *,
    short_side: int | None,
    folder: Path,
    limit: float | Literal["auto"],
    progress: Progress = silent,
    after_chunk: Callable[[], None] = lambda: None,
) -> Pictures:
    """Pictures from the cache, which is completed first if there is room for it.

    If several processes ask at once, one decodes and the others wait for it. Without room, pictures are
    decoded each time they are read, and a warning says so.

    Args:
        contents: Digest of each file.
        short_side: As in `read_rgb`; None: not reduced.
        folder: The cache folder; may be deleted at any time.
        limit: GB that the folder may grow to; "auto": half of what is free on its disk; 0: no cache.
        after_chunk: Called after every 64 pictures; may raise, to stop.
    """
    files = Files(paths, short_side=short_side)
    if limit == 0:
        return files
    name = f"{_VERSION}-{short_side or 'full'}"
    packs = list(_find_packs(folder, name))
    if not _missing(contents, packs):
        return Kept(files, contents, packs)
    lock = folder / "pictures.lock"
    if (other := holder(lock)) is not None:
        _log.info("decoded pictures: being made by %s; waiting for them", other)
    patience = float("inf")
    with hold(lock, "decoded pictures", patience=patience, while_waiting=after_chunk) as held:
        remove_leftovers(folder)
        packs = list(_find_packs(folder, name))

        def still_ours() -> None:
            after_chunk()
            if held.is_lost:
                held.check()

        if missing := _missing(contents, packs):
            chosen = Files([paths[i] for i in missing], short_side=short_side)
            pack = _decode(chosen, [contents[i] for i in missing], folder, name, limit, progress, still_ours)
            packs += [pack] if pack is not None else []
    return Kept(files, contents, packs)


def _missing(contents: Sequence[str], packs: Sequence[Pack]) -> list[int]:
    """The first position of each content that no pack holds."""
    known = {content for pack in packs for content in pack.contents}
    first = {content: index for index, content in reversed(list(enumerate(contents)))}
    return sorted(index for content, index in first.items() if content not in known)


def _find_packs(folder: Path, name: str) -> Iterator[Pack]:
    for path in sorted(folder.glob(f"{name}-*.parquet")):
        try:
            table = pd.read_parquet(path)
            sizes = table[["height", "width"]].to_numpy(dtype=np.int64)
            pack = Pack(path.with_suffix(".u8"), table["content"].tolist(), sizes)
        except FileNotFoundError:  # removed just now
            continue
        except (OSError, ValueError, KeyError, TypeError):
            pack = None
        if pack is not None and pack.is_whole:
            yield pack
        else:
            _log.warning("%s is damaged; its pictures are decoded again", path)


def _decode(
    files: Files,
    contents: list[str],
    folder: Path,
    name: str,
    limit: float | Literal["auto"],
    progress: Progress,
    after_chunk: Callable[[], None],
) -> Pack | None:
    """Write a pack of all files; None if there is no room for it."""
    folder.mkdir(parents=True, exist_ok=True)
    size = _estimate(files)
    held, free = _folder_size(folder), shutil.disk_usage(folder).free
    room = free / 2 if limit == "auto" else min(limit * _GB - held, free)
    about = f"{len(files):,} decoded pictures take about {_amount(size)}"
    if size > room:
        _log.warning(
            "%s, and there is room for %s in %s, which holds %s and may be deleted (runtime.cache_gb=%s, %s "
            "free): each is decoded whenever it is needed",
            about,
            _amount(max(0.0, room)),
            folder,
            _amount(held),
            limit,
            _amount(free),
        )
        return None
    _log.info("%s in %s: decoded once, for all runs of this image size", about, folder)
    path = folder / f"{name}-{sha256(''.join(contents).encode()).hexdigest()[:16]}.u8"
    sizes = np.zeros((len(files), 2), dtype=np.int64)
    try:
        with (
            atomic_paths([path, path.with_suffix(".parquet")]) as [pixels, table],
            progress("decoding pictures", total=len(files), unit="img") as step,
            ThreadPoolExecutor(torch.get_num_threads()) as pool,  # decoding releases the interpreter's lock
        ):
            with pixels.open("wb") as out:
                for start in range(0, len(files), _CHUNK):
                    rows = range(start, min(start + _CHUNK, len(files)))
                    for row, image in zip(rows, pool.map(lambda i: _try(files, i), rows), strict=True):
                        if image is not None:
                            sizes[row] = image.shape[:2]
                            out.write(image.data)
                    step(len(rows))
                    after_chunk()
            columns = {"content": contents, "height": sizes[:, 0], "width": sizes[:, 1]}
            pd.DataFrame(columns).to_parquet(table, index=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _log.warning(
            "%s: %s; each picture is decoded whenever it is needed", folder, os.strerror(error.errno)
        )
        return None
    return Pack(path, contents, sizes)


def _try(files: Files, index: int) -> Image | None:
    """A picture; None if it cannot be read, which raises again when it is used."""
    try:
        return files[index]
    except ImageError:
        return None


def _estimate(files: Files) -> float:
    """Estimated size of all pictures in bytes, from a few of them."""
    some = np.unique(np.linspace(0, len(files) - 1, _LOOKED_AT).astype(np.int64)).tolist()
    sizes = [image.size for image in (_try(files, index) for index in some) if image is not None]
    return len(files) * float(np.mean(sizes)) if sizes else 0.0


def _amount(size: float) -> str:
    return f"{size / _GB:.1f} GB" if size >= _GB else f"{size / 1e6:.1f} MB"


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
