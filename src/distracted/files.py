"""The atomic writer and the hashes: every file of the project is written and fingerprinted here."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, renamed to `path` when the block ends well.

    A reader sees the whole file or none. On an error the temporary file is removed and `path` stays as it
    was.
    """
    with _temporary(path) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under; what is left there in the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
        False where the file was there already (somebody else was first); it is left as it is.
    """
    if path.exists():  # nothing to write, and nothing is: the folder may be read-only
        return False
    with _temporary(path) as temporary:
        try:
            temporary.write_bytes(text.encode())
            _flush(temporary)
            os.link(temporary, path)  # fails where `path` exists, unlike a rename
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links, such as exFAT or a mounted drive
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


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
