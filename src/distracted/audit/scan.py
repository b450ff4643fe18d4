"""A few statistics of each image, computed once: size, light and a perceptual hash."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.data.images import Image, read_rgb
from distracted.errors import ImageError
from distracted.files import atomic_path
from distracted.progress import Progress, silent

_VERSION = 1  # increase when the definition of a statistic changes, to ignore older caches
_SIDE = 32  # pixels of the grey thumbnail that is hashed
_LOW = 8  # its lowest frequencies in each direction


def scan_images(
    paths: Sequence[Path], contents: Sequence[str], *, cache: Path | None = None, progress: Progress = silent
) -> pd.DataFrame:
    """Compute statistics of each image, in the order of `paths`.

    Args:
        contents: Digest of each image's bytes, the key of the cache.
        cache: A parquet file of earlier scans; may be missing.

    Returns:
        Columns width, height (pixels), brightness, contrast (mean and standard deviation of grey, 0 to 255),
        colour (mean distance of the channels from grey), hash (64 bits), error ("" where the image could be
        read, else the reason, and all numbers are 0).
    """
    known = _read_cache(cache)
    missing = {content: path for content, path in zip(contents, paths, strict=True) if content not in known}
    if missing:
        with (
            ThreadPoolExecutor(4) as pool,  # decoding releases the interpreter's lock
            progress("scanning images", total=len(missing), unit="img") as step,
        ):
            for content, statistics in zip(missing, pool.map(_scan, missing.values()), strict=True):
                known[content] = statistics
                step()
        _write_cache(cache, known)
    return pd.DataFrame([known[content] for content in contents])


def perceptual_hash(image: Image) -> int:
    """64 bits that hardly change when an image is resized, compressed or brightened (pHash, Zauner 2010).

    Each bit says whether one of the 64 lowest frequencies of the grey image exceeds their median; the bit of
    the mean is always 0.

    Args:
        image: uint8 RGB, shape (H, W, 3).
    """
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:_LOW, :_LOW].ravel()
    low[0] = np.median(low[1:])
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])


def differing_bits(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Hamming distance of each pair of hashes, shape (num_hashes, num_others)."""
    counts: NDArray[np.uint8] = np.bitwise_count(hashes[:, None] ^ others[None, :])
    return counts


def _scan(path: Path) -> dict[str, Any]:
    try:
        image = read_rgb(path)
    except ImageError as error:
        zeros = dict.fromkeys(("width", "height", "brightness", "contrast", "colour"), 0.0)
        return {**zeros, "hash": 0, "error": str(error)}
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    spread = np.abs(image.astype(np.int16) - grey[..., None]).mean()
    return {
        "width": float(image.shape[1]),
        "height": float(image.shape[0]),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "colour": float(spread),
        "hash": perceptual_hash(image),
        "error": "",
    }


def _read_cache(cache: Path | None) -> dict[str, dict[str, Any]]:
    if cache is None or not cache.is_file():
        return {}
    try:
        table = pd.read_parquet(cache)
        table = table[table["version"] == _VERSION].drop(columns="version")
        contents = table.pop("content")
        table["hash"] = table["hash"].astype(np.uint64)
        rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
        return dict(zip(map(str, contents), rows, strict=True))
    except (OSError, ValueError, KeyError):  # a damaged cache is ignored
        return {}


def _write_cache(cache: Path | None, known: dict[str, dict[str, Any]]) -> None:
    if cache is None:
        return
    readable = [
        {"content": content, "version": _VERSION, **statistics}
        for content, statistics in known.items()
        if not statistics["error"]
    ]
    table = pd.DataFrame(readable).astype({"hash": np.uint64} if readable else {})
    with atomic_path(cache) as temporary:
        table.to_parquet(temporary, index=False)
