"""Remembers what was read from files, for as long as they are the same files."""

import os
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

#: Device, inode, size, and times of the last change of the contents and of the inode, in ns. Files of the
#: store are replaced by renaming: another file has another inode, and its inode's time cannot be set back.
Identity = tuple[int, int, int, int, int]


class FileMemory(Generic[T]):
    """A value for each file, forgotten when the file is replaced or changed."""

    def __init__(self) -> None:
        self._values: dict[Path, tuple[Identity, T]] = {}

    def get(self, path: Path, identity: Identity | None = None) -> T | None:
        """The value of a file; None if there is none, or if the file is another one now.

        Args:
            identity: Identity of the file that was just read; by default of the file that is there.
        """
        known = self._values.get(path)
        if known is None:
            return None
        try:
            return known[1] if known[0] == (identity or _identity(path.stat())) else None
        except OSError:
            return None

    def put(self, path: Path, identity: Identity, value: T) -> None:
        self._values[path] = identity, value


def read_bytes(path: Path) -> tuple[bytes, Identity]:
    """A file's bytes, and which file they are from."""
    with path.open("rb") as file:
        identity = _identity(os.fstat(file.fileno()))
        return file.read(), identity


def _identity(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
