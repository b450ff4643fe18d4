"""A few statistics of each image, computed once: size, light, a perceptual hash, and its condition."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.damage import examine
from distracted.data.images import Image, decode, read_bytes, used_bits
from distracted.errors import ImageError
from distracted.files import atomic_path
from distracted.progress import Progress, silent

_VERSION = 3  # increase when the definition of a statistic changes, to ignore older caches
_SIDE = 32  # pixels of the grey thumbnail that is hashed
_LOW = 8  # its lowest frequencies in each direction
#: Ways to turn an image: by 0, 90, 180 and 270 degrees, and the same of its mirror image.
NUM_TURNS = 8
#: Columns of the hashes of an image and of its turned versions.
HASHES = ("hash", *(f"hash_turned_{number}" for number in range(1, NUM_TURNS)))
_NUMBERS = ("width", "height", "brightness", "contrast", "colour", "bits")
_TEXTS = ("damage", "remark", "error")
_STRIP = 2**20  # pixels at once

_Pixel = TypeVar("_Pixel", bound=np.generic)


def scan_images(
    paths: Sequence[Path], contents: Sequence[str], *, cache: Path | None = None, progress: Progress = silent
) -> pd.DataFrame:
    """Compute statistics of each image, in the order of `paths`.

    Args:
        contents: Digest of each image's bytes, the key of the cache.
        cache: A parquet file of earlier scans; may be missing.

    Returns:
        Columns width, height (pixels), brightness, contrast (mean and standard deviation of grey, 0 to 255),
        colour (mean distance of the channels from grey), bits (of the largest value of a 16-bit image, else
        8), `HASHES` (64 bits each), damage and remark (see `Condition`), error ("" where the image could be
        read, else the reason, and all numbers are 0).
    """
    known = _read_cache(cache)
    missing = {c: path for c, path in zip(contents, paths, strict=True) if c not in known.index}
    if missing:
        rows: dict[str, dict[str, Any]] = {}
        try:
            with (
                ThreadPoolExecutor(4) as pool,  # decoding releases the interpreter's lock
                progress("scanning images", total=len(missing), unit="img") as step,
            ):
                for content, row in zip(missing, pool.map(_scan, missing.values(), missing), strict=True):
                    rows[content] = row
                    step()
        finally:  # a stop costs nothing
            if rows:
                scanned = pd.DataFrame.from_dict(rows, orient="index").astype(
                    dict.fromkeys(HASHES, np.uint64)
                )
                known = pd.concat([known, scanned]) if len(known) else scanned
                _write_cache(cache, known)
    return known.loc[list(contents)].reset_index(drop=True)


def perceptual_hash(image: Image) -> int:
    """64 bits that hardly change when an image is resized, compressed or brightened (pHash, Zauner 2010).

    Each bit says whether one of the 64 lowest frequencies of the grey image exceeds their median; the bit of
    the mean is always 0.

    Args:
        image: uint8 RGB, shape (H, W, 3).
    """
    return _hash(grey_thumbnail(image))


def _hash(thumbnail: NDArray[np.float32]) -> int:
    low = cv2.dct(np.ascontiguousarray(thumbnail))[:_LOW, :_LOW].ravel()
    low[0] = np.median(low[1:])
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0])


def turn(image: NDArray[_Pixel], number: int) -> NDArray[_Pixel]:
    """Turn an image (H, W) in one of `NUM_TURNS` ways; 0 leaves it as it is."""
    return np.rot90(image[:, ::-1] if number >= 4 else image, number % 4)


def turn_name(number: int) -> str:
    """What `turn` does, for readers."""
    parts = ["mirrored"] * (number >= 4) + [f"rotated by {90 * (number % 4)} degrees"] * (number % 4 > 0)
    return " and ".join(parts)


def grey_thumbnail(image: Image) -> NDArray[np.float32]:
    """A grey image of 32 x 32 pixels, from a uint8 RGB image (H, W, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), dtype=np.float32)


def differing_bits(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Hamming distance of each pair of hashes, shape (num_hashes, num_others); fastest for few at once."""
    counts: NDArray[np.uint8] = np.bitwise_count(hashes[:, None] ^ others[None, :])
    return counts


def _scan(path: Path, content: str) -> dict[str, Any]:
    try:
        decoded = decode(read_bytes(path, content=content), path)
    except ImageError as error:
        texts = {**dict.fromkeys(_TEXTS, ""), "error": str(error)}
        return {**dict.fromkeys(_NUMBERS, 0.0), **dict.fromkeys(HASHES, 0), **texts}
    image, bits = decoded.rgb, used_bits(decoded.data) if decoded.header.bits == 16 else None
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    numbers = map(float, (image.shape[1], image.shape[0], *_light(image, grey), bits or 8))
    condition = examine(decoded)
    texts = {"damage": condition.damage, "remark": condition.remark, "error": ""}
    thumbnail = grey_thumbnail(image)
    hashes = {column: _hash(turn(thumbnail, number)) for number, column in enumerate(HASHES)}
    return {**dict(zip(_NUMBERS, numbers, strict=True)), **hashes, **texts}


def _light(image: Image, grey: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Mean and standard deviation of grey, and the mean distance of the channels from it.

    In strips, so that a large image takes little more memory than itself.
    """
    rows, count = max(1, _STRIP // image.shape[1]), grey.size
    total = squares = distances = 0
    for start in range(0, len(image), rows):
        strip, channels = grey[start : start + rows], image[start : start + rows]
        total += int(strip.sum(dtype=np.int64))
        squares += int(np.square(strip, dtype=np.int64).sum())
        distances += int(cv2.absdiff(channels, np.dstack([strip] * 3)).sum(dtype=np.int64))
    deviation = math.sqrt(count * squares - total**2) / count
    return total / count, deviation, distances / image.size


def _write_cache(cache: Path | None, known: pd.DataFrame) -> None:
    if cache is not None:
        readable = known[known["error"] == ""].assign(version=_VERSION).rename_axis("content")
        with atomic_path(cache) as temporary:
            readable.reset_index().to_parquet(temporary, index=False)


def _read_cache(cache: Path | None) -> pd.DataFrame:
    """Earlier scans, indexed by content; empty if the cache is missing or damaged."""
    if cache is not None and cache.is_file():
        with suppress(OSError, ValueError, KeyError):
            table = pd.read_parquet(cache).set_index("content")
            return table.loc[table["version"] == _VERSION, [*_NUMBERS, *HASHES, *_TEXTS]]
    return pd.DataFrame()
