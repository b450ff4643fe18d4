"""The training images with their subjects and labels: from lists, folders of classes, or files' names."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from distracted.data.image_files import ImageFiles
from distracted.data.names import check_names, check_unique, some_of
from distracted.data.subjects import plain_spelling
from distracted.data.tables import read_table
from distracted.errors import DataError
from distracted.schema import DataConfig

_SEPARATORS = re.compile(r"[\s,;|\[\](){}'\"]+")


def read_training_list(config: DataConfig) -> pd.DataFrame:
    """Read the training list, and the lists that add columns to it.

    Returns:
        Columns img, label and, if the list names subjects, subject, as text, in the order of the file.

    Raises:
        DataError: a column is missing, a name is empty or leads out of the folder, or an image has no class
            or several.
    """
    path, columns = list_path(config), config.columns
    table, source = read_table(path), dict[str, Path]()
    for more in config.train_lists[1:]:
        before = set(table.columns)
        table = _with_columns_of(table, config.folder / more, key=columns.img)
        source |= {name: config.folder / more for name in table.columns if name not in before}
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
        check_names(table[name], source.get(name, path), name)
    label = table[labels[0]] if isinstance(columns.label, str) else _marked(table[labels], path)
    rows = pd.DataFrame({"img": table[columns.img], "label": label})
    if groups:
        rows["subject"] = table[groups[0]] if isinstance(columns.group, str) else _joined(table[groups])
    return rows


def read_class_folders(config: DataConfig, files: ImageFiles) -> pd.DataFrame:
    """The images in the folders of the classes, or those whose names say the class.

    Returns:
        Columns img, label and path (relative to the data folder), by name.

    Raises:
        DataError: there are no images, or some are in no folder; or data.label_pattern finds no class.
    """
    where = list_path(config)
    if not files.images:
        raise DataError(
            f"{where}: no images in it; expected a folder for each class (data.train_images), since there is "
            "no list (data.train_list: null)"
        )
    if config.label_pattern is not None:
        imgs = pd.Series(list(files.images), dtype=str)
        found = _find_in_names(imgs, config.label_pattern, "label_pattern", "class", config)
        return pd.DataFrame({"img": imgs, "label": found, "path": list(files.images.values())})
    if loose := [path for path in files.images.values() if "/" not in files.paths[path]]:
        raise DataError(
            f"{where}: {loose[0]} is in no class's folder; move it to one, or name the list that says its "
            "class (data.train_list), or say where in the names the class is (data.label_pattern)"
        )
    labels = [files.paths[path].partition("/")[0] for path in files.images.values()]
    return pd.DataFrame({"img": files.images.keys(), "label": labels, "path": files.images.values()})


def subjects_in_names(imgs: "pd.Series[str]", config: DataConfig) -> "pd.Series[str]":
    """The subject that data.subject_pattern finds in each name; without a pattern each image is its own."""
    if config.subject_pattern is None:
        return imgs
    return _find_in_names(imgs, config.subject_pattern, "subject_pattern", "subject", config)


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
        has = f"is not in data.classes, which has {some_of(classes)}"
        raise DataError(f"{place_of(unknown, config)}: class {unknown.iloc[0]!r} {has}")
    return labels.map(known)


def check_single_labels(labels: "pd.Series[str]", config: DataConfig) -> None:
    """Refuse labels that are several classes, such as "rust scab": an image has one class.

    Such a label consists of numbers, or is the union of other labels ("haze road" of "haze" and "road").
    """
    by_label = {label: [part for part in _SEPARATORS.split(label) if part] for label in dict.fromkeys(labels)}
    having = defaultdict[str, list[set[str]]](list)
    for parts in by_label.values():
        for part in set(parts):
            having[part].append(set(parts))
    for label, parts in by_label.items():
        whole = set(parts)
        if len(whole) < 2:
            continue
        rarest_first = sorted(whole, key=lambda part: len(having[part]))
        is_union = all(any(other < whole for other in having[part]) for part in rarest_first)
        if is_union or all(part.isdecimal() for part in parts):
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
    if config.train_lists:
        return config.folder / config.train_lists[0]
    places = config.train_images
    return config.folder / (places if isinstance(places, str) else places[0])


def place_of(rows: "pd.Series[str]", config: DataConfig) -> str:
    """The training list and its row that holds the first of some rows; the folder if there is no list."""
    row = f", row {rows.index[0] + 2}" if config.train_lists else ""
    return f"{list_path(config)}{row}"


def _with_columns_of(table: pd.DataFrame, path: Path, *, key: str) -> pd.DataFrame:
    """A list with the columns of another one that it lacks; images are matched by the column `key`."""
    other = read_table(path)
    if key not in other.columns or key not in table.columns:
        there = ", ".join((table if key in other.columns else other).columns)
        raise DataError(
            f"{path}: expected the images' column {key!r} in each of data.train_list, got {there}"
        )
    new = [name for name in other.columns if name not in table.columns]
    other = other[[key, *new]].drop_duplicates()
    check_unique(other[key], path)
    if len(missing := table[key][~table[key].isin(other[key])]):
        raise DataError(
            f"{path}: has no row for image {missing.iloc[0]!r} ({len(missing)} in all), which the first of "
            "data.train_list names"
        )
    return table.merge(other, on=key, how="left")


def _find_in_names(
    imgs: "pd.Series[str]", pattern: str, key: str, what: str, config: DataConfig
) -> "pd.Series[str]":
    """What a pattern's groups (the whole match without groups) hold in each name, joined by "_"."""
    compiled, values = re.compile(pattern), []
    for img in imgs:
        match = compiled.search(img)
        value = "_".join(part or "" for part in match.groups() or (match.group(),)) if match else ""
        if not value:
            raise DataError(
                f"{list_path(config)}: data.{key} {pattern!r} finds no {what} in {img!r}; expected one in "
                "each image's name"
            )
        values.append(value)
    return pd.Series(values, index=imgs.index, dtype=str)


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
