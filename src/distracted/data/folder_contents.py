"""What a folder of unknown layout holds: images, lists, and folders for training and for testing."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations
from pathlib import Path

import pandas as pd

from distracted.data.formats import ENDINGS
from distracted.data.image_files import ImageFiles
from distracted.data.tables import read_table
from distracted.errors import DataError

_MOST_TABLES = 50
_TRIED = 60  # values of a column that are looked up among the files
_LISTS = tuple(
    f"{ending}{packed}"
    for ending in (".csv", ".tsv", ".txt")
    for packed in ("", ".gz", ".bz2", ".xz", ".zip")
)
_OTHER_LISTS = (".xlsx", ".xls", ".ods", ".json", ".jsonl", ".parquet", ".feather", ".pkl", ".mat", ".xml")
_IMAGE_WORDS = re.compile("image|img|file|path|photo|picture|(?<![a-z])id|id$")
_PART = {
    "test": re.compile(r"(?<![a-z])test"),
    "train": re.compile(r"(?<![a-z])train"),
    "valid": re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])"),
}


@dataclass(frozen=True)
class FolderContents:
    """Everything in a folder that may be a competition's.

    Attributes:
        images: Paths of all images, relative to the folder.
        tables: All lists by their path relative to the folder.
        unread: Files that may be lists and cannot be read, with the reason.
    """

    folder: Path
    images: tuple[str, ...]
    tables: dict[str, pd.DataFrame]
    unread: dict[str, str] = field(default_factory=dict)
    _files: dict[tuple[str, ...], ImageFiles] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "FolderContents":
        """Look through a folder.

        Raises:
            DataError: it does not exist, or holds no images.
        """
        if not folder.is_dir():
            raise DataError(f"FOLDER={folder}: no such folder")
        files = ImageFiles(folder, ".")
        if not files.images:
            found = Counter(Path(path).suffix or "no ending" for path in files.paths).most_common(3)
            there = ", ".join(f"{number} {ending}" for ending, number in found) or "nothing"
            raise DataError(
                f"FOLDER={folder}: no images in it ({', '.join(ENDINGS)}), but {there}; unpack archives, or "
                "name the folder that holds the images"
            )
        paths = sorted(files.paths, key=lambda path: (path.count("/"), path))
        tables, unread = {}, {}
        for path in [path for path in paths if path.lower().endswith(_LISTS)][:_MOST_TABLES]:
            try:
                table = read_table(folder / path)
            except DataError as error:
                unread[path] = str(error).removeprefix(f"{folder / path}: ")
                continue
            if len(table) and len(table.columns) > 1:
                tables[path] = table
        others = [path for path in paths if path.lower().endswith(_OTHER_LISTS)][:_MOST_TABLES]
        unread |= dict.fromkeys(others, "save it as CSV if it is the list")
        return cls(folder, tuple(files.images.values()), tables, unread)

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """The folders of the images of each part: test, train, valid, and "" for those in none of these."""
        images: dict[str, list[str]] = {}
        for path in self.images:
            images.setdefault(_part_of(path), []).append(path)
        return {part: _folders_of(paths, alone=len(images) == 1) for part, paths in images.items()}

    def files(self, places: Sequence[str]) -> ImageFiles:
        """The files in some folders, found once."""
        if (key := tuple(places)) not in self._files:
            self._files[key] = ImageFiles(self.folder, key)
        return self._files[key]

    def class_folders(self, places: Sequence[str]) -> list[str]:
        """Names of the folders in each of some folders of images; none if images lie outside of them."""
        within = [path for place in places for path in self.files([place]).images]
        has_loose = any("/" not in path for path in within)
        return [] if has_loose else sorted({path.partition("/")[0] for path in within})

    def naming_columns(self, table: pd.DataFrame, places: Sequence[str]) -> list[str]:
        """The columns of a table whose values are names of images in some folders, the likeliest first.

        Numbers of anything may be names, too, such as a row's number or an age. The column with the most
        distinct values counts, then one with files' endings, then one that is called as images are.
        """
        files, naming = self.files(places), []
        for place, column in enumerate(table.columns):
            values = table[column].drop_duplicates()
            tried = [value for value in values.iloc[:: max(1, len(values) // _TRIED)] if value]
            if tried and sum(bool(files.find(value)) for value in tried) > 0.8 * len(tried):
                is_row_number = column.startswith("Unnamed:")  # pandas' name for the index that it wrote
                has_ending = tried[0].lower().endswith(ENDINGS)
                is_called_so = _IMAGE_WORDS.search(column.casefold()) is not None
                naming.append(
                    (is_row_number, -len(values), not has_ending, not is_called_so, place, str(column))
                )
        return [column for *_, column in sorted(naming)]

    def naming_column(self, table: pd.DataFrame, places: Sequence[str]) -> str:
        """The likeliest of `naming_columns`; "" if there is none."""
        return next(iter(self.naming_columns(table, places)), "")

    def class_names(self, labels: Sequence[str], but: Sequence[str]) -> dict[str, str]:
        """Names of numbered classes, in a table or JSON file of the folder; empty if there are none.

        Args:
            but: Tables that are something else.
        """
        for named in (*self._pairs_in_tables(but), *self._pairs_in_json()):
            names = [named.get(label, "") for label in labels]
            if all(name.strip("-+.0123456789") for name in names) and len(set(names)) == len(names):
                return dict(zip(labels, names, strict=True))
        return {}

    def _pairs_in_tables(self, but: Sequence[str]) -> Iterator[dict[str, str]]:
        for path, table in self.tables.items():
            for one, other in permutations(table.columns if path not in but else (), 2):
                if table[one].is_unique:
                    yield dict(zip(table[one], table[other], strict=True))

    def _pairs_in_json(self) -> Iterator[dict[str, str]]:
        for path in sorted(self.folder.glob("*.json")):
            with suppress(OSError, ValueError):
                content = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(content, dict):
                    pairs = {str(key): str(value) for key, value in content.items()}
                    yield from (pairs, {value: key for key, value in pairs.items()})


def _part_of(path: str) -> str:
    """The part that the first folder with a telling name says."""
    for name in path.casefold().split("/")[:-1]:
        for part, pattern in _PART.items():
            if pattern.search(name):
                return part
    return ""


def _folders_of(paths: Sequence[str], *, alone: bool) -> list[str]:
    """The smallest folder that holds some images; its folders, if it is the whole one and holds others."""
    folders = {path.rpartition("/")[0] for path in paths}
    common = os.path.commonpath(folders) or "."
    if common != "." or alone or "" in folders:
        return [common]
    return sorted({folder.partition("/")[0] for folder in folders})
