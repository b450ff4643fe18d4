"""Checks of names: of images, classes and subjects in lists, and of files on disk."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from distracted.errors import DataError

_LONGEST_NAME = 255  # bytes; the limit of common file systems for one part of a path
_SHOWN = 12
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
#: Part of a name that needs no closer look: up to 62 characters, of which each takes up to four bytes.
_PLAIN_PART = r"\w(?:[\w. +-]{0,60}\w)?"
_PLAIN = re.compile(f"{_PLAIN_PART}(?:/{_PLAIN_PART})*")
#: Control characters, and what Python makes of bytes that are not UTF-8.
_UNWRITABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")


def check_names(values: "pd.Series[str]", path: Path, column: str) -> None:
    """Check that each value is a non-empty name, or a path that stays in its folder."""
    first = ~values.duplicated()
    for row, value in zip(np.flatnonzero(first) + 2, values[first].tolist(), strict=True):
        if _PLAIN.fullmatch(value):
            continue
        where = f"{path}, row {row}: column {column!r}"
        if value == "" or value != value.strip():
            raise DataError(f"{where} is empty or padded with spaces: {value!r}; mend the list")
        parts = PurePosixPath(value.replace("\\", "/")).parts
        if not parts or parts[0].startswith("/") or ".." in parts or _DRIVE.match(value):
            expected = "expected a plain name, or a path within it"
            raise DataError(f"{where}: {value!r} leads out of the folder; {expected}")
        if (size := max(len(part.encode()) for part in parts)) > _LONGEST_NAME:
            size_text = f"a name of {size} bytes, expected at most {_LONGEST_NAME}"
            raise DataError(f"{where}: {size_text}: {value[:40]!r}...")


def check_file_names(names: Iterable[str], folder: Path) -> None:
    """Check that the names of images on disk can be written to lists."""
    if odd := [name for name in names if _UNWRITABLE.search(name)]:
        count = "a file name" if len(odd) == 1 else f"{len(odd)} file names"
        raise DataError(
            f"{folder}: {count} with control characters or bytes that are not UTF-8, such as "
            f"{os.fsencode(odd[0])!r}; rename such files (`convmv` mends names in another encoding)"
        )


def in_utf8(name: str) -> str:
    """A file's name as it is written: bytes that are not UTF-8 as \\x and two digits."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def check_unique(imgs: "pd.Series[str]", path: Path) -> None:
    """Check that no image is listed twice."""
    if len(duplicates := imgs[imgs.duplicated()]):
        img = duplicates.iloc[0]
        rows = rows_of(imgs, img)
        raise DataError(f"{path}: image {img!r} is listed more than once {rows}; keep one of them")


def some_of(names: Iterable[str]) -> str:
    """Names for a message, the first twelve of many."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def rows_of(values: "pd.Series[str]", value: str) -> str:
    """The rows of a file that hold a value, such as "(rows 2, 9)"."""
    return f"(rows {', '.join(str(row + 2) for row in np.flatnonzero(values == value))})"
