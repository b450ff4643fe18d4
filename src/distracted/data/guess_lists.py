"""Guess which of a folder's lists and folders are what: the sample submission, training and test images."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from distracted.data.folder_contents import FolderContents
from distracted.data.guess_labels import label_columns, pattern_in_names
from distracted.errors import DataError


class GuessedLists:
    """The lists and folders of images, guessed one after another.

    Attributes:
        assumed: For each key that the folder does not say, such as "columns.group", a question for it.

    Args:
        answers: Settings by dotted key, such as {"columns.label": "target"}: they are taken as they are.

    Raises:
        DataError: the folder does not say where the classes or the test images are; says what to answer.
    """

    def __init__(self, contents: FolderContents, answers: Mapping[str, Any]) -> None:
        self.assumed: dict[str, str] = {}
        self._contents, self._answers = contents, dict(answers)
        self._sample_path = self._take("sample_submission", self._find_sample)
        self._sample = self._read(self._sample_path)
        self._train_images = self._take("train_images", self._find_train_images)
        self._places = listed(self._train_images)
        self._label_pattern = answers.get("label_pattern")
        self._train_list = self._take("train_list", self._find_train_list)
        self._table = self._read_all(listed(self._train_list))
        if self._table is None and self._label_pattern is None and not self._class_folders():
            self._label_pattern = self._find_label_pattern()
        self._test_images = self._take("test_images", self._find_test_images)

    def _take(self, key: str, guess: Callable[[], Any]) -> Any:
        return self._answers[key] if key in self._answers else guess()

    def _read(self, path: str | None) -> pd.DataFrame | None:
        if path is None:
            return None
        if path not in self._contents.tables:
            known = ", ".join(self._contents.tables) or "none"
            why = self._contents.unread.get(path, f"not a list with rows and columns; there are: {known}")
            raise self._error(f"{path}: {why}")
        return self._contents.tables[path]

    def _read_all(self, paths: Iterable[str]) -> pd.DataFrame | None:
        """The first list, with the columns that others add."""
        first, *others = [self._read(path) for path in paths] or [None]
        for table in others:
            assert first is not None and table is not None
            key = next((name for name in first.columns if name in table.columns), None)
            new = [name for name in table.columns if name not in first.columns]
            if key is not None:
                first = first.merge(table.drop_duplicates(key)[[key, *new]], on=key, how="left").fillna("")
        return first

    def _error(self, text: str) -> DataError:
        return DataError(f"FOLDER={self._contents.folder}: {text}")

    def _lists(self) -> str:
        """The lists that were found, for messages, and those that were not read."""
        known = f"lists: {', '.join(self._contents.tables) or 'none'}"
        return "; ".join(
            [known, *(f"{path}: {why}" for path, why in list(self._contents.unread.items())[:3])]
        )

    def _find_sample(self) -> str | None:
        """The list that is called so; rather one that names images of the test set."""
        tests = self._contents.parts.get("test", ["."])
        ranked: list[tuple[bool, bool, int, int, str]] = []
        for path, table in self._contents.tables.items():
            name = path.rpartition("/")[2].casefold()
            says_sample, labels = "sample" in name, label_columns(table, str(table.columns[0]), [])
            has_labels = any(isinstance(label, list) or table[label].nunique() > 1 for label in labels)
            if re.search("submi|sample_?sub", name) or (says_sample and not has_labels):
                names_tests = bool(self._contents.naming_column(table, tests))
                ranked.append((says_sample, names_tests, -path.count("/"), -len(ranked), path))
        return max(ranked)[-1] if ranked else None

    def _find_train_images(self) -> str | list[str]:
        parts = self._contents.parts
        places = [place for part in ("train", "valid") for place in parts.get(part, [])] or parts.get("", [])
        if not places:
            raise self._error(
                f"all images are in {', '.join(parts['test'])}; which are for training? "
                'SET="data.train_images=<folder>"'
            )
        return _short(places)

    def _find_test_images(self) -> str | list[str]:
        """The folder of that name, or that whose images the sample submission names, or images in no list."""
        parts, table = self._contents.parts, self._table
        if "test" in parts:
            return _short(parts["test"])
        for places in (*(places for places in parts.values() if places != self._places), self._places):
            if self._sample is not None and self._contents.naming_column(self._sample, places):
                return _short(places)
        if table is not None and (img := self._contents.naming_column(table, self._places)):
            files = self._contents.files(self._places)
            used = {path for name in table[img] for path in files.find(name)}
            if left := set(files.images.values()) - used:
                self.assumed["test_images"] = (
                    f"no sample submission and no folder says which images to predict: the {len(left)} that "
                    "the list does not name"
                )
                return _short(self._places)
            if split := [
                name for name in table.columns if "test" in {text.casefold() for text in table[name]}
            ]:
                raise self._error(
                    f"no test images: the list's column {split[0]!r} says which are for testing. Leave those "
                    "rows out of a copy of the list; then images that it does not name are predicted"
                )
        raise self._error(
            "no test images: no folder is called test, and no sample submission names images; "
            'SET="data.test_images=<folder>" says which to predict'
        )

    def _class_folders(self) -> list[str]:
        """The folders of the classes, if each image is in one of several."""
        folders = self._contents.class_folders(self._places)
        return folders if len(folders) > 1 else []

    def _find_train_list(self) -> str | None:
        """The list that names training images and their classes; None if folders or names say the classes."""
        lists = []
        for path, table in self._contents.tables.items():
            name = path.casefold()
            if path == self._sample_path or "submission" in name:
                continue
            if img := self._contents.naming_column(table, self._places):
                says_classes = bool(label_columns(table, img, self._header()))
                rank = (says_classes, "test" not in name, "train" in name, "label" in name, len(table))
                lists.append((rank, -len(path), path))
        has_folders = bool(self._class_folders())
        if lists and (max(lists)[0][0] or not has_folders):
            *_, best = max(lists)
            if others := [path for rank, _, path in lists if rank[:2] == (True, True) and path != best]:
                self.assumed["train_list"] = f"the list of training images; {', '.join(others)} would do, too"
            return best
        if has_folders or self._answers.get("label_pattern") is not None or self._find_label_pattern():
            return None
        raise self._error(
            f"no list names the images in {', '.join(self._places)} and their classes, and there is no "
            'folder for each class; SET="data.train_list=<file> data.columns.img=<column> '
            f'data.columns.label=<column>", or data.label_pattern for classes in file names ({self._lists()})'
        )

    def _find_label_pattern(self) -> str | None:
        files = list(self._contents.files(self._places).images)
        if (pattern := pattern_in_names(files)) is not None:
            self.assumed["label_pattern"] = (
                f"the pattern that finds the class in names such as {files[0]}; no list and no folders say it"
            )
        return pattern

    def _header(self) -> list[str]:
        """The sample submission's columns besides that of the images."""
        return [] if self._sample is None else [name for name in self._sample.columns if name != self._key()]

    def _key(self) -> str:
        """The sample submission's column of images: the first, unless only another one names images."""
        assert self._sample is not None
        for places in (*self._contents.parts.values(), ["."]):
            if naming := self._contents.naming_columns(self._sample, places):
                first = str(self._sample.columns[0])
                return first if first in naming else naming[0]
        return str(self._sample.columns[0])


def listed(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _short(values: Sequence[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)
