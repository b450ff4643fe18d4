"""The structure of a JPEG file: segments, frame, scans. Nothing is decoded here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

START, END = b"\xff\xd8\xff", b"\xff\xd9"
_SCAN, _TABLES = 0xDA, 0xC4
_LOSSLESS_LS = 0xF7  # JPEG-LS, another standard of the same structure
_FRAMES = {*range(0xC0, 0xD0), _LOSSLESS_LS} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), (0xC2, 0xCA)
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_LONGEST_ZEROS = 48  # bytes: more than one block, where a block has no code of zeros only


@dataclass(frozen=True)
class Frame:
    """The frame header.

    Attributes:
        bits: Bits of a sample; 8 in nearly all files.
        components: Their numbers, such as 1, 2, 3 for luminance and two colours.
    """

    marker: int
    width: int
    height: int
    bits: int
    components: tuple[int, ...]

    @property
    def is_usual(self) -> bool:
        """8 bits, sequential or progressive, with Huffman codes: all decoders read it."""
        return self.bits == 8 and self.marker in (*_SEQUENTIAL, 0xC2)

    @property
    def coding(self) -> str:
        if self.marker == _LOSSLESS_LS:
            return "JPEG-LS"
        how = {1: "sequential", 2: "progressive", 3: "lossless"}.get(self.marker & 3, "sequential")
        return f"{how}, arithmetic" if self.marker > 0xC8 else how


def segments(data: bytes, start: int = 0) -> Iterator[tuple[int, int]]:
    """Position and marker of each segment up to the first scan; like libjpeg it skips stray bytes between."""
    position = start + 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            position = data.find(b"\xff", position)
            if position < 0:
                return
            continue
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0 or marker in _ALONE:
            position += 2
        elif marker == END[1]:
            return
        else:
            yield position, marker
            if marker == _SCAN:
                return
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def start_of_scan(data: bytes, start: int = 0) -> int:
    """Position of the first scan; an end marker before it belongs to an EXIF thumbnail."""
    return next((position for position, marker in segments(data, start) if marker == _SCAN), len(data))


def read_frame(data: bytes, start: int = 0) -> Frame | None:
    """The frame header; None if there is none."""
    for position, marker in segments(data, start):
        if marker in _FRAMES:
            head = data[position + 4 : position + 10]
            if len(head) < 6:
                return None
            height, width = (int.from_bytes(head[at : at + 2], "big") for at in (1, 3))
            end = min(position + 10 + 3 * head[5], len(data))
            return Frame(marker, width, height, head[0], tuple(data[position + 10 : end : 3]))
    return None


def without_stray_bytes(data: bytes) -> bytes:
    """Remove the bytes between the segments before the first scan; the rest stays as it is."""
    parts, scan = [data[:2]], len(data)
    for position, marker in segments(data):
        if marker == _SCAN:
            scan = position
            break
        length = 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        parts.append(data[position : position + length])
    return b"".join([*parts, data[scan:]])


def has_stray_bytes(data: bytes) -> bool:
    """Whether there are bytes between the segments before the first scan."""
    return len(without_stray_bytes(data)) < len(data)


def lacks_scans(data: bytes) -> bool:
    """Whether scans are missing that a complete picture has: a colour, or a refinement of a progressive one.

    A file that was cut between two scans decodes without a warning.
    """
    frame = read_frame(data)
    if frame is None:
        return True
    left: dict[tuple[int, int], int] = {}  # bits still to come, by component and coefficient
    scan = start_of_scan(data)
    for match in re.compile(rb"\xff\xda").finditer(data, scan, data.find(END, scan)):
        head = data[match.end() + 2 : match.end() + 18]
        if not head or not 1 <= head[0] <= 4 or len(head) < 4 + 2 * head[0]:
            continue
        first, last, bits = head[1 + 2 * head[0] : 4 + 2 * head[0]]
        for component in head[1 : 1 + 2 * head[0] : 2]:
            for coefficient in range(first, min(last, 63) + 1):
                left[component, coefficient] = bits & 15
    if frame.marker not in _PROGRESSIVE:
        return any((component, 0) not in left for component in frame.components)
    return any(left.get((component, at), 1) > 0 for component in frame.components for at in range(64))


def has_impossible_zeros(data: bytes, *, padding: int = 0) -> bool:
    """Whether a scan holds more zero bytes in a row than its Huffman codes can produce.

    Zeros are valid codes, so a decoder may get through a hole of zeros without a warning. A picture of one
    shade may consist of them, but only if "same as before" and "end of block" have codes of zeros.

    Args:
        padding: Number of bytes between the last row and the end marker.
    """
    frame = read_frame(data)
    if frame is None or frame.marker not in _SEQUENTIAL:
        return False
    scan = start_of_scan(data)
    head = data[scan + 4 : scan + 16]
    is_only_scan = head[:1] == bytes([len(frame.components)])  # a scan of one colour alone may be flat
    end = data.find(END, scan) - (padding and padding + 8)  # the decoder holds up to eight bytes back
    if not is_only_scan or data.find(bytes(_LONGEST_ZEROS), scan, end) < 0:
        return False
    first, tables = dict(_first_symbols(data)), head[2 : 2 + 2 * head[0] : 2]
    ids = {(0, table >> 4) for table in tables} | {(1, table & 15) for table in tables}
    return any(first.get(key, 0) != 0 for key in ids)


def _first_symbols(data: bytes) -> Iterator[tuple[tuple[int, int], int]]:
    """The first symbol of each Huffman table, whose code is all zeros.

    Yields:
        The table's class (0: DC, 1: AC) and number, and the symbol.
    """
    for position, marker in segments(data):
        if marker != _TABLES:
            continue
        end = min(position + 2 + int.from_bytes(data[position + 2 : position + 4], "big"), len(data) - 17)
        at = position + 4
        while at < end:
            yield (data[at] >> 4, data[at] & 15), data[at + 17]
            at += 17 + sum(data[at + 1 : at + 17])
