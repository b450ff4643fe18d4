"""Finds the photographs in a folder, by content, and says what else is there."""

import stat
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from distracted.cores import decoding_threads
from distracted.data.formats import other_kind, read_header
from distracted.data.images import check_bytes, read_bytes, read_rgb
from distracted.errors import DataError, ImageError
from distracted.progress import Progress, silent

#: Names that say that a file is a photograph: one that is none is an error, and not only left out.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff")
_SYSTEM = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"}
_HEAD = 4096  # bytes that tell what a file is


class LeftOut(NamedTuple):
    """Something in the folder that is not predicted.

    Attributes:
        name: Relative to the folder.
        kind: Such as "GIF image" or "dead link".
        advice: What to do about it, or "".
    """

    name: str
    kind: str
    advice: str


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        folder: Names are relative to it.
        paths: The readable photographs, in order.
        unreadable: Photographs that cannot be read, with the message as the advice.
        left_out: Everything else but folders.
    """

    folder: Path
    paths: list[Path]
    unreadable: list[LeftOut]
    left_out: list[LeftOut]

    def without_unreadable(self, progress: Progress = silent) -> "Found":
        """Decode all photographs and leave out those that fail."""
        paths, unreadable, _ = _check(self.paths, self.folder, decode=True, progress=progress)
        return Found(self.folder, paths, self.unreadable + unreadable, self.left_out)


def find_photographs(folder: Path, *, progress: Progress = silent) -> Found:
    """The photographs in a folder, its subfolders and linked folders; or a single one, if that is given.

    Only the structure of each is checked. Links are followed, but to each folder once, and not to a folder
    that holds this one. Hidden files and those of operating systems are left out.

    Raises:
        DataError: no such folder, or no readable photograph in it.
    """
    if folder.is_file():
        root, files, left_out = folder.parent, [folder], list[LeftOut]()
    elif folder.is_dir():
        walk = _Walk(folder)
        root, files, left_out = folder, sorted(walk.files), walk.left_out
    else:
        raise DataError(f"IMAGES={folder}: no such folder")
    paths, unreadable, others = _check(files, root, decode=False, progress=progress)
    left_out = sorted(left_out + others)
    if not paths and unreadable:
        first = unreadable[0].advice
        raise DataError(
            f"IMAGES={folder}: none of {len(unreadable)} photographs can be read; the first: {first}"
        )
    if not paths:
        kinds = Counter(item.kind for item in left_out)
        others_text = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        holds = f"; it holds: {others_text}" if kinds else ""
        raise DataError(f"IMAGES={folder}: no photographs in it (JPEG, PNG, BMP, WebP, TIFF){holds}")
    return Found(root, paths, unreadable, left_out)


class _Walk:
    """Sorts what is in a folder into regular files and the rest. Nothing is opened, so nothing can block."""

    def __init__(self, folder: Path) -> None:
        self.files: list[Path] = []
        self.left_out: list[LeftOut] = []
        self._folder, self._around = folder, folder.resolve().parents
        self._seen: set[tuple[int, int]] = set()
        links = self._list(folder)
        while links:  # after all folders that are no links, which keep their own names
            links += self._list(links.pop(0))

    def _list(self, top: Path) -> list[Path]:
        """Visit a folder and those in it; returns the links to folders."""
        links, folders = list[Path](), [top]
        while folders:
            here = folders.pop()
            if here.resolve() in self._around:
                self._leave_out(here, "link to a folder around this one")
                continue
            try:
                status, entries = here.stat(), sorted(here.iterdir())
            except OSError as error:
                self._leave_out(here, "folder that cannot be read", error.strerror or "")
                continue
            if (status.st_dev, status.st_ino) in self._seen:
                self._leave_out(here, "folder that is linked twice")
                continue
            self._seen.add((status.st_dev, status.st_ino))
            for entry in entries:
                self._sort(entry, folders, links)
        return links

    def _sort(self, entry: Path, folders: list[Path], links: list[Path]) -> None:
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
            return self._leave_out(entry, "hidden or system file")
        try:
            mode = entry.stat().st_mode
        except OSError as error:  # gone, a circle of links, a folder without the right to enter it
            kind = "dead link" if entry.is_symlink() else "file that cannot be read"
            return self._leave_out(entry, kind, error.strerror or "")
        if stat.S_ISDIR(mode):
            (links if entry.is_symlink() else folders).append(entry)
        elif stat.S_ISREG(mode):
            self.files.append(entry)
        else:
            self._leave_out(entry, "pipe, socket or device")

    def _leave_out(self, path: Path, kind: str, advice: str = "") -> None:
        self.left_out.append(LeftOut(path.relative_to(self._folder).as_posix(), kind, advice))


def _check(
    files: Sequence[Path], root: Path, *, decode: bool, progress: Progress
) -> tuple[list[Path], list[LeftOut], list[LeftOut]]:
    """Photographs that can be read, those that cannot, and files that are no photographs."""
    paths, unreadable, others = list[Path](), list[LeftOut](), list[LeftOut]()
    with (
        progress("reading photographs", total=len(files), unit="img") as step,
        ThreadPoolExecutor(decoding_threads()) as pool,
    ):
        for path, verdict in zip(files, pool.map(partial(_judge, decode=decode), files), strict=True):
            name = path.relative_to(root).as_posix()
            if verdict is None:
                paths.append(path)
            elif isinstance(verdict, ImageError):
                unreadable.append(LeftOut(name, "unreadable", str(verdict)))
            else:
                others.append(LeftOut(name, *verdict))
            step()
    return paths, unreadable, others


def _judge(path: Path, *, decode: bool) -> ImageError | tuple[str, str] | None:
    """None for a readable photograph, its error, or kind and advice of a file that is no photograph."""
    try:
        if decode:
            read_rgb(path)
            return None
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if read_header(head) is not None or path.suffix.lower() in SUFFIXES:
            check_bytes(read_bytes(path), path)
            return None
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(f"{path}: cannot be read ({error.strerror})")
    kind, advice, _ = other_kind(head)
    return (kind, advice) if kind else ("other file", "")
