"""Says what is wrong with a recording that the client cannot read.

The format is LevelDB's log: blocks of 32 KB with chunks, each with a checksum, its length and its place in a
record; W&B puts 7 bytes in front and uses the CRC of zlib. A record is a protocol buffer.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_HEADER = b":W&B\xe1\xbe"  # followed by the version
_VERSION = 0
_BLOCK = 32768
_CHUNK = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class _DamageError(Exception):
    """What is wrong, and where."""


def find_damage(path: Path) -> tuple[int, str]:
    """The number of readable records, and what ends them; "" if the recording is whole.

    A recording without a run in it counts as damaged, too: its process was killed before the run was written.
    """
    num_records, has_run = 0, False
    try:
        with path.open("rb") as file:
            for data in _records(file):
                has_run = has_run or _is_run(data)
                num_records += 1
    except _DamageError as error:
        return num_records, str(error)
    except OSError as error:
        return 0, error.strerror or type(error).__name__
    return (num_records, "") if has_run else (0, "it holds no run: its process ended before it was written")


def _is_run(data: bytes) -> bool:
    from wandb.proto import wandb_internal_pb2  # slow to import

    record: Any = wandb_internal_pb2
    try:
        return bool(record.Record.FromString(data).WhichOneof("record_type") == "run")
    except Exception as error:  # of protobuf's own types
        raise _DamageError("a record that is no protocol buffer") from error


def _records(file: BinaryIO) -> Iterator[bytes]:
    header = file.read(len(_HEADER) + 1)
    if not header:
        raise _DamageError("the file is empty")
    if header[:-1] != _HEADER[: len(header)] or len(header) <= len(_HEADER):
        raise _DamageError("it does not begin as a recording does")
    if header[-1] != _VERSION:
        raise _DamageError(f"version {header[-1]} of the format; this client knows version {_VERSION}")
    parts: list[bytes] = []
    while True:
        if (left := _BLOCK - file.tell() % _BLOCK) < _CHUNK.size:  # a chunk's head is never split
            file.seek(left, 1)
        place = file.tell()
        head = file.read(_CHUNK.size)
        if not head and not parts:
            return
        if len(head) < _CHUNK.size:
            raise _DamageError(f"it ends within a record, at byte {place + len(head)}")
        crc, length, kind = _CHUNK.unpack(head)
        data = file.read(length)
        if len(data) < length:
            raise _DamageError(f"it ends within a record, at byte {place + len(head) + len(data)}")
        if crc != zlib.crc32(data, zlib.crc32(bytes([kind]))) or kind not in range(_WHOLE, _LAST + 1):
            raise _DamageError(f"wrong checksum at byte {place}")
        if (kind in (_WHOLE, _FIRST)) != (not parts):
            raise _DamageError(f"a record without its beginning or end, at byte {place}")
        parts.append(data)
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []
