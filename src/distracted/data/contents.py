"""Digests of image files, cached by file size and modification time."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import pandas as pd

from distracted.errors import ImageError, ImagesError
from distracted.files import atomic_path
from distracted.progress import Progress, silent

_SHOWN = 5
_COLUMNS = ["name", "size", "mtime_ns", "digest"]


def digest_images(
    paths: Sequence[Path | str], *, root: Path, cache: Path | None = None, progress: Progress = silent
) -> list[str]:
    """BLAKE2b digest of each image file; new and changed files are also checked to be complete images.

    Args:
        paths: Existing files below `root`.
        cache: Parquet file of earlier digests; a file is read again only if its size or modification time
            differs.

    Raises:
        ImagesError: files are empty, truncated or no images; the message names the first few.
    """
    known = _read_cache(cache)
    keys, below = [], f"{root}{os.sep}"
    for path in map(str, paths):  # pathlib would take seconds for State Farm's 100,000 images
        stat = os.stat(path)  # noqa: PTH116
        keys.append((path.removeprefix(below), stat.st_size, stat.st_mtime_ns))
    missing = [index for index, key in enumerate(keys) if key not in known]
    if missing:
        bad: list[str] = []
        files = [Path(paths[index]) for index in missing]
        try:
            with (
                ThreadPoolExecutor(4) as pool,  # hashing and reading release the GIL
                progress("reading images", total=len(missing), unit="img") as step,
            ):
                for index, result in zip(missing, pool.map(_digest, files), strict=True):
                    if isinstance(result, ImageError):
                        bad.append(str(result))
                    else:
                        known[keys[index]] = result
                    step()
        finally:  # a stop costs nothing: from a slow disk this takes hours
            if cache is not None:
                rows = [(*key, digest) for key, digest in known.items()]
                with atomic_path(cache) as temporary:
                    pd.DataFrame(rows, columns=_COLUMNS).to_parquet(temporary, index=False)
        if bad:
            rest = f"\n... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            raise ImagesError("\n".join(bad[:_SHOWN]) + rest, tuple(bad))
    return [known[key] for key in keys]


def _digest(path: Path) -> str | ImageError:
    from distracted.data.images import check_bytes, read_bytes  # imports OpenCV, which is slow

    try:
        data = read_bytes(path)
        check_bytes(data, path)
    except ImageError as error:
        return error
    return blake2b(data, digest_size=16).hexdigest()


def _read_cache(cache: Path | None) -> dict[tuple[str, int, int], str]:
    """Digests by name, size and modification time; empty if the cache is missing or damaged."""
    if cache is None or not cache.is_file():
        return {}
    try:
        table = pd.read_parquet(cache, columns=_COLUMNS)
    except (OSError, ValueError, KeyError):
        return {}
    *keys, digests = (table[name].tolist() for name in _COLUMNS)
    return dict(zip(zip(*keys, strict=True), digests, strict=True))
