"""Reading one image: every picture that the project sees goes through here."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from distracted.errors import ImageError

Image = NDArray[np.uint8]

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"  # its checksum included


def check_bytes(data: bytes, path: Path) -> None:
    """Refuse what is plainly no whole image, without decoding it.

    OpenCV decodes a truncated JPEG to a picture whose rest is grey and only warns, so the end marker is
    looked for here.

    Raises:
        ImageError: empty, cut off, or neither JPEG, PNG nor another format that OpenCV may know.
    """
    if not data:
        raise ImageError(f"{path}: the file is empty (zero bytes); fetch it again")
    if data.startswith(_JPEG):
        whole = data.find(b"\xff\xd9", _start_of_scan(data)) >= 0
    elif data.startswith(_PNG):
        whole = data.rfind(_PNG_END) >= 0
    elif data[:2] == b"BM" or data[:4] in (b"RIFF", b"II*\0", b"MM\0*"):  # BMP, WebP, TIFF
        whole = True
    else:
        raise ImageError(f"{path}: not an image (it starts with {data[:8]!r}); fetch it again")
    if not whole:
        raise ImageError(
            f"{path}: the image is truncated ({len(data):,} bytes, no end marker); fetch it again"
        )


def decode_rgb(data: bytes, path: Path) -> Image:
    """Decode an image's bytes to uint8 RGB, shape (H, W, 3), turned as its EXIF orientation says.

    Grayscale, CMYK and 16-bit images come out as 8-bit RGB.
    """
    check_bytes(data, path)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # a size beyond OpenCV's limit
        raise ImageError(f"{path}: OpenCV refuses to decode it ({error.err}); fetch it again") from error
    if bgr is None:  # what OpenCV cannot read it does not raise
        raise ImageError(f"{path}: not a readable image; fetch it again")
    rgb: Image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file; ImageError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def read_rgb(path: Path) -> Image:
    """Decode an image file to uint8 RGB, shape (H, W, 3); see `decode_rgb`."""
    return decode_rgb(read_bytes(path), path)


def _start_of_scan(data: bytes) -> int:
    """Position of a JPEG's first scan; markers before it (an EXIF thumbnail's end marker!) do not count."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return position
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return len(data)
