"""The files below a data set's folders of images, found once and then matched by name.

Names from lists are only looked up among these files and never become parts of paths.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence, Set
from functools import cached_property
from pathlib import Path, PurePath

from distracted.data.formats import ENDINGS
from distracted.data.names import check_file_names
from distracted.data.walk import HIDDEN, UNREADABLE, LeftOut, Walk, is_hidden
from distracted.errors import DataError


class ImageFiles:
    """All files below one or several folders.

    Attributes:
        paths: Path of each file relative to the data folder, and relative to the folder that it was found in.
        left_out: What else is there, by its path relative to the data folder.

    Args:
        folder: The data folder.
        places: Folders of images in it; `*` and `?` stand for parts of names of folders or files.
    """

    def __init__(self, folder: Path, places: str | Sequence[str]) -> None:
        self.folder = folder
        self.places = (places,) if isinstance(places, str) else tuple(places)
        self.paths: dict[str, str] = {}
        self.left_out: list[LeftOut] = []
        self._folders: list[str] = []
        self._by_end: dict[int, dict[str, list[str]]] = {}
        starts = set[Path]()
        for root in (root for place in self.places for root in _roots(folder, place)):
            within = os.path.relpath(root, folder)
            is_file = root.is_file()  # of a pattern
            starts.add(root.parent if is_file else root)
            if is_file:
                self.paths.setdefault(within, root.name)
            elif root.is_dir():
                walk, prefix = Walk(root), "" if within == "." else f"{within}/"
                for name in walk.files:
                    self.paths.setdefault(prefix + name, name)
                self._folders += [prefix + name for name in walk.folders]
                self.left_out += [item._replace(name=prefix + item.name) for item in walk.left_out]
        self._has_one_start = len(starts) == 1

    @cached_property
    def images(self) -> dict[str, str]:
        """Names of the files that are images by their ending, and their paths relative to the data folder.

        A name is the path in the folder of images, or, if there are several folders, in the data folder.

        Raises:
            DataError: a folder cannot be read, or a name cannot be written to a list.
        """
        for name, kind, advice in self.left_out:
            if kind == UNREADABLE:
                raise DataError(f"{self.folder / name}: {kind} ({advice})")
        images = {self.name(path): path for path in sorted(self.paths) if _is_image(path)}
        check_file_names(images, self.folder)
        return images

    def name(self, path: str) -> str:
        """The name of a file that no list names, as in `images`."""
        return self.paths[path] if self._has_one_start else path

    @property
    def others(self) -> list[LeftOut]:
        """What `images` leaves out, besides hidden files."""
        odd = [LeftOut(path, "no image by its ending") for path in self.paths if not _is_image(path)]
        direct = {PurePath(path.rpartition("/")[0]) for path in self.images.values()}
        used = {str(folder) for own in direct for folder in (own, *own.parents)}
        odd += [LeftOut(folder, "folder without images") for folder in self._folders if folder not in used]
        return odd + [item for item in self.left_out if item.kind != HIDDEN]

    def without(self, named: Set[str]) -> tuple[str, ...]:
        """Images whose paths are not among those of the images in use: perhaps a list was cut.

        Files with the ending of an image in use count, too.
        """
        others = self.paths.keys() - named
        endings = (*ENDINGS, *{PurePath(path).suffix.lower() or "/" for path in named}) if others else ()
        return tuple(sorted(path for path in others if path.lower().endswith(endings)))

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
        near = {path: self._end(path, name) for path in self._ending_like(name)}
        for alike in (
            [path for path, end in near.items() if end == name],
            [path for path, end in near.items() if _folded(end) == _folded(name)],
            [path for path, end in near.items() if _stem(end) == _folded(name)],
        ):
            if alike:
                return alike
        return []

    def of_name(self, name: str) -> list[str]:
        """Paths of all files that end in a name, in whichever folder."""
        return [path for path in self.of_stem(name) if f"/{path}".endswith(f"/{plain(name)}")]

    def of_stem(self, name: str) -> list[str]:
        """Paths of all files whose base name is that of a name, whatever its folder and ending."""
        return self._ending_like(plain(name).rpartition("/")[2])

    def _ending_like(self, name: str) -> list[str]:
        """Paths that end in a name, whatever the case, the Unicode form and an image's ending of either."""
        num = name.count("/")
        if num not in self._by_end:  # one table for each depth: all files of a folder may be called image.png
            self._by_end[num] = defaultdict(list)
            for path in self.paths:
                self._by_end[num][_stem(self._end(path, name))].append(path)
        return self._by_end[num].get(_stem(name), [])

    def _end(self, path: str, name: str) -> str:
        """As many of a path's last parts as a name has; the data folder's own name is one of them."""
        return "/".join(f"{self.folder.name}/{path}".split("/")[-1 - name.count("/") :])

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Paths by the path in their folder of images."""
        by_name: dict[str, list[str]] = defaultdict(list)
        for path, name in self.paths.items():
            by_name[name].append(path)
        return dict(by_name)


def plain(name: str) -> str:
    """A name from a list with / between its parts, without a leading ./ ."""
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _is_image(path: str) -> bool:
    return path.lower().endswith(ENDINGS)


def _roots(folder: Path, place: str) -> list[Path]:
    """The folder or files that a place means: as it is written, else as a pattern."""
    if (folder / place).is_dir() or not set(place) & set("*?"):
        return [folder / place]
    return sorted(path for path in folder.glob(place) if not is_hidden(path.name))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _stem(path: str) -> str:
    """A path without the ending of an image, whatever its case and Unicode form."""
    path = _folded(path)
    ending = next((ending for ending in ENDINGS if path.endswith(ending)), "")
    return path.removesuffix(ending)
