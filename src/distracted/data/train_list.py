"""The training images with their subjects and labels: from a list, or from a folder for each class."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from distracted.data.image_files import ImageFiles
from distracted.data.names import check_names
from distracted.data.subjects import plain_spelling
from distracted.data.tables import read_table
from distracted.errors import DataError
from distracted.schema import DataConfig

_SEPARATORS = re.compile(r"[\s,;|]+")


def read_training_list(config: DataConfig) -> pd.DataFrame:
    """Read the training list.

    Returns:
        Columns img, label and, if the list names subjects, subject, as text, in the order of the file.

    Raises:
        DataError: a column is missing, a name is empty or leads out of the folder, or an image has no class
            or several.
    """
    path, columns = list_path(config), config.columns
    table = read_table(path)
    labels = [columns.label] if isinstance(columns.label, str) else list(columns.label)
    groups = [columns.group] if isinstance(columns.group, str) else list(columns.group or ())
    wanted = [columns.img, *labels, *groups]
    if missing := [name for name in wanted if name not in table.columns]:
        raise DataError(
            f"{path}: expected the column {missing[0]!r}, got {', '.join(table.columns)}; "
            "rename it in the file, or set its name in configs/data/ (data.columns; group: null if there are "
            "no subjects)"
        )
    if not len(table):
        raise DataError(f"{path}: no training images listed")
    for name in wanted:
        check_names(table[name], path, name)
    label = table[labels[0]] if isinstance(columns.label, str) else _marked(table[labels], path)
    rows = pd.DataFrame({"img": table[columns.img], "label": label})
    if groups:
        rows["subject"] = table[groups[0]] if isinstance(columns.group, str) else _joined(table[groups])
    return rows


def read_class_folders(config: DataConfig, files: ImageFiles) -> pd.DataFrame:
    """The images in the folders of the classes.

    Returns:
        Columns img, label and path (relative to the data folder), by name.

    Raises:
        DataError: there are no images, or some are in no folder.
    """
    where = list_path(config)
    if not files.images:
        raise DataError(
            f"{where}: no images in it; expected a folder for each class (data.train_images), since there is "
            "no list (data.train_list: null)"
        )
    if loose := [path for path in files.images.values() if "/" not in files.paths[path]]:
        raise DataError(
            f"{where}: {loose[0]} is in no class's folder; move it to one, or name the list that says its "
            "class (data.train_list)"
        )
    labels = [files.paths[path].partition("/")[0] for path in files.images.values()]
    return pd.DataFrame({"img": files.images.keys(), "label": labels, "path": files.images.values()})


def subjects_in_names(imgs: "pd.Series[str]", config: DataConfig) -> "pd.Series[str]":
    """The subject that data.subject_pattern finds in each name; without a pattern each image is its own."""
    if config.subject_pattern is None:
        return imgs
    pattern, subjects = re.compile(config.subject_pattern), []
    for img in imgs:
        match = pattern.search(img)
        subject = "_".join(part or "" for part in match.groups() or (match.group(),)) if match else ""
        if not subject:
            raise DataError(
                f"{list_path(config)}: data.subject_pattern {config.subject_pattern!r} finds no subject in "
                f"{img!r}; expected one in each image's name"
            )
        subjects.append(subject)
    return pd.Series(subjects, index=imgs.index, dtype=str)


def name_classes(labels: "pd.Series[str]", config: DataConfig) -> "pd.Series[str]":
    """The name of each label's class.

    Raises:
        DataError: a label that data.classes does not name.
    """
    classes = config.classes
    if classes is None:
        return labels
    known = {**{name: name for name in classes.values()}, **classes}
    if len(unknown := labels[~labels.isin(list(known))]):
        has = f"is not in data.classes, which has {', '.join(classes)}"
        raise DataError(f"{place_of(unknown, config)}: class {unknown.iloc[0]!r} {has}")
    return labels.map(known)


def check_single_labels(labels: "pd.Series[str]", config: DataConfig) -> None:
    """Refuse labels that are several of the others, such as "rust scab": an image has one class."""
    singles = set(labels)
    for label in dict.fromkeys(labels):
        parts = [part for part in _SEPARATORS.split(label) if part]
        if len(parts) > 1 and singles.issuperset(parts):
            raise DataError(
                f"{place_of(labels[labels == label], config)}: label {label!r} is {len(parts)} classes at a "
                "time, and here each image has one. If it is a class of its own, list all classes in "
                "configs/data/ (data.classes)"
            )


def sort_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Distinct class names in order: by number if all are numbers, else by text."""
    by_number = all(name.isdecimal() for name in names)
    return tuple(sorted(set(names), key=lambda name: (int(name), name) if by_number else (0, name)))


def list_path(config: DataConfig) -> Path:
    """The training list, or the folder of the training images if there is no list."""
    if config.train_list is not None:
        return config.folder / config.train_list
    places = config.train_images
    return config.folder / (places if isinstance(places, str) else places[0])


def place_of(rows: "pd.Series[str]", config: DataConfig) -> str:
    """The training list and its row that holds the first of some rows; the folder if there is no list."""
    row = f", row {rows.index[0] + 2}" if config.train_list is not None else ""
    return f"{list_path(config)}{row}"


def _marked(marks: pd.DataFrame, path: Path) -> "pd.Series[str]":
    """The name of the one column that holds a 1 in each row."""
    numbers = marks.apply(pd.to_numeric, errors="coerce")
    strange, sums = ~numbers.isin([0, 1]), numbers.sum(axis=1)
    if strange.any(axis=None):
        row = int(strange.any(axis=1).to_numpy().argmax())
        column = marks.columns[int(strange.iloc[row].to_numpy().argmax())]
        raise DataError(
            f"{path}, row {row + 2}: column {column!r} holds {marks[column].iloc[row]!r}; expected 1 in one "
            "of the classes' columns and 0 in the others"
        )
    if (sums != 1).any():
        row = int((sums != 1).to_numpy().argmax())
        named = " and ".join(numbers.columns[numbers.iloc[row] == 1]) or "no class"
        raise DataError(
            f"{path}, row {row + 2}: its 1s name {named}; expected exactly one class, since here each image "
            "has one; leave such rows out, or make one column of labels"
        )
    names: pd.Series[str] = numbers.idxmax(axis=1).astype(str)
    return names


def _joined(groups: pd.DataFrame) -> "pd.Series[str]":
    """Subjects of rows that share a value in any column, directly or through others, in whatever spelling."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    codes, size = [], len(groups)
    for name in groups.columns:
        ids, values = pd.factorize(groups[name].map(plain_spelling))
        codes.append(ids + size)
        size += len(values)
    rows = np.tile(np.arange(len(groups)), len(codes))
    links = coo_array((np.ones(len(rows)), (rows, np.concatenate(codes))), shape=(size, size))
    _, parts = connected_components(links, directed=False)
    smallest: pd.Series[str] = groups.iloc[:, 0].groupby(parts[: len(groups)]).transform("min")
    return smallest
