"""Digests of image files, kept until the file system says that a file has changed."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import pandas as pd

from distracted.errors import ImageError, ImagesError
from distracted.files import FileState, atomic_path
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

_SHOWN = 5
_COLUMNS = ["name", *FileState._fields, "digest"]

_Digests = dict[str, tuple[FileState, str]]


def digest_images(
    paths: Sequence[Path | str], *, root: Path, cache: Path | None = None, progress: Progress = silent
) -> list[str]:
    """BLAKE2b digest of each image file; new and changed files are also checked to be complete images.

    Args:
        paths: Existing files below `root`.
        cache: Parquet file of earlier digests. A file is read again unless its `FileState` is the same. Files
            that changed within the last two seconds are not remembered.

    Raises:
        ImagesError: files are empty, truncated or no images; the message names the first few.
    """
    known = _read_cache(cache)
    now = time.time_ns()
    prefix = f"{root}{os.sep}"
    names = [str(path).removeprefix(prefix) for path in paths]
    states = [FileState.of(path) for path in paths]
    digests = [_recall(known, *key) for key in zip(names, states, strict=True)]
    missing = [index for index, digest in enumerate(digests) if digest is None]
    if missing:
        states_now = {names[index]: states[index] for index in missing}
        if 2 * _num_alike(known, states_now) > len(missing):
            _log.info(
                "most images are read again: their sizes and times are as before, but not their inodes or "
                "change times. A copy has others, and some network drives give others after each mount; "
                "images on a local disk are read once"
            )
        bad: dict[Path, str] = {}
        files = [Path(paths[index]) for index in missing]
        try:
            with (
                ThreadPoolExecutor(4) as pool,  # hashing and reading release the GIL
                progress("reading images", total=len(missing), unit="img") as step,
            ):
                for index, result in zip(missing, pool.map(_read_and_digest, files), strict=True):
                    if isinstance(result, ImageError):
                        bad[Path(paths[index])] = str(result)
                    else:
                        digests[index] = result
                        if states[index].is_settled(now):
                            known[names[index]] = states[index], result
                    step()
        finally:  # a stop costs nothing: from a slow disk this takes hours
            if cache is not None:
                _write_cache(cache, known)
        if bad:
            rest = f"\n... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            raise ImagesError("\n".join([*bad.values()][:_SHOWN]) + rest, bad)
    return [digest for digest in digests if digest is not None]


def digest_bytes(data: bytes) -> str:
    """The digest of an image file's bytes, 32 hex digits."""
    return blake2b(data, digest_size=16).hexdigest()


def _read_and_digest(path: Path) -> str | ImageError:
    from distracted.data.images import check_bytes, read_bytes  # imports OpenCV, which is slow

    try:
        data = read_bytes(path)
        check_bytes(data, path)
    except ImageError as error:
        return error
    return digest_bytes(data)


def _recall(known: _Digests, name: str, state: FileState) -> str | None:
    """A file's digest, if it was the same file when it was read; else None."""
    entry = known.get(name)
    return entry[1] if entry is not None and entry[0] == state else None


def _num_alike(known: _Digests, states: Mapping[str, FileState]) -> int:
    """Number of changed files whose sizes and modification times are those of the known ones."""
    return sum(name in known and known[name][0][:2] == state[:2] for name, state in states.items())


def _read_cache(cache: Path | None) -> _Digests:
    """States and digests by name; empty if the cache is missing, damaged or of an earlier version."""
    if cache is None or not cache.is_file():
        return {}
    try:
        table = pd.read_parquet(cache, columns=_COLUMNS)
    except (OSError, ValueError, KeyError):
        return {}
    names, *states, digests = (table[name].tolist() for name in _COLUMNS)
    entries = zip(map(FileState, *states), digests, strict=True)
    return dict(zip(names, entries, strict=True))


def _write_cache(cache: Path, known: _Digests) -> None:
    rows = [(name, *state, digest) for name, (state, digest) in known.items()]
    try:
        with atomic_path(cache) as temporary:
            pd.DataFrame(rows, columns=_COLUMNS).to_parquet(temporary, index=False)
    except OSError as error:
        reason = error.strerror or error
        _log.warning("%s cannot be written (%s): the next command reads the images again", cache, reason)
