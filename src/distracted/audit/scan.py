"""What each picture looks like in a few numbers, found out once: size, light, and a perceptual hash."""

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

_VERSION = 1  # counted up where a number's definition changes: what was kept is computed anew
_SIDE = 32  # pixels of the grey picture that is hashed
_LOW = 8  # frequencies of it, in each direction


def scan_images(
    paths: Sequence[Path], contents: Sequence[str], *, cache: Path | None = None, progress: Progress = silent
) -> pd.DataFrame:
    """Numbers on each picture, in the order of `paths`.

    Args:
        contents: Digest of each image's bytes: what the cache goes by.
        cache: A parquet file of earlier scans; may be missing.

    Returns:
        width, height (pixels), brightness, contrast (mean and standard deviation of grey, 0 to 255), colour
        (mean distance of the channels from grey), hash (64 bits), error ("" where it could be read; the
        numbers are 0 elsewhere).
    """
    known = _read_cache(cache)
    missing = {content: path for content, path in zip(contents, paths, strict=True) if content not in known}
    if missing:
        with (
            ThreadPoolExecutor(4) as pool,  # decoding releases the interpreter's lock
            progress("looking at images", total=len(missing), unit="img") as step,
        ):
            for content, found in zip(missing, pool.map(_look, missing.values()), strict=True):
                known[content] = found
                step()
        _write_cache(cache, known)
    return pd.DataFrame([known[content] for content in contents])


def perceptual_hash(image: Image) -> int:
    """64 bits that shrinking, compressing and brightening a picture hardly change.

    Signs of the low frequencies of its grey values beside their median (pHash, Zauner 2010); the mean's bit
    is always 0.

    Args:
        image: uint8 RGB, (H, W, 3).
    """
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:_LOW, :_LOW].ravel()
    low[0] = np.median(low[1:])
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])


def differing_bits(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits differ, of each pair, (num_hashes, num_others)."""
    counts: NDArray[np.uint8] = np.bitwise_count(hashes[:, None] ^ others[None, :])
    return counts


def _look(path: Path) -> dict[str, Any]:
    try:
        image = read_rgb(path)
    except ImageError as error:
        found = dict.fromkeys(("width", "height", "brightness", "contrast", "colour"), 0.0)
        return {**found, "hash": 0, "error": str(error)}
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
        return {str(c): _plain(row) for c, row in zip(contents, table.to_dict("records"), strict=True)}
    except (OSError, ValueError, KeyError):  # half a cache is no cache
        return {}


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in row.items()}


def _write_cache(cache: Path | None, known: dict[str, dict[str, Any]]) -> None:
    if cache is None:
        return
    readable = [
        {"content": c, "version": _VERSION, **found} for c, found in known.items() if not found["error"]
    ]
    table = pd.DataFrame(readable).astype({"hash": np.uint64} if readable else {})
    with atomic_path(cache) as temporary:
        table.to_parquet(temporary, index=False)
