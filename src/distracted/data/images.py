"""Decode image files; all image reading goes through this module."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from distracted.data import jpeg
from distracted.data.contents import digest_bytes
from distracted.data.decoders import can_listen, damage_in, listen
from distracted.data.formats import READABLE, Header, other_kind, read_header
from distracted.data.pixel_limit import check_size
from distracted.errors import DataError, ImageError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

_log = logging.getLogger(__name__)

Image = NDArray[np.uint8]

# OpenCV's flag to decode at 1/factor of the size
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
#: Of 16: at 8 bits an image that uses no more has less than a quarter of the brightness.
FEW_BITS = 14
_MOST_WARNINGS = 3  # of one process
_warned: set[Path] = set()
_pillow = Lock()


class Decoded(NamedTuple):
    """A decoded image and what there is to say about its file.

    Attributes:
        rgb: uint8, shape (H, W, 3).
        messages: What the decoder printed, "" for nearly all files.
        data: The image's bytes as they were decoded: from its start, with an end marker.
    """

    rgb: Image
    messages: str
    header: Header
    data: bytes


def check_bytes(data: bytes, path: Path) -> None:
    """Reject files that are not complete images, or too large, by their structure.

    Only where that leaves a doubt the image is decoded: if OpenCV or Pillow reads all of it, it is complete.

    Raises:
        ImageError: the file is empty, truncated, in none of the formats JPEG, PNG, BMP, WebP and TIFF, or has
            more pixels than `runtime.max_megapixels` allows.
    """
    if _read_header(data, path).doubt:
        decode(data, path)


def decode_rgb(data: bytes, path: Path, *, short_side: int | None = None) -> Image:
    """Decode an image's bytes to uint8 RGB, shape (H, W, 3), rotated by its EXIF orientation.

    Grayscale, CMYK and 16-bit images are converted to 8-bit RGB. A damaged image that is readable in part is
    read, and a warning names it; so is one that uses few of its 16 bits.

    Args:
        short_side: Shrink the image until its shorter side has this many pixels; smaller images stay as they
            are. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that suffices, which is faster.
    """
    decoded = decode(data, path, short_side=short_side)
    if decoded.messages and (damage := damage_in(decoded.messages, decoded.data)):
        _warn(path, f"damaged ({damage}); it is read as far as possible")
    elif decoded.header.bits == 16 and decoded.rgb.max() < 2 ** (FEW_BITS - 8):
        bits = used_bits(decoded.data)
        if bits is not None and bits <= FEW_BITS:
            _warn(path, f"uses {bits} of its 16 bits, and is nearly black at 8 bits; convert it")
    return decoded.rgb


def decode(data: bytes, path: Path, *, short_side: int | None = None) -> Decoded:
    """`decode_rgb` with the decoder's messages, and without its warnings.

    OpenCV decodes; what it refuses or gets wrong, Pillow may read.
    """
    header = _read_header(data, path)
    data = data[header.start :]
    is_ended = not header.doubt or header.kind != "JPEG" or data.find(jpeg.END, jpeg.start_of_scan(data)) >= 0
    if not is_ended:  # all rows may be there; the first of libjpeg's messages counts
        data = jpeg.without_stray_bytes(data) + jpeg.END
    flags = cv2.IMREAD_COLOR if short_side is None else _REDUCED[_decode_factor(header, short_side)]
    decoders = [lambda: _by_opencv(data, flags), lambda: _by_pillow(data, header)]
    bgr, messages = None, ""
    for decoder in reversed(decoders) if header.for_pillow else decoders:
        if bgr is None:
            bgr, said = listen(decoder)
            messages = messages or said
    is_cut = not is_ended and (not can_listen() or damage_in(messages, data) != "" or jpeg.lacks_scans(data))
    if bgr is None or is_cut:
        reason = f" ({messages.splitlines()[0]})" if messages else ""
        raise ImageError(f"{path}: {header.doubt or f'not a readable image{reason}; fetch it again'}")
    check_size(path, bgr.shape[1], bgr.shape[0])  # a header that could not be understood
    if short_side is not None:
        bgr = _shrink(bgr, short_side)
    return Decoded(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), messages, header, data)


def messages_of(data: bytes) -> str:
    """What OpenCV's decoder prints about an image's bytes."""
    return listen(lambda: _by_opencv(data, cv2.IMREAD_COLOR))[1]


def used_bits(data: bytes) -> int | None:
    """Bits of the largest colour value of a 16-bit image; None if it cannot be read as one, or is black."""
    deep, _ = listen(lambda: _by_opencv(data, cv2.IMREAD_UNCHANGED))
    if deep is None or deep.dtype != np.uint16:
        return None
    colours = deep[..., :3] if deep.ndim == 3 else deep  # without alpha
    return int(colours.max()).bit_length() or None


def _read_header(data: bytes, path: Path) -> Header:
    if not data:
        raise ImageError(f"{path}: the file is empty (zero bytes); fetch it again")
    header = read_header(data)
    if header is None:
        raise ImageError(f"{path}: {other_kind(data).describe(data)}")
    check_size(path, header.width, header.height)
    return header


def _by_opencv(data: bytes, flags: int) -> NDArray[Any] | None:
    try:
        image: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:  # larger than OpenCV's limit, or an assertion on a damaged header
        return None
    return image  # None: OpenCV does not raise


@contextmanager
def open_with_pillow(file: BinaryIO) -> Iterator["PillowImage"]:
    """Open an image with Pillow, without warnings and log, which threads share: one at a time."""
    from PIL import Image as Pillow

    log = logging.getLogger("PIL")
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata, and of more than 89 megapixels
        level = log.level
        log.setLevel(logging.CRITICAL + 1)
        try:
            with Pillow.open(file, formats=READABLE) as image:
                yield image
        finally:
            log.setLevel(level)


def _by_pillow(data: bytes, header: Header) -> Image | None:
    """BGR like OpenCV's: rotated by EXIF, without alpha, the high bytes of 16 bits."""
    from PIL import ImageOps

    try:
        with open_with_pillow(io.BytesIO(data)) as file:
            file.load()
            image = ImageOps.exif_transpose(file)
            if image.mode[0] in "IF":  # more than 8 bits
                grey = np.asarray(image).astype(np.int64) >> 8
                return np.dstack([grey.astype(np.uint8)] * 3) if header.bits == 16 else None
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    except Exception:  # of a damaged file Pillow raises many
        return None


def _warn(path: Path, text: str) -> None:
    """Say something about a file once, and of a few files only."""
    if path in _warned:
        return
    _warned.add(path)
    if len(_warned) <= _MOST_WARNINGS:
        _log.warning("%s: %s", path, text)
    elif len(_warned) == _MOST_WARNINGS + 1:
        _log.warning("more images are damaged or nearly black; make audit lists those of a data set")


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
    try:
        with path.open("rb") as file, open_with_pillow(file) as image:
            width, height = image.size
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


def _decode_factor(header: Header, short_side: int) -> int:
    """The largest of 8, 4, 2, 1 that leaves a JPEG's shorter side at least `short_side` pixels."""
    if header.kind != "JPEG":
        return 1
    shorter = min(header.width, header.height)
    return next(factor for factor in (8, 4, 2, 1) if factor == 1 or shorter // factor >= short_side)
