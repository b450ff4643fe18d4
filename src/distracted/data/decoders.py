"""What image decoders print about a file: collected, instead of on stderr without the file's name.

libjpeg, libpng and libtiff print to C's `stderr`, a variable that may be replaced (glibc's manual, Standard
Streams). While an image is decoded, a file takes its place; file descriptor 2 and Python's own `sys.stderr`
stay as they are. Where the C library has no such variable, nothing is collected.
"""

import ctypes
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Lock
from typing import TypeVar

import cv2

from distracted.data import jpeg
from distracted.files import create_memory_file

T = TypeVar("T")

_UNBUFFERED = 2  # _IONBF


def listen(decode: Callable[[], T]) -> tuple[T, str]:
    """Run a decoder; returns its result and what it printed, "" in nearly all cases.

    Threads may decode at once. If one of them has printed, whose message it is shows when each of the images
    in question is decoded again, alone.
    """
    stderr = _stderr()
    if stderr is None:
        return decode(), ""
    before = stderr.size
    with stderr.replaced():
        result = decode()
    if stderr.size == before:
        return result, ""
    with stderr.replaced(alone=True):
        before = stderr.size
        result = decode()
        return result, stderr.text_from(before)


def can_listen() -> bool:
    """Whether messages are collected on this machine."""
    return _stderr() is not None


def damage_in(messages: str, data: bytes) -> str:
    """The first message that means missing or wrong pixels; "" if all are harmless.

    Args:
        data: The image. libjpeg does not say where a JPEG has stray bytes: between segments or before the end
            marker they do no harm, in the scans they are rows that were not understood.
    """
    return next((line for line in messages.splitlines() if _is_damage(line, data)), "")


def bytes_after_last_row(messages: str) -> int:
    """Number of bytes that libjpeg found between a JPEG's last row and its end marker."""
    found = (_STRAY.fullmatch(line) for line in messages.splitlines())
    return max((int(match["count"]) for match in found if match and match["marker"] == "d9"), default=0)


def _is_damage(line: str, data: bytes) -> bool:
    if (stray := _STRAY.fullmatch(line)) is None:
        return line.startswith(_DAMAGE) and "ICC" not in line
    if count := bytes_after_last_row(line):  # a few, or padding, are harmless
        before = data[: max(0, data.find(jpeg.END, jpeg.start_of_scan(data)))]
        return count > _FEW and len(before) - len(before.rstrip(b"\0\xff")) < count
    return stray["marker"] in _RESTARTS or not jpeg.has_stray_bytes(data)


_STRAY = re.compile(r"Corrupt JPEG data: (?P<count>\d+) extraneous bytes before marker 0x(?P<marker>..)")
_FEW = 3  # bytes that some encoders leave after the last row; less than a block of colours takes
_RESTARTS = tuple(f"d{number}" for number in range(8))  # markers within a scan
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression", "libpng error: IDAT")


class _Stderr:
    """C's `stderr`, and a file that takes its place while someone decodes."""

    def __init__(self, libc: ctypes.CDLL, variable: ctypes.c_void_p) -> None:
        self._variable, self._original = variable, variable.value
        self._file = _file_without_name()
        libc.fdopen.restype, libc.fdopen.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p]
        libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t]
        self._stream = libc.fdopen(self._file, b"a")
        libc.setvbuf(self._stream, None, _UNBUFFERED, 0)
        self._changed, self._decoding, self._alone = Condition(), 0, False

    @contextmanager
    def replaced(self, *, alone: bool = False) -> Iterator[None]:
        """The file takes the stream's place, for several threads or for one alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not (alone and self._decoding))
            self._alone, self._decoding = alone, self._decoding + 1
            self._variable.value = self._stream
        try:
            yield
        finally:
            with self._changed:
                self._alone, self._decoding = False, self._decoding - 1
                if not self._decoding:
                    self._variable.value = self._original
                self._changed.notify_all()

    @property
    def size(self) -> int:
        return os.fstat(self._file).st_size

    def text_from(self, position: int) -> str:
        return os.pread(self._file, 1 << 16, position).decode(errors="replace").strip()

    def close(self) -> None:
        """Give C its stream back, for a process that was forked while another thread decoded."""
        self._variable.value = self._original
        os.close(self._file)


def _file_without_name() -> int:
    """The descriptor of a new file, gone when it is closed.

    Where there is a choice, without `tempfile`: its functions share a lock. If another thread holds it at the
    moment of a fork, nobody releases the copy of it in the child, and the child waits for ever.
    """
    with suppress(OSError):
        return create_memory_file("decoder-messages")
    file, name = tempfile.mkstemp()
    Path(name).unlink()
    return file


_known: list[_Stderr | None] = []  # one entry after the first question
_asking = Lock()


def _stderr() -> _Stderr | None:
    with _asking:
        if not _known:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its results say enough
            _known.append(_find_stderr())
        return _known[0]


def _find_stderr() -> _Stderr | None:
    name = {"Darwin": "__stderrp", "Linux": "stderr"}.get(platform.system())
    if name is None or (name == "stderr" and platform.libc_ver()[0] != "glibc"):
        return None
    libc = ctypes.CDLL(None)
    try:
        return _Stderr(libc, ctypes.c_void_p.in_dll(libc, name))
    except (ValueError, AttributeError, OSError):  # no such variable, or no room for the file
        return None


def _forget() -> None:
    global _asking
    _asking = Lock()
    for stderr in filter(None, _known):
        stderr.close()
    _known.clear()


if hasattr(os, "register_at_fork"):  # before the first question, during which others may fork
    os.register_at_fork(after_in_child=_forget)
