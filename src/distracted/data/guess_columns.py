"""Guess the columns of a folder's lists: images, classes and subjects."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from distracted.data.folder_contents import FolderContents
from distracted.data.guess_labels import has_fractions, label_columns, other_columns
from distracted.data.guess_lists import GuessedLists, listed
from distracted.data.guess_subjects import (
    FOLDER_PATTERN,
    may_be_folders,
    subject_column,
    subject_pattern,
)

NO_AMOUNTS = "amounts are to be estimated (regression), which is not supported: each image has one class"


class GuessedColumns(GuessedLists):
    """The columns of the lists, and what says whose picture an image is.

    Arguments and errors as those of `GuessedLists`.
    """

    def __init__(self, contents: FolderContents, answers: Mapping[str, Any]) -> None:
        super().__init__(contents, answers)
        self._columns = self._guess_columns()
        if more := self._find_subjects_elsewhere(self._columns):
            self._train_list = [*listed(self._train_list), more]
        imgs, self._labels = self._read_labels(self._columns)
        self._pattern = self._take(
            "subject_pattern", lambda: self._find_pattern(self._columns, imgs, self._labels)
        )

    def _guess_columns(self) -> dict[str, Any]:
        img = self._take("columns.img", self._find_img)
        label = self._take("columns.label", lambda: self._find_label(img))
        group = self._take("columns.group", lambda: self._find_group(img, label))
        first = img if self._sample is None else self._key()
        key = self._take("columns.id", lambda: None if first == img else first)
        return {"img": img, "label": label, "group": group, "id": key}

    def _find_img(self) -> str:
        if self._table is None:
            return "img" if self._sample is None else self._key()
        first, *others = self._contents.naming_columns(self._table, self._places) or [""]
        if not first:
            raise self._error(
                f"no column of the list names images in {', '.join(self._places)}: {_names(self._table)}; "
                'SET="data.columns.img=<column>", or data.train_images=<folder>'
            )
        files = self._contents.files(self._places)
        found = [files.find(name) for name in self._table[first]]
        for other in others:
            is_row_number = other.startswith("Unnamed:")
            if is_row_number or not self._table[other].is_unique:
                continue
            if [files.find(name) for name in self._table[other]] != found:
                self.assumed["columns.img"] = f"the column of the images; {other} holds names of images, too"
        return first

    def _find_label(self, img: str) -> str | list[str]:
        if self._table is None:
            return "classname"
        if found := label_columns(self._table, img, self._header()):
            likely = [name for name in found if isinstance(name, str)]
            if len(likely) > 1:
                self._ask_label(likely)
            return found[0]
        likely = other_columns(self._table, img)
        if len(likely) == 1:
            self._ask_label(likely)
            return str(likely[0])
        rest = self._table.drop(columns=img)
        if not likely and any(has_fractions(rest[name]) for name in rest.columns):
            raise self._error(f"the list has {_names(self._table)}: {NO_AMOUNTS}")
        raise self._error(
            f"which column of the list holds the classes? {', '.join(likely) or _names(self._table)}; "
            'SET="data.columns.label=<column>", or =[one, for, each, class]'
        )

    def _ask_label(self, likely: Sequence[str]) -> None:
        assert self._table is not None
        counts = ", ".join(_count_values(self._table[name]) for name in likely)
        self.assumed["columns.label"] = f"the column of the classes: {counts}"

    def _find_group(self, img: str, label: str | Sequence[str]) -> str | None:
        """The column whose name says that it holds subjects, the widest of several."""
        if self._table is None or self._answers.get("subject_pattern") is not None:
            return None
        others = [name for name in self._table.columns if name not in (img, *listed(label))]
        others = [name for name in others if not name.startswith("Unnamed:")]
        if others:
            self._ask_group(f"There are {', '.join(_count_values(self._table[name]) for name in others)}")
        return subject_column(self._table, (img, *listed(label)))

    def _ask_group(self, there: str) -> None:
        self.assumed["columns.group"] = (
            "the column that says whose picture it is (patient, person, recording), so that nobody is on "
            f"both sides of a split; null: none. {there}"
        )

    def _find_subjects_elsewhere(self, columns: dict[str, Any]) -> str | None:
        """Another list that says the subjects of all training images; sets columns.group if it is a guess."""
        table, img, group = self._table, columns["img"], columns["group"]
        if table is None or {"train_list", "subject_pattern"} & set(self._answers):
            return None
        is_asked = isinstance(self._answers.get("columns.group"), str)
        if (group in table.columns) if is_asked else ("columns.group" in self._answers or group is not None):
            return None
        for path, other in self._contents.tables.items():
            if path in (self._sample_path, self._train_list) or img not in other.columns:
                continue
            rows = other[other[img].isin(table[img])]
            column = group if is_asked else subject_column(rows, (img, *listed(columns["label"])))
            if column in rows.columns and rows[img].nunique() == table[img].nunique():
                columns["group"] = column
                if not is_asked:
                    self._ask_group(f"{path} says {column} ({rows[column].nunique()} values)")
                return path
        return None

    def _read_labels(self, columns: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """The names of the training images, and their labels (one for all if each class has a column)."""
        if self._table is None:
            imgs = list(self._contents.files(self._places).images)
            if self._label_pattern is None:
                return imgs, [img.partition("/")[0] for img in imgs]
            matches = [re.search(self._label_pattern, img) for img in imgs]
            return imgs, ["_".join(m.groups("") or (m[0],)) if m else "" for m in matches]
        label = columns["label"]
        for name in (columns["img"], *listed(label)):
            if name not in self._table.columns:
                key = "img" if name == columns["img"] else "label"
                raise self._error(f"data.columns.{key}={name}: the list has {_names(self._table)}")
        imgs = self._table[columns["img"]].tolist()
        return imgs, self._table[label].tolist() if isinstance(label, str) else ["one of them"] * len(imgs)

    def _find_pattern(
        self, columns: Mapping[str, Any], imgs: Sequence[str], labels: Sequence[str]
    ) -> str | None:
        """A pattern for subjects in file names, if some say them; one for folders is asked only."""
        if columns["group"] is not None:
            return None
        if (found := subject_pattern(imgs, labels)) is None:
            if may_be_folders(imgs, labels):
                self.assumed["subject_pattern"] = (
                    f"names have folders, such as {imgs[0]}; if each holds the images of one subject, "
                    f"{FOLDER_PATTERN} says so; null: none"
                )
            return None
        pattern, num = found
        rest = "" if num == len(imgs) else f" ({num} of {len(imgs)} names; other images are their own)"
        self.assumed["subject_pattern"] = (
            f"the pattern that finds the subject in names such as {imgs[0]}{rest}; null: none"
        )
        self.assumed.pop("columns.group", None)
        return pattern


def _names(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns))


def _count_values(values: "pd.Series[str]") -> str:
    empty = int((values == "").sum())
    return f"{values.name} ({values.nunique()} values{f', {empty} empty' * (empty > 0)})"
