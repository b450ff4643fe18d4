"""Whether all pixels of an image are there: what the decoder says, and what it cannot notice."""

import io
import struct
import zlib
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import UnidentifiedImageError

from distracted.data import jpeg
from distracted.data.decoders import bytes_after_last_row, damage_in, listen
from distracted.data.images import Decoded, Image, messages_of, open_with_pillow

_COMPRESSION, _ZLIB = 259, (8, 32946)  # TIFF's tags
_PIECES = ((273, 279), (324, 325))  # offsets and lengths of strips or tiles
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by kind of colour
# Of each pass of an interlaced PNG: first row and column, and the steps
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_MOST_INFLATED = 2**20  # bytes at once
_LEAST = 0.01  # share of the rows that is worth a number


class Condition(NamedTuple):
    """What is wrong with an image that can be read; "" for nothing.

    Attributes:
        damage: Pixels are missing or wrong, or a checksum of them is.
        remark: The file is odd, but its pixels are all there.
    """

    damage: str = ""
    remark: str = ""


def examine(decoded: Decoded) -> Condition:
    """Find out whether a decoded image's pixels are all there."""
    said, data = decoded.messages, decoded.data
    damage = damage_in(said, data)
    match decoded.header.kind:
        case "JPEG":
            if not damage and said and jpeg.has_stray_bytes(data):  # libjpeg prints only its first message
                clean = jpeg.without_stray_bytes(data)
                damage = damage_in(messages_of(clean), clean)
            damage = damage or _silent_damage(data, bytes_after_last_row(said))
        case "TIFF":
            damage = damage or _damage_of_tiff(data)
        case "PNG":
            damage = damage or _damage_of_png(data)
    if damage:
        share = _flat_rows(decoded.rgb)
        lost = f"; the last {share:.0%} of its rows are of one colour" if share >= _LEAST else ""
        return Condition(damage + lost)
    return Condition("", next((line for line in said.splitlines() if _is_worth_a_remark(line)), ""))


def _silent_damage(data: bytes, padding: int) -> str:
    if jpeg.has_impossible_zeros(data, padding=padding):
        return "a hole of zeros in its data"
    return "scans are missing" if jpeg.lacks_scans(data) else ""


def _is_worth_a_remark(line: str) -> bool:
    """Warnings of libpng about colour profiles are in many good files."""
    return line.startswith("Corrupt JPEG") or "CRC" in line or "incomplete" in line


def _damage_of_tiff(data: bytes) -> str:
    """Ask libtiff through Pillow, since OpenCV returns what it could read; and check zlib's checksums."""

    def read() -> str:
        try:
            with open_with_pillow(io.BytesIO(data)) as image:
                image.load()
                tags = getattr(image, "tag_v2", {})
                if tags.get(_COMPRESSION) in _ZLIB:
                    offsets, lengths = next(keys for keys in _PIECES if keys[0] in tags)
                    for at, length in zip(tags[offsets], tags[lengths], strict=True):
                        zlib.decompress(data[at : at + length])
        except (OSError, zlib.error) as error:
            is_unknown = isinstance(error, UnidentifiedImageError)  # what only OpenCV reads
            return "" if is_unknown else str(error)
        except Exception:  # of unusual tags
            return ""
        return ""

    failure, said = listen(read)
    errors = [line for line in said.splitlines() if "Warning" not in line]
    return errors[0] if errors else failure


def _damage_of_png(data: bytes) -> str:
    """Count the rows: where compressed pixels end in good order, but early, decoders leave the rest black."""
    width, height, bits, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    row_bits, expected = bits * _PNG_SAMPLES.get(colour, 0), 0
    for top, left, down, across in _ADAM7 if interlace else ((0, 0, 1, 1),):
        rows, columns = -(-(height - top) // down), -(-(width - left) // across)
        expected += rows * (1 + -(-columns * row_bits // 8)) if columns > 0 else 0
    inflater, size, at = zlib.decompressobj(), 0, 8
    with suppress(zlib.error, struct.error):  # decoders say so, or the file's end is missing
        while at < len(data):
            length, kind = struct.unpack_from(">I4s", data, at)
            packed = data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
            while packed:
                size += len(inflater.decompress(packed, _MOST_INFLATED))
                packed = inflater.unconsumed_tail
            at += 12 + length
        return "" if size >= expected else "its compressed pixels end early"
    return ""


def _flat_rows(rgb: Image) -> float:
    """Share of the rows at the end that have one colour, as a decoder leaves those that are missing."""
    is_flat = (np.ptp(rgb, axis=1) <= 2).all(axis=1)
    return float(np.argmin(is_flat[::-1]) if not is_flat.all() else len(is_flat)) / len(is_flat)
