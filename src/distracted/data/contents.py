"""Digests of image files, cached under everything by which the file system tells a changed file."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import pandas as pd

from distracted.errors import ImageError, ImagesError
from distracted.files import atomic_path, file_identity
from distracted.progress import Progress, silent

_SHOWN = 5
_IDENTITY = ["size", "mtime_ns", "ctime_ns", "inode"]
_COLUMNS = ["name", *_IDENTITY, "digest"]
#: Two changes of a file may get one and the same time if less lies between them, by the file system's clock.
_SETTLED_NS = 2_000_000_000

_Identity = tuple[int, int, int, int]


def digest_images(
    paths: Sequence[Path | str], *, root: Path, cache: Path | None = None, progress: Progress = silent
) -> list[str]:
    """BLAKE2b digest of each image file; new and changed files are also checked to be complete images.

    Args:
        paths: Existing files below `root`.
        cache: Parquet file of earlier digests. A file is read again unless size, inode, modification time and
            change time are the same; the last one is the kernel's own, which no program can set. Files that
            changed within the last two seconds are not remembered: they may change again under the same time.

    Raises:
        ImagesError: files are empty, truncated or no images; the message names the first few.
    """
    known = _read_cache(cache)
    settled = time.time_ns() - _SETTLED_NS
    prefix = f"{root}{os.sep}"
    names = [str(path).removeprefix(prefix) for path in paths]
    identities = [file_identity(path) for path in paths]
    digests = [_recall(known, *key) for key in zip(names, identities, strict=True)]
    missing = [index for index, digest in enumerate(digests) if digest is None]
    if missing:
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
                        if identities[index][2] < settled:
                            known[names[index]] = identities[index], result
                    step()
        finally:  # a stop costs nothing: from a slow disk this takes hours
            if cache is not None:
                rows = [(name, *identity, digest) for name, (identity, digest) in known.items()]
                with atomic_path(cache) as temporary:
                    pd.DataFrame(rows, columns=_COLUMNS).to_parquet(temporary, index=False)
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


def _recall(known: dict[str, tuple[_Identity, str]], name: str, identity: _Identity) -> str | None:
    """A file's digest, if it was the same file when it was read; else None."""
    entry = known.get(name)
    return entry[1] if entry is not None and entry[0] == identity else None


def _read_cache(cache: Path | None) -> dict[str, tuple[_Identity, str]]:
    """Identities and digests by name; empty if the cache is missing, damaged or of an earlier version."""
    if cache is None or not cache.is_file():
        return {}
    try:
        table = pd.read_parquet(cache, columns=_COLUMNS)
    except (OSError, ValueError, KeyError):
        return {}
    names, *identity, digests = (table[name].tolist() for name in _COLUMNS)
    entries = zip(zip(*identity, strict=True), digests, strict=True)
    return dict(zip(names, entries, strict=True))
