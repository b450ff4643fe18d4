"""Pictures on disk that no list names: perhaps a list was cut."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath

#: Endings that count as pictures, besides those of the listed images.
_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"))


def find_unlisted(folder: Path, listed: Collection[str]) -> tuple[str, ...]:
    """Pictures in a folder and its subfolders that are not listed, relative to the folder, sorted.

    Hidden files and folders, such as those that macOS leaves, do not count. Linked folders are searched once.

    Args:
        listed: Paths of all images that a list names; may lie elsewhere.
    """
    others = [path for path in _files(str(folder)) if path not in listed]
    if not others:  # as it should be: no need to look at the listed ones
        return ()
    suffixes = _SUFFIXES | {PurePath(path).suffix.lower() for path in listed}
    pictures = (PurePath(path) for path in others)
    return tuple(
        sorted(str(path.relative_to(folder)) for path in pictures if path.suffix.lower() in suffixes)
    )


def _files(folder: str) -> Iterator[str]:
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if _is_new(f"{parent}{os.sep}{name}", seen)]
        yield from (f"{parent}{os.sep}{name}" for name in files if not name.startswith("."))


def _is_new(folder: str, seen: set[str]) -> bool:
    """Whether a folder is neither hidden nor reached before through a link."""
    if PurePath(folder).name.startswith((".", "__MACOSX")):
        return False
    real = os.path.realpath(folder)
    is_new = real not in seen
    seen.add(real)
    return is_new
