"""Files and their hashes; those of large files are kept between commands, as 200 runs have 4 GB of them."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from distracted.files import FileState, sha256_bytes, write_text

#: Bytes to hash before the hashes are written again; those that are left out are soon computed.
_WORTH_WRITING = 32_000_000


class File(NamedTuple):
    """A file that was or is at a path."""

    path: Path
    state: FileState


class HashedFiles:
    """Reads and hashes the files of a folder, each once, until it is replaced by another.

    Args:
        kept: A file for the hashes; it may be missing, damaged or read-only.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        self._folder, self._kept = folder, kept
        self._hashes: dict[File, str] = {}
        self._unwritten = 0

    @staticmethod
    def at(path: Path) -> File | None:
        """The file that is at a path now; None if there is none."""
        try:
            return File(path, FileState.of(path))
        except OSError:
            return None

    def read(self, path: Path) -> tuple[File, bytes]:
        """A file and its content, from which its hash is known from now on."""
        begin = time.time_ns()
        with path.open("rb") as opened:
            file, content = File(path, FileState.of(opened.fileno())), opened.read()
        if file not in self._hashes:  # one that was kept only saves the reading
            self._hashes[file] = sha256_bytes(content)
            if file.state.is_settled(begin):
                self._settled[file] = self._hashes[file]
                self._unwritten += file.state.size
                if self._unwritten >= _WORTH_WRITING:
                    self._write()
        return file, content

    def sha256(self, file: File | None) -> str | None:
        """Hex SHA-256 of a file's content; None if it is not known."""
        return None if file is None else self._hashes.get(file) or self._settled.get(file)

    @cached_property
    def _settled(self) -> dict[File, str]:
        """The hashes that are kept."""
        try:
            return dict(self._parse(json.loads(self._kept.read_bytes())))
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _parse(self, kept: dict[str, tuple[int, int, int, int, str]]) -> Iterator[tuple[File, str]]:
        for name, (*state, sha256) in kept.items():
            yield File(self._folder / name, FileState(*state)), sha256

    def _write(self) -> None:
        """Keep one hash for each path, the latest."""
        kept = {
            file.path.relative_to(self._folder).as_posix(): [*file.state, sha256]
            for file, sha256 in self._settled.items()
        }
        with suppress(OSError):  # the next command hashes them again
            write_text(self._kept, json.dumps(kept))
        self._unwritten = 0
