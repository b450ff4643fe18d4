"""Damaged and odd image files, made from a seed: 20 kinds of damage, 20 kinds of good files that look odd.

    PYTHONPATH=scripts python bench/damaged_files.py --each 10

Says how many of the damaged files reading refuses or the audit names (recall), and how many of what they
name is damaged (precision), for each kind.
"""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import console
from distracted.audit.damage import examine
from distracted.data.images import check_bytes, decode
from distracted.data.jpeg import segments, start_of_scan
from distracted.errors import ImageError

Picture = Image.Image
Maker = Callable[[np.random.Generator], bytes]

# 24 x 16 pixels with arithmetic codes, which Pillow cannot write
_ARITHMETIC = (
    "|JeWF01!$>Nk#wx0RR9200961|JwjV01XKW3knDg3knMk4h;_zAQcl55)&sJ9v2`kDKRiEDJ?8BI!Zn>HbyrrEkIX6ModmpQ&KWMT47"
    "pHU`kO^PygEhLjevB4iga*CKVMXPc<zyPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPf!2J01*fP5C"
    "9kh0U`hb5di}c0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zfS&0Z~X4p0iBEW||9+&;^lqS%?Gf2&T?5>Pi@V%jCr)F6(LHCIJ@XtlDk"
    "X)`;-{L5BKCA|I{d(_Ic1U&~LqH_TFQ}=(3J9u?@XTA9{u<)WzA(wUKG96c!Wr)k3+!rAL+AbfuxkdWgVO^j|EB<ZV@V&+bOL=NTu(="
    "f|eHWPJ|Je"
)


def photograph(rng: np.random.Generator) -> Picture:
    """A smooth picture with fine noise."""
    width, height = [(320, 240), (256, 192), (180, 240)][rng.integers(3)]
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def encode(picture: Picture, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(rng: np.random.Generator, **options: Any) -> bytes:
    settings: dict[str, Any] = {"quality": int(rng.integers(60, 96)), "subsampling": int(rng.choice([0, 2]))}
    return encode(photograph(rng), **settings, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(header: bytes, pixels: bytes, *more: bytes) -> bytes:
    """A PNG of IHDR's content and compressed pixels, with chunks between."""
    chunks = [png_chunk(b"IHDR", header), *more, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png(rng: np.random.Generator) -> bytes:
    return encode(photograph(rng), "PNG")


def _as_bytes(array: NDArray[Any], kind: str) -> bytes:
    return cv2.imencode(kind, array)[1].tobytes()


def _place(rng: np.random.Generator, data: bytes, size: int, first: int) -> int:
    """A position in the middle of the data."""
    return int(first + (len(data) - first - size) * rng.uniform(0.2, 0.8))


def _overwritten(make: Maker, fill: Callable[[np.random.Generator, int], bytes], size: int = 512) -> Maker:
    def damaged(rng: np.random.Generator) -> bytes:
        data = make(rng)
        first = start_of_scan(data) if data.startswith(b"\xff\xd8") else 64
        at = _place(rng, data, size, first)
        return data[:at] + fill(rng, size) + data[at + size :]

    return damaged


def _cut(make: Maker, end: bytes = b"") -> Maker:
    def damaged(rng: np.random.Generator) -> bytes:
        data = make(rng)
        first = start_of_scan(data) + 20 if data.startswith(b"\xff\xd8") else 0
        return data[: int(first + (len(data) - first) * rng.uniform(0.3, 0.95))] + end

    return damaged


def _without_restarts(rng: np.random.Generator) -> bytes:
    """Two restart intervals are missing."""
    data = jpeg(rng, restart_marker_blocks=8)
    at = data.find(b"\xff\xd2", start_of_scan(data))
    return data[:at] + data[data.find(b"\xff\xd4", at) :]


def _without_last_scans(rng: np.random.Generator) -> bytes:
    data = jpeg(rng, progressive=True)
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    keep = scans[int(rng.integers(2, len(scans)))]
    tables = data.rfind(b"\xff\xc4", 0, keep)  # between two scans
    return data[: tables if tables > scans[0] else keep] + b"\xff\xd9"


def _two_halves(rng: np.random.Generator) -> bytes:
    """The first half of one file and the second of another, as a broken disk leaves them."""
    one, other = jpeg(rng), jpeg(rng)
    return one[: len(one) // 2] + other[len(other) // 2 :]


def _as_text(rng: np.random.Generator) -> bytes:
    """Transferred as a text: line ends are changed."""
    return jpeg(rng).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _wrong_checksum(rng: np.random.Generator) -> bytes:
    data = bytearray(png(rng))
    at = data.find(b"IDAT")
    data[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 0xFF
    return bytes(data)


def _short_pixels(rng: np.random.Generator) -> bytes:
    """A PNG in order, but for the end of its compressed pixels."""
    picture = photograph(rng)
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(picture))
    packed = zlib.compress(rows)
    return png_of(struct.pack(">IIBBBBB", *picture.size, 8, 2, 0, 0, 0), packed[: int(len(packed) * 0.6)])


def _of(kind: str, **options: Any) -> Maker:
    return lambda rng: encode(photograph(rng), kind, **options)


#: Each of these files has lost pixels, or the proof that it has not.
DAMAGED: dict[str, Maker] = {
    "JPEG, cut": _cut(jpeg),
    "JPEG, cut, end marker appended": _cut(jpeg, b"\xff\xd9"),
    "JPEG, zeros in the middle": _overwritten(jpeg, lambda rng, size: bytes(size)),
    "JPEG, random bytes in the middle": _overwritten(jpeg, lambda rng, size: rng.bytes(size)),
    "JPEG, 0xFF in the middle": _overwritten(jpeg, lambda rng, size: b"\xff" * size),
    "JPEG, 300 bytes missing": _overwritten(jpeg, lambda rng, size: b"", 300),
    "JPEG, restart intervals missing": _without_restarts,
    "JPEG, progressive, cut, end marker": _cut(lambda rng: jpeg(rng, progressive=True), b"\xff\xd9"),
    "JPEG, progressive, last scans missing": _without_last_scans,
    "JPEG, halves of two files": _two_halves,
    "JPEG, transferred as a text": _as_text,
    "PNG, cut": _cut(png),
    "PNG, cut, end chunk appended": _cut(png, png_chunk(b"IEND", b"")),
    "PNG, wrong checksum": _wrong_checksum,
    "PNG, zeros in the middle": _overwritten(png, lambda rng, size: bytes(size)),
    "PNG, compressed pixels too short": _short_pixels,
    "WebP, cut": _cut(_of("WEBP")),
    "BMP, cut": _cut(_of("BMP")),
    "TIFF, cut": _cut(_of("TIFF")),
    "TIFF, LZW, random bytes": _overwritten(
        _of("TIFF", compression="tiff_lzw"), lambda r, size: r.bytes(size)
    ),
}


def _before(marker: bytes, stray: bytes) -> Maker:
    def odd(rng: np.random.Generator) -> bytes:
        data = jpeg(rng)
        at = next(place for place, kind in segments(data) if kind == marker[1])
        return data[:at] + stray + data[at:]

    return odd


def _with_thumbnail(rng: np.random.Generator) -> bytes:
    data, thumbnail = jpeg(rng), encode(photograph(rng).resize((32, 24)))
    content = b"Exif\0\0MM\0*\0\0\0\x08" + bytes(6) + thumbnail
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


def _padded(rng: np.random.Generator) -> bytes:
    return jpeg(rng)[:-2] + bytes(int(rng.integers(1, 600))) + b"\xff\xd9"


def _black(rng: np.random.Generator) -> bytes:
    """One shade with optimised codes: its data are zeros and nothing else."""
    return encode(Image.new("RGB", (640, 480), (0, 0, int(rng.integers(0, 4)))), optimize=True)


def _with_odd_chunk(rng: np.random.Generator) -> bytes:
    data = png(rng)
    return data[:33] + struct.pack(">I", 4) + b"tEXtabcd\0\0\0\0" + data[33:]  # with a wrong checksum


# Of each pass of an interlaced PNG: first row and column, and the steps
_ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def _interlaced(rng: np.random.Generator) -> bytes:
    picture, rows = photograph(rng), []
    for top, left, down, across in _ADAM7:
        rows += [b"\0" + row.tobytes() for row in np.asarray(picture)[top::down, left::across]]
    header = struct.pack(">IIBBBBB", *picture.size, 8, 2, 0, 0, 1)
    return png_of(header, zlib.compress(b"".join(rows)))


def _palette(rng: np.random.Generator) -> bytes:
    bits = int(rng.choice([1, 2, 4]))
    return encode(photograph(rng).quantize(2**bits), "PNG", bits=bits, transparency=0)


def _deep(rng: np.random.Generator, kind: str = ".png") -> bytes:
    channels = int(rng.choice([1, 3, 4])) if kind == ".png" else 3
    values = np.asarray(photograph(rng)).astype(np.uint16)[..., [0, 1, 2, 0][:channels]] * 257
    values[..., 0].flat[0] = 65535
    return _as_bytes(values, kind)


def _run_lengths(rng: np.random.Generator) -> bytes:
    """A BMP with 8-bit run-length codes, which Pillow cannot write."""
    width, height = 64, 48
    codes = bytearray()
    for _ in range(height):
        for _ in range(4):
            codes += bytes([width // 4, int(rng.integers(0, 256))])
        codes += b"\0\0"
    codes += b"\0\1"
    palette = rng.integers(0, 256, (256, 4), dtype=np.uint8).tobytes()
    start = 54 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(codes), 0, 0, start) + head + palette + bytes(codes)


def _top_down(rng: np.random.Generator) -> bytes:
    data = bytearray(encode(photograph(rng), "BMP"))
    (height,) = struct.unpack_from("<i", data, 22)
    struct.pack_into("<i", data, 22, -height)
    return bytes(data)


def tiled_tiff(pixels: NDArray[Any], side: int = 64, *, deflate: bool = False) -> bytes:
    """A TIFF in tiles, which Pillow cannot write.

    Args:
        pixels: Of 8 or 16 bits, shape (H, W, num_samples), num_samples 1, 3 or 4 (with alpha).
        deflate: Compress each tile.
    """
    height, width, samples = pixels.shape
    padded = np.pad(pixels, [(0, -height % side), (0, -width % side), (0, 0)])
    tops, lefts = range(0, height, side), range(0, width, side)
    tiles = [padded[top : top + side, left : left + side].tobytes() for top in tops for left in lefts]
    tiles = [zlib.compress(tile) for tile in tiles] if deflate else tiles
    lengths = [len(tile) for tile in tiles]
    values = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * samples, 259: [8 if deflate else 1]}
    values |= {262: [1 if samples == 1 else 2], 277: [samples], 322: [side], 323: [side]}
    values |= {324: np.cumsum([8, *lengths])[:-1].tolist(), 325: lengths}
    values |= {338: [2]} if samples == 4 else {}
    data = b"".join(tiles)
    directory, arrays = b"", b""
    after = 8 + len(data) + 2 + 12 * len(values) + 4
    for tag, numbers in values.items():
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        place = packed if len(numbers) == 1 else struct.pack("<I", after + len(arrays))
        arrays += packed if len(numbers) > 1 else b""
        directory += struct.pack("<HHI", tag, 4, len(numbers)) + place
    head = struct.pack("<4sI", b"II*\0", 8 + len(data))
    return head + data + struct.pack("<H", len(values)) + directory + bytes(4) + arrays


def _tiled(rng: np.random.Generator) -> bytes:
    return tiled_tiff(np.asarray(photograph(rng)))


def _tiled_grey(rng: np.random.Generator) -> bytes:
    grey = np.asarray(photograph(rng).convert("L"))[..., None]
    return tiled_tiff(grey.astype("<u2") * 257)


def _animated(rng: np.random.Generator) -> bytes:
    picture = photograph(rng)
    return encode(picture, "WEBP", save_all=True, append_images=[picture.rotate(180)], lossless=True)


def _several(kind: str) -> Maker:
    return lambda rng: encode(photograph(rng), kind, save_all=True, append_images=[photograph(rng)])


def _one_of(*makers: Maker) -> Maker:
    return lambda rng: makers[int(rng.integers(len(makers)))](rng)


#: Each of these files has all of its pixels.
GOOD: dict[str, Maker] = {
    "JPEG, zeros between segments": _before(b"\xff\xdb", b"\0\0"),
    "JPEG, text between segments": _before(b"\xff\xda", b"hello"),
    "JPEG, a line break before": lambda rng: b"\r\n" + jpeg(rng),
    "JPEG, bytes after the end": lambda rng: jpeg(rng) + rng.bytes(int(rng.integers(1, 5000))),
    "JPEG, no end marker": lambda rng: jpeg(rng)[:-2],
    "JPEG, padded before its end marker": _padded,
    "JPEG, several images": _several("MPO"),
    "JPEG, thumbnail": _with_thumbnail,
    "JPEG, Adobe's CMYK": lambda rng: encode(photograph(rng).convert("CMYK"), quality=90),
    "JPEG, progressive, grey": lambda rng: encode(photograph(rng).convert("L"), progressive=True),
    "JPEG, one shade, optimised": _black,
    "JPEG, arithmetic codes": lambda rng: base64.b85decode(_ARITHMETIC) + rng.bytes(3),
    "PNG, odd chunks": _with_odd_chunk,
    "PNG, interlaced": _interlaced,
    "PNG, palette of 1, 2 or 4 bits": _palette,
    "PNG, 16 bits": _deep,
    "BMP, run lengths or top-down": _one_of(_run_lengths, _top_down),
    "TIFF, LZW, tiled or several pages": _one_of(
        _of("TIFF", compression="tiff_lzw"), _tiled, _several("TIFF")
    ),
    "TIFF, 16 bits": _one_of(lambda rng: _deep(rng, ".tiff"), _tiled_grey),
    "WebP, animated or lossless": _one_of(_animated, _of("WEBP", lossless=True)),
}


def files(makers: dict[str, Maker], *, each: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """Some files of each kind."""
    rngs = np.random.default_rng(seed).spawn(len(makers) * each)
    kinds = [kind for kind in makers for _ in range(each)]
    return [(kind, makers[kind](rng)) for kind, rng in zip(kinds, rngs, strict=True)]


def judge(data: bytes, path: Path) -> tuple[str, str]:
    """What reading and the audit say about a file: why it is refused, and its damage."""
    try:
        check_bytes(data, path)
        return "", examine(decode(data, path)).damage
    except ImageError as error:
        return str(error), ""


def main(each: int = 10, seed: int = 0) -> None:
    """Judge damaged and good files, and print recall and precision by kind."""
    rows, counts = [], {True: 0, False: 0}
    for is_damaged, makers in ((True, DAMAGED), (False, GOOD)):
        made = files(makers, each=each, seed=seed)
        verdicts = [(kind, judge(data, Path(kind))) for kind, data in made]
        for kind in makers:
            refused, named = (sum(bool(two[n]) for key, two in verdicts if key == kind) for n in (0, 1))
            left = each - refused - named
            name = "damaged" if is_damaged else "good"
            rows.append([name, kind, *map(str, (refused, named, left))])
            counts[is_damaged] += refused + named
    console.table("image files", ["", "kind", "refused", "named by the audit", "taken as whole"], rows)
    recall, precision = counts[True] / (each * len(DAMAGED)), counts[True] / max(1, sum(counts.values()))
    num = f"{each * len(DAMAGED)} damaged and {each * len(GOOD)} good files"
    console.say(f"{num}: recall {recall:.1%}, precision {precision:.1%}")


if __name__ == "__main__":
    console.run(main)
