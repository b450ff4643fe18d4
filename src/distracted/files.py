"""Atomic writes, SHA-256 hashes of files, by what a changed file is told, and files in memory."""

import ctypes
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

_SETTLED_NS = 2_000_000_000  # the coarsest clock of common file systems, FAT's


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` when the block succeeds.

    Readers see the complete file or none. On an error the temporary file is removed and `path` is unchanged.
    """
    with atomic_paths([path]) as [temporary]:
        yield temporary


@contextmanager
def atomic_paths(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Write files of one folder together; the last one marks the set as complete.

    The old last file is removed first and the new one appears last, so a reader who sees it also sees the
    other files that were written with it.
    """
    with ExitStack() as stack:
        temporaries = [stack.enter_context(_temporary(path)) for path in paths]
        yield temporaries
        for temporary in temporaries:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        *others, last = paths
        if others:
            last.unlink(missing_ok=True)
            flush_folder(last.parent)
        for temporary, path in zip(temporaries, [*others, last], strict=True):
            temporary.replace(path)
    flush_folder(last.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`; a file left there is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def create_memory_file(name: str) -> int:
    """Make a file that belongs to no file system, and return its descriptor.

    Pythons that are built for old systems, such as uv's and conda's, lack the function that the system has.

    Args:
        name: Shown in /proc; need not be unique.

    Raises:
        OSError: the system makes no such files (only Linux does), or forbids it.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    create = getattr(ctypes.CDLL(None), "memfd_create", None)
    close_on_exec = 1
    fd = -1 if create is None else int(create(name.encode(), close_on_exec))
    if fd < 0:
        raise OSError("the system makes no files in memory")
    return fd


def flush_folder(folder: Path) -> None:
    """Flush renames in a folder to disk, where the file system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, of: str = "") -> None:
    """Remove temporary files that killed processes left; the caller must be the folder's only writer.

    Only files whose final name starts with `of` are removed.
    """
    for path in folder.glob(f".{of}*.tmp"):
        path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Remove the empty folders in a folder, then the folder itself if it is empty."""
    with suppress(OSError):  # not empty, or missing
        for inner in [*folder.iterdir(), folder]:
            if inner.is_dir():
                with suppress(OSError):
                    inner.rmdir()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def create_text(path: Path, text: str) -> bool:
    """Create a file atomically and exclusively.

    Returns:
        False if the file exists already; it is left unchanged.
    """
    if path.exists():  # checked before anything is written: the folder may be read-only
        return False
    with _temporary(path) as temporary:
        with temporary.open("xb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # fails where `path` exists, unlike a rename
        except FileExistsError:
            return False
        except OSError:  # no hard links (exFAT), or the winner has removed our temporary file
            try:
                with path.open("xb") as file:
                    file.write(text.encode())
            except FileExistsError:
                return False
    return True


class FileState(NamedTuple):
    """By what the file system tells a file from others at its path: a changed one differs in one of these.

    Programs can set size and modification time back. The change time is the kernel's own, and a file that
    took the place of another has another inode. Both are new after a copy, and on some network drives after
    each mount.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, file: Path | str | int) -> "FileState":
        """The state of the file at a path, or of an open one.

        Raises:
            OSError: there is none.
        """
        stat = os.stat(file)  # noqa: PTH116  # of 100,000 images
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)

    def is_settled(self, now_ns: int) -> bool:
        """Whether a change from now on gives another state: two within the clock's step get the same time."""
        return self.ctime_ns < now_ns - _SETTLED_NS


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256_bytes(text.encode())
