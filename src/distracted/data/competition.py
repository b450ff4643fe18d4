"""Read and check a competition's folder: its images, subjects, labels and classes."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

import pandas as pd

from distracted.data.contents import digest_images
from distracted.data.tables import read_table
from distracted.errors import DataError
from distracted.progress import Progress, silent
from distracted.schema import DataConfig

_SHOWN = 5
_LONGEST_NAME = 255  # bytes; the limit of common file systems
#: Names that need no closer look: up to 62 characters, of which each takes up to four bytes.
_PLAIN_NAME = re.compile(r"\w(?:[\w. +-]{0,60}\w)?")


@dataclass(frozen=True, eq=False)
class Competition:
    """The checked index of a competition.

    Attributes:
        train: One row per image, sorted by `img`: img, subject, classname, label (position in `classes`),
            content (digest of the file).
        test: One row per image in the sample submission's order: img, content.
        classes: Class names in the sample submission's order.
        index_hash: Hex SHA-256 of names, subjects, classes and contents; identifies the data set.
        has_images: Whether the images are on this machine; else the index comes from the store.
    """

    config: DataConfig
    train: pd.DataFrame
    test: pd.DataFrame
    classes: tuple[str, ...]
    index_hash: str
    has_images: bool = True

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def num_subjects(self) -> int:
        return int(self.train["subject"].nunique())

    def train_paths(self) -> list[Path]:
        folder = self.config.folder / self.config.train_images
        return [folder / c / i for c, i in zip(self.train["classname"], self.train["img"], strict=True)]

    def test_paths(self) -> list[Path]:
        folder = self.config.folder / self.config.test_images
        return [folder / img for img in self.test["img"]]


def load_competition(
    config: DataConfig, *, cache: Path | None = None, progress: Progress = silent
) -> Competition:
    """Read a competition's folder and check it.

    Args:
        config: The folder and the names of its files and columns.
        cache: Folder for the digests of images; may be missing.

    Raises:
        DataError: the message names the wrong file, row or image and the remedy.
    """
    folder = config.folder
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {_remedy(config)}")
    sample = folder / config.sample_submission
    test_imgs, classes = read_sample_submission(sample, img_column=config.columns.img)
    train = _read_train_list(config, classes)
    test = pd.DataFrame({"img": test_imgs})
    train_folder, test_folder = folder / config.train_images, folder / config.test_images
    by_class = zip(train["classname"].tolist(), train["img"].tolist(), strict=True)
    paths = [f"{train_folder}/{classname}/{img}" for classname, img in by_class]
    paths += [f"{test_folder}/{img}" for img in test_imgs]
    _check_files(paths, folder)
    cache_file = cache / "contents.parquet" if cache else None
    digests = digest_images(paths, root=folder, cache=cache_file, progress=progress)
    train = train.assign(content=digests[: len(train)])
    test = test.assign(content=digests[len(train) :])
    return Competition(config, train, test, classes, hash_index(train, test, classes))


def read_sample_submission(path: Path, *, img_column: str) -> tuple[list[str], tuple[str, ...]]:
    """Read the test images and the classes, in the file's order."""
    table = read_table(path)
    if table.columns[0] != img_column or len(table.columns) < 3:
        raise DataError(
            f"{path}: expected the columns {img_column!r} and one for each of two classes or more, got "
            f"{', '.join(table.columns)}; use the competition's own file"
        )
    imgs = table[img_column]
    _check_names(imgs, path, img_column)
    _check_unique(imgs, path)
    if not len(table):
        raise DataError(f"{path}: no test images listed")
    return imgs.tolist(), tuple(table.columns[1:])


def read_train_imgs(config: DataConfig) -> set[str]:
    """The names in the training list; images and other columns are not checked."""
    path = config.folder / config.train_list
    table = read_table(path)
    if config.columns.img not in table.columns:
        raise DataError(f"{path}: expected the column {config.columns.img!r}, got {', '.join(table.columns)}")
    return set(table[config.columns.img])


def _read_train_list(config: DataConfig, classes: Sequence[str]) -> pd.DataFrame:
    path = config.folder / config.train_list
    table = read_table(path)
    columns = config.columns
    wanted = [name for name in (columns.img, columns.label, columns.group) if name is not None]
    if missing := [name for name in wanted if name not in table.columns]:
        raise DataError(
            f"{path}: expected the column {missing[0]!r}, got {', '.join(table.columns)}; "
            "rename it in the file, or set its name in configs/data/ (data.columns; group: null if there are "
            "no subjects)"
        )
    if not len(table):
        raise DataError(f"{path}: no training images listed")
    imgs, labels = table[columns.img], table[columns.label]
    subjects = table[columns.group] if columns.group is not None else imgs
    for name in wanted:
        _check_names(table[name], path, name)
    _check_unique(imgs, path)
    if len(unknown := labels[~labels.isin(list(classes))]):
        raise DataError(
            f"{path}, row {unknown.index[0] + 2}: class {unknown.iloc[0]!r} is not in "
            f"{config.sample_submission}, which has {', '.join(classes)}"
        )
    present = set(labels.tolist())
    if empty := [name for name in classes if name not in present]:
        asked = f"which {config.sample_submission} asks for"
        raise DataError(f"{path}: no training image of class {empty[0]!r}, {asked}")
    ids = {name: label for label, name in enumerate(classes)}
    train = pd.DataFrame({"img": imgs, "subject": subjects, "classname": labels, "label": labels.map(ids)})
    return train.sort_values("img", ignore_index=True)


def _check_names(values: "pd.Series[str]", path: Path, column: str) -> None:
    """Check that each value is a plain, non-empty file name, since names become parts of paths."""
    for row, value in enumerate(values.tolist(), start=2):
        if _PLAIN_NAME.fullmatch(value):
            continue
        where = f"{path}, row {row}: column {column!r}"
        if value == "" or value != value.strip():
            raise DataError(f"{where} is empty or padded with spaces: {value!r}")
        if "\\" in value or value in (".", "..") or PurePosixPath(value).name != value:
            raise DataError(f"{where}: {value!r} leads out of the folder; expected a plain name")
        if (size := len(value.encode())) > _LONGEST_NAME:
            size_text = f"a name of {size} bytes, expected at most {_LONGEST_NAME}"
            raise DataError(f"{where}: {size_text}: {value[:40]!r}...")


def _check_unique(imgs: "pd.Series[str]", path: Path) -> None:
    if len(duplicates := imgs[imgs.duplicated()]):
        first = duplicates.iloc[0]
        rows = ", ".join(str(index + 2) for index in imgs.index[imgs == first])
        raise DataError(f"{path}: image {first!r} is listed more than once (rows {rows}); keep one of them")


def _check_files(paths: Sequence[str], folder: Path) -> None:
    missing = [path for path in paths if not os.path.isfile(path)]  # noqa: PTH113  # ten times as fast
    if missing:
        names = ", ".join(path.removeprefix(f"{folder}/") for path in missing[:_SHOWN])
        rest = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(f"{folder}: listed but not on disk: {names}{rest}; fetch the data again")


def hash_index(train: pd.DataFrame, test: pd.DataFrame, classes: Sequence[str]) -> str:
    """Hex SHA-256 of names, subjects, classes and contents, in the competition's order."""
    digest = sha256("\t".join(classes).encode())
    for table in (train[["img", "subject", "classname", "content"]], test[["img", "content"]]):
        rows = zip(*(table[column].tolist() for column in table), strict=True)
        digest.update("".join("\n" + "\t".join(row) for row in rows).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _remedy(config: DataConfig) -> str:
    if config.name.startswith("sample"):
        return "`make sample` renders it"
    if config.kaggle:
        return "`make data` downloads it, DATA=sample uses the embedded sample (`make sample`)"
    return "DATA= takes a folder in the competition's layout, or a name in configs/data/ or oof/"
