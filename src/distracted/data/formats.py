"""File formats by content: which can be read, the size in the header, and what else a file may be."""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from distracted.data import jpeg

#: Pillow's names of the formats that are read, in any bit depth, colour space and compression.
READABLE = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
#: Their files' names.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff")
_MOST_LEADING = 64  # bytes before the start of a JPEG or PNG that are skipped, such as a line break
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"  # including its checksum
_TIFF = {b"II*\0": ("<", 4), b"MM\0*": (">", 4), b"II+\0": ("<", 8), b"MM\0+": (">", 8)}  # order, offset size
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_SAMPLES = 256, 257, 258, 277
_TIFF_EXTRA, _TIFF_SAMPLE_FORMAT, _TIFF_TILE_WIDTH, _TIFF_PLANES = 338, 339, 322, 284
_ALPHA = (1, 2)  # kinds of extra samples
_TIFF_KIND, _TIFF_PARTS, _DNG = 254, 330, 50706  # kind of a page, directories of other pages, a raw format
_TIFF_PIECES = ((273, 279), (324, 325))  # offsets and lengths of strips or tiles


class Other(NamedTuple):
    """What a file is that cannot be read as an image.

    Attributes:
        kind: "" if unknown.
        advice: What to do about it.
        is_image: It shows something, but in a format that is not supported.
    """

    kind: str
    advice: str
    is_image: bool = False

    def describe(self, data: bytes) -> str:
        if self.is_image:
            return f"{self.kind}, which is not supported; {self.advice}"
        article = "an" if self.kind.startswith(("X", "e")) else "a"
        known = f", but {article} {self.kind}" if self.kind else ""
        return f"not an image (it starts with {data[:8]!r}){known}; {self.advice}"


@dataclass(frozen=True)
class Header:
    """What an image's first bytes and its structure say.

    Attributes:
        kind: One of `READABLE`.
        start: Position of the image; above 0 if other bytes come first.
        width, height: In pixels, before rotation; 0 if unknown.
        bits: Bits of a sample; 0 if unknown.
        doubt: Why the file may not be readable, with the remedy; only decoding can tell. "" if it is plainly
            complete and of a usual kind.
        for_pillow: OpenCV would get some of its pixels wrong.
    """

    kind: str
    start: int = 0
    width: int = 0
    height: int = 0
    bits: int = 8
    doubt: str = ""
    for_pillow: bool = False


def read_header(data: bytes) -> Header | None:
    """Recognise an image by its first bytes; None if it is in none of the `READABLE` formats."""
    if data.startswith(jpeg.START):
        return _jpeg(data, 0)
    if data.startswith(_PNG):
        return _png(data, 0)
    if data[:4] in _TIFF:
        return None if _is_raw(data) else _tiff(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] == b"BM":
        return _bmp(data)
    if _other_format(data) is not None:
        return None
    for signature, read in ((jpeg.START, _jpeg), (_PNG, _png)):
        if (start := data.find(signature, 0, _MOST_LEADING + len(signature))) > 0:
            return read(data, start)
    return None


def other_kind(data: bytes) -> Other:
    """What a file is that `read_header` does not recognise; its first 4 KB suffice."""
    if (known := _other_format(data)) is not None:
        return known
    if not data:
        return Other("empty file", "fetch it again")
    if not data.strip(b"\0"):
        return Other("file of zeros", "a copy was interrupted; fetch it again")
    text = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return Other("web page", "the download may need a login; fetch it again")
    if text.startswith((b"<?xml", b"<svg")):
        if b"<svg" in data[:4096].lower():
            return _image("SVG drawing")
        return Other("XML file", "often a server's error message; fetch it again")
    return Other("", "fetch it again")


_CONVERT = "convert it to JPEG or PNG"


def _image(kind: str) -> Other:
    return Other(kind, _CONVERT, is_image=True)


_VIDEO = Other("video or sound", "save its frames as JPEG or PNG", is_image=True)
_EXTRACT = "extract it first"
_SYSTEM = "a file of the operating system, no image; delete it"

#: First bytes of files that are no readable images.
_SIGNATURES = {
    b"GIF8": _image("GIF image"),
    b"\0\0\0\x0cjP  \r\n\x87\n": _image("JPEG 2000 image"),
    b"\xff\x4f\xff\x51": _image("JPEG 2000 image"),
    b"\xff\x0a": _image("JPEG XL image"),
    b"\0\0\0\x0cJXL \r\n\x87\n": _image("JPEG XL image"),
    b"8BPS": _image("Photoshop image"),
    b"\0\0\1\0": _image("icon"),
    b"\0\0\2\0": _image("cursor"),
    b"v/1\1": _image("OpenEXR image"),
    b"#?RADIANCE": _image("Radiance HDR image"),
    b"DDS ": _image("DDS texture"),
    b"qoif": _image("QOI image"),
    b"SIMPLE  =": _image("FITS image"),
    b"FUJIFILMCCD-RAW": _image("camera's raw image"),
    b"IIRO": _image("camera's raw image"),
    b"IIRS": _image("camera's raw image"),
    b"IIU\0": _image("camera's raw image"),
    b"FOVb": _image("camera's raw image"),
    b"\0MRM": _image("camera's raw image"),
    b"%PDF": _image("PDF document"),
    b"%!PS": _image("PostScript document"),
    b"\x1aE\xdf\xa3": _VIDEO,
    b"\0\0\1\xba": _VIDEO,
    b"\0\0\1\xb3": _VIDEO,
    b"PK\3\4": Other("zip archive", _EXTRACT),
    b"PK\5\6": Other("empty zip archive", "fetch it again"),
    b"\x1f\x8b": Other("gzip archive", _EXTRACT),
    b"BZh": Other("bzip2 archive", _EXTRACT),
    b"\xfd7zXZ\0": Other("xz archive", _EXTRACT),
    b"(\xb5/\xfd": Other("zstd archive", _EXTRACT),
    b"7z\xbc\xaf'\x1c": Other("7z archive", _EXTRACT),
    b"Rar!": Other("RAR archive", _EXTRACT),
    b"\0\5\x16\7": Other("macOS resource file", _SYSTEM),
    b"\0\0\0\1Bud1": Other("macOS folder settings", _SYSTEM),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": Other("Windows thumbnail or Office file", _SYSTEM),
    b"version https://git-lfs": Other("Git LFS pointer", "the image is not here; `git lfs pull` fetches it"),
}
#: Brands of files in ISO's base format, by their first letters; others are videos.
_BRANDS = {
    (b"avif", b"avis"): _image("AVIF image"),
    (b"hei", b"hev", b"mif1", b"msf1"): _image("HEIC image"),
    (b"crx",): _image("camera's raw image"),
}


def _other_format(data: bytes) -> Other | None:
    for signature, other in _SIGNATURES.items():
        if data.startswith(signature):
            return other
    if data[4:8] == b"ftyp":
        brand = data[8:12].lower()
        if brand in (b"mif1", b"msf1") and b"avif" in data[16:64]:  # a general brand; the others follow
            brand = b"avif"
        for brands, other in _BRANDS.items():
            if brand.startswith(brands):
                return other
        return _VIDEO
    if data[:4] == b"RIFF" and data[8:12] != b"WEBP":
        return _VIDEO
    if data[:4] in _TIFF and _is_raw(data):
        return _image("camera's raw image")
    if data[:1] == b"P" and data[1:2] in b"1234567Ff" and data[2:3].isspace():
        return _image("PPM, PGM, PBM or PFM image")
    return None


def _jpeg(data: bytes, start: int) -> Header:
    frame, scan = jpeg.read_frame(data, start), jpeg.start_of_scan(data, start)
    doubt = "" if data.find(jpeg.END, scan) >= 0 else _truncated(data, "no end marker")
    if frame is None:
        doubt = doubt or "not a readable image (no frame header); fetch it again"
        return Header("JPEG", start, bits=0, doubt=doubt)
    if not frame.is_usual:
        doubt = doubt or f"a JPEG of {frame.bits} bits ({frame.coding}), which is not supported; {_CONVERT}"
    return Header("JPEG", start, frame.width, frame.height, frame.bits, doubt)


def _png(data: bytes, start: int) -> Header:
    doubt = "" if data.rfind(_PNG_END) >= 0 else _truncated(data, "no end marker")
    if len(data) < start + 29 or data[start + 12 : start + 16] != b"IHDR":
        return Header("PNG", start, bits=0, doubt=doubt or "not a readable image (no header); fetch it again")
    width, height, bits = struct.unpack_from(">IIB", data, start + 16)
    return Header("PNG", start, width, height, bits, doubt)


def _webp(data: bytes) -> Header:
    kind, size = data[12:16], int.from_bytes(data[4:8], "little") + 8
    doubt = "" if size <= len(data) else _truncated(data, f"its header says {size:,}")
    width = height = 0
    if kind == b"VP8X" and len(data) >= 30:
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L" and len(data) >= 25:
        sides = int.from_bytes(data[21:25], "little")
        width, height = 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    elif kind == b"VP8 " and len(data) >= 30:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return Header("WEBP", 0, width, height, doubt=doubt)


def _bmp(data: bytes) -> Header:
    if len(data) < 34:
        return Header("BMP", doubt="not a readable image (no header); fetch it again")
    start, header_size = struct.unpack_from("<II", data, 10)
    if header_size == 12:  # OS/2
        (width, height, _, bits), packing = struct.unpack_from("<HHHH", data, 18), 0
    else:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)  # negative: from top to bottom
    is_plain = packing in (0, 3, 6)  # others are run-length codes
    size = start + (width * bits + 31) // 32 * 4 * height if is_plain else int.from_bytes(data[2:6], "little")
    doubt = "" if size <= len(data) else _truncated(data, f"its header says {size:,}")
    return Header("BMP", 0, width, height, doubt=doubt)


def _tiff(data: bytes) -> Header:
    """Size of the first page, and whether its strips or tiles lie within the file."""
    try:
        tags = _tiff_tags(data)
    except (struct.error, ValueError, OverflowError):
        return Header("TIFF", bits=0, doubt=_truncated(data, "its directory lies outside"))
    width, height = (tags.get(tag, (0,))[0] for tag in (_TIFF_WIDTH, _TIFF_HEIGHT))
    pieces = [(tags[at], tags[length]) for at, length in _TIFF_PIECES if at in tags and length in tags]
    ends = [at + length for offsets, lengths in pieces for at, length in zip(offsets, lengths, strict=False)]
    bits = max(tags.get(_TIFF_BITS, (1,)))
    doubt = "" if ends else "not a readable image (no pixels); fetch it again"
    if (unusual := _unusual_samples(tags, bits)) and ends:
        doubt = f"a TIFF of {unusual}, which is not supported; {_CONVERT}"
    if (end := max(ends, default=0)) > len(data):
        doubt = _truncated(data, f"its header says {end:,}")
    return Header("TIFF", 0, width, height, bits, doubt, _opencv_misreads(tags, width, bits))


def _unusual_samples(tags: dict[int, tuple[int, ...]], bits: int) -> str:
    """What decoders may not read about a TIFF's samples; "" if they are plain."""
    (samples,), kinds = tags.get(_TIFF_SAMPLES, (1,))[:1], tags.get(_TIFF_SAMPLE_FORMAT, (1,))
    if 3 in kinds:
        return f"{bits} bits, floating point"
    if bits not in (1, 2, 4, 8, 16):
        return f"{bits} bits"
    return f"{samples} channels" if samples > 4 else ""


def _opencv_misreads(tags: dict[int, tuple[int, ...]], width: int, bits: int) -> bool:
    """Whether OpenCV darkens a TIFF by its alpha, or shears it: 16-bit grey whose last tiles are cut."""
    tile, samples = tags.get(_TIFF_TILE_WIDTH, (0,))[0], tags.get(_TIFF_SAMPLES, (1,))[0]
    is_sheared = samples == 1 and bits == 16 and tile > 0 and width % tile > 0
    has_alpha = any(kind in _ALPHA for kind in tags.get(_TIFF_EXTRA, ()))
    pillow_misreads = bits == 16 and tags.get(_TIFF_PLANES) == (2,)  # each colour by itself
    return is_sheared or (has_alpha and not pillow_misreads)


def _is_raw(data: bytes) -> bool:
    """Whether a TIFF is a camera's raw file (CR2, DNG, NEF, ARW), whose first page is a preview."""
    if data[8:10] == b"CR":
        return True
    try:
        tags = _tiff_tags(data)
    except (struct.error, ValueError, OverflowError):
        return False
    is_preview = tags.get(_TIFF_KIND, (0,))[0] & 1 and _TIFF_PARTS in tags
    return _DNG in tags or bool(is_preview)


def _truncated(data: bytes, why: str) -> str:
    return f"the image is truncated ({len(data):,} bytes, {why}); fetch it again"


def _tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """The first page's tags whose values are whole numbers; at most as many values as the file may hold."""
    order, wide = _TIFF[data[:4]]
    offset = order + ("I" if wide == 4 else "Q")
    (at,) = struct.unpack_from(offset, data, wide)
    count_format = order + ("H" if wide == 4 else "Q")
    (count,) = struct.unpack_from(count_format, data, at)
    at += struct.calcsize(count_format)
    entry = order + ("HHI" if wide == 4 else "HHQ")
    size, tags = struct.calcsize(entry) + wide, {}
    for position in range(at, at + min(count, 4096) * size, size):
        tag, kind, length = struct.unpack_from(entry, data, position)
        if (letter := {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)) is None:
            continue
        values = f"{order}{length}{letter}"
        if length > len(data):
            raise ValueError(f"tag {tag} has {length} values")
        place = position + struct.calcsize(entry)
        if struct.calcsize(values) > wide:
            (place,) = struct.unpack_from(offset, data, place)
        tags[tag] = struct.unpack_from(values, data, place)
    return {tag: values for tag, values in tags.items() if values}
