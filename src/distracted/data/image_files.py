"""The files below a data set's folders of images, found once and then matched by name.

Names from lists are only looked up among these files and never become parts of paths.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from functools import cached_property
from pathlib import Path, PurePath

#: Endings by which an image is recognised where no list names it.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
_BY_SYSTEMS = ("Thumbs.db", "desktop.ini")


class ImageFiles:
    """All files below one or several folders.

    Attributes:
        paths: Path of each file relative to the data folder, and relative to the folder that it was found in.

    Args:
        folder: The data folder.
        places: Folders of images in it; `*` and `?` stand for parts of names of folders or files.
    """

    def __init__(self, folder: Path, places: str | Sequence[str]) -> None:
        self.folder = folder
        self.places = (places,) if isinstance(places, str) else tuple(places)
        self.paths: dict[str, str] = {}
        starts = set[Path]()
        roots = [root for place in self.places for root in _roots(folder, place)]
        for root in roots:
            within = os.path.relpath(root, folder)
            if is_file := root.is_file():  # of a pattern
                self.paths.setdefault(within, root.name)
            starts.add(root.parent if is_file else root)
            for name in () if is_file else _files_below(root):
                self.paths.setdefault(name if within == "." else f"{within}/{name}", name)
        self._has_one_start = len(starts) == 1

    @cached_property
    def images(self) -> dict[str, str]:
        """Names of the files that are images by their ending, and their paths relative to the data folder.

        A name is the path in the folder of images, or, if there are several folders, in the data folder.
        """
        return {self.name(path): path for path in sorted(self.paths) if _is_image(path)}

    def name(self, path: str) -> str:
        """The name of a file that no list names, as in `images`."""
        return self.paths[path] if self._has_one_start else path

    @cached_property
    def others(self) -> list[str]:
        """Files that are no images by their ending; hidden ones and those that systems leave do not count."""
        shown = (path for path in self.paths if not _is_hidden(path) and not path.endswith(_BY_SYSTEMS))
        return [path for path in shown if not _is_image(path)]

    def without(self, named: Set[str]) -> tuple[str, ...]:
        """Images whose paths are not among those of the images in use: perhaps a list was cut.

        Files with the ending of an image in use count, too.
        """
        others = self.paths.keys() - named
        endings = (*ENDINGS, *{PurePath(path).suffix.lower() or "/" for path in named}) if others else ()
        return tuple(
            sorted(path for path in others if path.lower().endswith(endings) and not _is_hidden(path))
        )

    def find(self, name: str, *, folders: Sequence[str] = ()) -> list[str]:
        """Paths, relative to the data folder, of the files that a name may mean: none, one, or several.

        The first of these rules that any file fulfils decides: the name in the class's folder; the name; a
        path that ends in the name; the same whatever the case and the Unicode form; the same without the
        file's ending.

        Args:
            folders: Names that the class's folder may have.
        """
        name = plain(name)
        for exact in (*(f"{folder}/{name}" for folder in folders), name):
            if exact in self._by_name:
                return self._by_name[exact]
        near = self._by_stem.get(_stem(name), [])
        for alike in (_ends_in, _ends_alike, _ends_in_stem):
            if found := [path for path in near if alike(f"/{self.folder.name}/{path}", f"/{name}")]:
                return found
        return []

    def of_name(self, name: str) -> list[str]:
        """Paths of all files that end in a name, in whichever folder."""
        return [path for path in self.of_stem(name) if _ends_in(f"/{path}", f"/{plain(name)}")]

    def of_stem(self, name: str) -> list[str]:
        """Paths of all files whose base name is that of a name, whatever its folder and ending."""
        return self._by_stem.get(_stem(plain(name)), [])

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Paths by the path in their folder of images."""
        by_name: dict[str, list[str]] = defaultdict(list)
        for path, name in self.paths.items():
            by_name[name].append(path)
        return dict(by_name)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        by_stem: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            by_stem[_stem(path)].append(path)
        return dict(by_stem)


def plain(name: str) -> str:
    """A name from a list with / between its parts, without a leading ./ ."""
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _is_image(path: str) -> bool:
    return path.lower().endswith(ENDINGS) and not _is_hidden(path)


def _roots(folder: Path, place: str) -> list[Path]:
    """The folder or files that a place means: as it is written, else as a pattern."""
    if (folder / place).is_dir() or not set(place) & set("*?"):
        return [folder / place]
    return sorted(path for path in folder.glob(place) if not path.name.startswith("."))


def _files_below(root: Path) -> Iterator[str]:
    """Paths relative to a folder; links are followed, each folder once, and hidden folders left out."""
    seen, left = set[tuple[int, int]](), [""]
    while left:
        within = left.pop()
        try:
            stat = (root / within).stat()
            with os.scandir(root / within) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):  # no folder of images: the lists' names are missing
            continue
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        inner = []
        for entry in listed:
            if entry.is_file():
                yield f"{within}{entry.name}"
            elif not entry.name.startswith((".", "__MACOSX")) and entry.is_dir():
                inner.append(f"{within}{entry.name}/")
        left += reversed(inner)


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _stem(name: str) -> str:
    """The base name without the ending of an image, whatever its case and Unicode form."""
    return _without_ending(_folded(name.rpartition("/")[2]))


def _without_ending(path: str) -> str:
    ending = next((ending for ending in ENDINGS if path.lower().endswith(ending)), "")
    return path[: len(path) - len(ending)]


def _ends_in(path: str, name: str) -> bool:
    return path.endswith(name)


def _ends_alike(path: str, name: str) -> bool:
    return _folded(path).endswith(_folded(name))


def _ends_in_stem(path: str, name: str) -> bool:
    return _folded(_without_ending(path)).endswith(_folded(name))
