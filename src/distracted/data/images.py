"""Decode image files; all image reading goes through this module."""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from distracted.data.contents import digest_bytes
from distracted.errors import DataError, ImageError

Image = NDArray[np.uint8]

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# OpenCV's flag to decode at 1/factor of the size
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_PNG_END = b"IEND\xaeB`\x82"  # including its checksum
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # Pillow's names of those that `check_bytes` lets pass


def check_bytes(data: bytes, path: Path) -> None:
    """Reject files that are clearly not complete images, without decoding them.

    OpenCV decodes a truncated JPEG with a grey rest and only warns, so this looks for the end marker.

    Raises:
        ImageError: the file is empty, truncated, or in none of the formats JPEG, PNG, BMP, WebP, TIFF.
    """
    if not data:
        raise ImageError(f"{path}: the file is empty (zero bytes); fetch it again")
    if data.startswith(_JPEG):
        is_complete = data.find(b"\xff\xd9", _start_of_scan(data)) >= 0
    elif data.startswith(_PNG):
        is_complete = data.rfind(_PNG_END) >= 0
    elif data[:2] == b"BM" or data[:4] in (b"RIFF", b"II*\0", b"MM\0*"):  # BMP, WebP, TIFF
        is_complete = True
    else:
        raise ImageError(f"{path}: not an image (it starts with {data[:8]!r}); fetch it again")
    if not is_complete:
        size = f"{len(data):,} bytes, no end marker"
        raise ImageError(f"{path}: the image is truncated ({size}); fetch it again")


def decode_rgb(data: bytes, path: Path, *, short_side: int | None = None) -> Image:
    """Decode an image's bytes to uint8 RGB, shape (H, W, 3), rotated by its EXIF orientation.

    Grayscale, CMYK and 16-bit images are converted to 8-bit RGB.

    Args:
        short_side: Shrink the image until its shorter side has this many pixels; smaller images stay as they
            are. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that suffices, which is faster.
    """
    check_bytes(data, path)
    flags = cv2.IMREAD_COLOR if short_side is None else _REDUCED[_decode_factor(data, short_side)]
    try:
        bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:  # larger than OpenCV's limit
        raise ImageError(f"{path}: OpenCV refuses to decode it ({error.err}); fetch it again") from error
    if bgr is None:  # OpenCV does not raise
        raise ImageError(f"{path}: not a readable image; fetch it again")
    if short_side is not None:
        bgr = _shrink(bgr, short_side)
    rgb: Image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def read_bytes(path: Path, *, content: str = "") -> bytes:
    """Read an image file's bytes.

    Args:
        content: The digest that the file had when its folder was first read; "": unknown.

    Raises:
        ImageError: the file cannot be read.
        DataError: it has another digest now.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    if content and digest_bytes(data) != content:
        raise DataError(
            f"{path}: the file has changed since this command first read it; run the command again when "
            "nothing writes to the folder any more"
        )
    return data


def read_rgb(path: Path, *, content: str = "", short_side: int | None = None) -> Image:
    """Decode an image file to uint8 RGB, shape (H, W, 3); see `read_bytes` and `decode_rgb`."""
    return decode_rgb(read_bytes(path, content=content), path, short_side=short_side)


def decoded_bytes(path: Path) -> int:
    """Size in bytes of an image file decoded to RGB, from its header; 0 if it cannot be decoded."""
    from PIL import Image as Pillow

    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of odd metadata, and of more than 89 megapixels
            width, height = Pillow.open(file, formats=_FORMATS).size
        return 3 * width * height
    except Exception:  # of damaged files; only OpenCV opens some TIFFs, and above 179 megapixels
        with suppress(ImageError):
            return read_rgb(path).nbytes
        return 0


def _shrink(image: Image, short_side: int) -> Image:
    height, width = image.shape[:2]
    if (share := short_side / min(height, width)) >= 1:
        return image
    size = max(1, round(width * share)), max(1, round(height * share))
    if share >= 0.5:
        # Bilinear to twice the size, then means of 2 x 2 pixels: as good as INTER_AREA with a fractional
        # factor, in less than half of the time.
        image = cv2.resize(image, (2 * size[0], 2 * size[1]), interpolation=cv2.INTER_LINEAR)
    shrunk: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return shrunk


def _decode_factor(data: bytes, short_side: int) -> int:
    """The largest of 8, 4, 2, 1 that leaves a JPEG's shorter side at least `short_side` pixels."""
    if not data.startswith(_JPEG):
        return 1
    for position, marker in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # frame header, with height and width
            sides = (int.from_bytes(data[position + 5 + i : position + 7 + i], "big") for i in (0, 2))
            shorter = min(sides)
            return next(factor for factor in (8, 4, 2, 1) if factor == 1 or shorter // factor >= short_side)
    return 1


def _start_of_scan(data: bytes) -> int:
    """Position of a JPEG's first scan; an end marker before it belongs to an EXIF thumbnail."""
    return next((position for position, marker in _segments(data) if marker == 0xDA), len(data))


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Position and marker of each JPEG segment, up to the first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        yield position, marker
        if marker == 0xDA:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
