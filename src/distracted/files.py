"""Atomic writes and hashes of files; all files of the project are written here."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, renamed to `path` when the block ends well.

    A reader sees the whole file or none. On an error the temporary file is removed and `path` stays
    unchanged.
    """
    with atomic_paths([path]) as [temporary]:
        yield temporary


@contextmanager
def atomic_paths(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """As `atomic_path`, for files of one folder that belong together; the last one marks them as complete.

    The last is removed first and appears last: nobody sees it with files of another version.
    """
    with ExitStack() as stack:
        temporaries = [stack.enter_context(_temporary(path)) for path in paths]
        yield temporaries
        for temporary in temporaries:
            _flush(temporary)
        *others, last = paths
        if others:
            last.unlink(missing_ok=True)
            flush_folder(last.parent)
        for temporary, path in zip(temporaries, [*others, last], strict=True):
            temporary.replace(path)
    flush_folder(last.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`; removed in the end if it still exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make renames in a folder survive a power loss, if the file system supports it."""
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
    """Remove temporary files of killed processes; call it only while nobody else writes there.

    Args:
        of: Beginning of the target files' names; by default all.
    """
    for path in folder.glob(f".{of}*.tmp"):
        path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Remove a folder and its subfolders if they hold no file."""
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
    """Write indented JSON atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def create_text(path: Path, text: str) -> bool:
    """Create a file that must not exist yet, whole or not at all.

    Returns:
        False if the file existed already; it is left unchanged.
    """
    if path.exists():  # write nothing: the folder may be read-only
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
        except OSError:  # no hard links, as on exFAT or some mounts; or the temporary file was removed
            return _create_in_place(path, text)
    return True


def _create_in_place(path: Path, text: str) -> bool:
    try:
        with path.open("xb") as file:
            file.write(text.encode())
    except FileExistsError:
        return False
    return True


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256_bytes(text.encode())
