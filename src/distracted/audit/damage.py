"""Whether all pixels of an image are there: what the decoder says, and what it cannot notice."""

import io
import zlib
from typing import NamedTuple

import numpy as np
from PIL import UnidentifiedImageError

from distracted.data import jpeg
from distracted.data.decoders import bytes_after_last_row, damage_in, listen
from distracted.data.images import Decoded, Image, messages_of, open_with_pillow

_COMPRESSION, _ZLIB = 259, (8, 32946)  # TIFF's tags
_PIECES = ((273, 279), (324, 325))  # offsets and lengths of strips or tiles
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


def _flat_rows(rgb: Image) -> float:
    """Share of the rows at the end that have one colour, as a decoder leaves those that are missing."""
    is_flat = (np.ptp(rgb, axis=1) <= 2).all(axis=1)
    return float(np.argmin(is_flat[::-1]) if not is_flat.all() else len(is_flat)) / len(is_flat)
