"""Everything below a folder: the files, and what is left out, with the reason. Nothing is opened."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

HIDDEN = "hidden or system file"
UNREADABLE = "folder that cannot be read"
_SYSTEM = {
    *("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found"),
    *("@eadir", "#recycle", "@recycle"),  # network drives' thumbnails and bins
}


class LeftOut(NamedTuple):
    """Something in a folder that is not used.

    Attributes:
        name: Relative to the folder.
        kind: Such as "GIF image" or "dead link".
        advice: What to do about it, or "".
    """

    name: str
    kind: str
    advice: str = ""


def by_kind(left_out: Sequence[LeftOut], shown: int) -> list[str]:
    """What is left out, a line for each kind, such as "GIF image (7): 0.gif, 1.gif, ...; convert it".

    Args:
        shown: Number of names in each line.
    """
    kinds: dict[tuple[str, str], list[str]] = {}
    for name, kind, advice in left_out:
        kinds.setdefault((kind, advice), []).append(name if name.isprintable() else ascii(name))
    return [
        f"{kind} ({len(names)}): {', '.join(names[:shown])}"
        + (", ..." if len(names) > shown else "")
        + (f"; {advice}" if advice else "")
        for (kind, advice), names in kinds.items()
    ]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or left by an operating system or a network drive."""
    return name.startswith(".") or name.lower() in _SYSTEM


class Walk:
    """Sorts what is below a folder into regular files and the rest; pipes and devices cannot block it.

    Links are followed, but to each folder once, and not to a folder that holds this one. Folders that are no
    links come first, so that a file has its own name and not that of a link to its folder.

    Attributes:
        files: Names relative to the folder, with / between their parts.
        folders: Likewise, those that were searched; without the folder itself.
        left_out: Everything else but folders.
    """

    def __init__(self, folder: Path) -> None:
        self.files: list[str] = []
        self.folders: list[str] = []
        self.left_out: list[LeftOut] = []
        self._left, self._links = [""], list[str]()
        around, seen = set[tuple[int, int]](), set[tuple[int, int]]()
        for parent in folder.resolve().parents:
            with suppress(OSError):
                around.add(_identity(parent))
        while self._left or self._links:
            name = self._left.pop() if self._left else self._links.pop(0)
            path = folder / name
            try:
                identity = _identity(path)
                if identity in around:
                    self._leave_out(name, "link to a folder around this one")
                elif identity in seen:
                    self._leave_out(name, "folder that is linked twice")
                else:
                    seen.add(identity)
                    self.folders += [name] if name else []
                    with os.scandir(path) as entries:
                        for entry in sorted(entries, key=lambda entry: entry.name):
                            self._sort(entry, f"{name}/{entry.name}" if name else entry.name)
            except OSError as error:
                self._leave_out(name or ".", UNREADABLE, error.strerror or "")
        self.files.sort()
        self.left_out.sort()

    def _sort(self, entry: "os.DirEntry[str]", name: str) -> None:
        if is_hidden(entry.name):
            return self._leave_out(name, HIDDEN)
        is_link = entry.is_symlink()
        try:
            if entry.is_dir():
                (self._links if is_link else self._left).append(name)
            elif entry.is_file():
                self.files.append(name)
            else:
                is_dead = is_link and not Path(entry.path).exists()
                self._leave_out(name, "dead link" if is_dead else "pipe, socket or device")
        except OSError as error:  # a circle of links, a folder without the right to enter it
            kind = "dead link" if is_link else "file that cannot be read"
            self._leave_out(name, kind, error.strerror or "")

    def _leave_out(self, name: str, kind: str, advice: str = "") -> None:
        self.left_out.append(LeftOut(name, kind, advice))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
