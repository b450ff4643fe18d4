"""Pictures on disk that no list names: perhaps a list was cut."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

#: Endings that count as pictures, besides those of the listed images.
_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"))


def find_unlisted(folder: Path, listed: Collection[Path]) -> tuple[str, ...]:
    """Pictures in a folder and its subfolders that are not listed, relative to the folder, sorted.

    Hidden files and folders, such as those that macOS leaves, do not count. Linked folders are searched once.

    Args:
        listed: All images that a list names; may lie elsewhere.
    """
    names = {str(path) for path in listed}
    suffixes = _SUFFIXES | {os.path.splitext(name)[1].lower() for name in names}  # noqa: PTH122 (102,000 of them)
    start = len(f"{folder}{os.sep}")
    found = [path[start:] for path in _files(str(folder)) if path not in names]
    return tuple(sorted(path for path in found if os.path.splitext(path)[1].lower() in suffixes))  # noqa: PTH122


def _files(folder: str) -> Iterator[str]:
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if _is_new(f"{parent}{os.sep}{name}", seen)]
        yield from (f"{parent}{os.sep}{name}" for name in files if not name.startswith("."))


def _is_new(folder: str, seen: set[str]) -> bool:
    """Whether a folder is neither hidden nor reached before through a link."""
    if os.path.basename(folder).startswith((".", "__MACOSX")):  # noqa: PTH119
        return False
    real = os.path.realpath(folder)
    is_new = real not in seen
    seen.add(real)
    return is_new
