"""Guess what says the class of an image: columns of a list, or file names; refuse what is no class."""

import re
from collections import Counter
from collections.abc import Collection, Sequence

import pandas as pd

from distracted.data.guess_subjects import is_subject_column

_NAMES = (
    *("label", "labels", "class", "classname", "class_name", "class_id", "classes", "category", "target"),
    *("diagnosis", "dx", "species", "breed", "variety", "disease", "type", "kind", "y"),
    *("category_id", "category_name", "label_id", "class_label", "level", "grade", "finding", "tags"),
)
#: A file's name without the numbers at its start and end: cat.12.jpg, Maine_Coon_103.jpg, 03-oak.png.
_IN_NAME = r"(?:^|/)[\W\d_]*([^\W\d_](?:[^/]*[^\W\d_])?)[\W\d_]*\.\w+$"


def label_columns(table: pd.DataFrame, img: str, header: Sequence[str]) -> list[str | list[str]]:
    """The columns that may hold the classes, the likeliest first; a list: one column for each class.

    Args:
        img: The column of images.
        header: The sample submission's columns after the images'. If they say it, nothing else is named.
    """
    others = [name for name in table.columns if name != img]
    if len(header) > 1 and set(header) <= set(others):
        return [list(header)]
    for name in others if len(header) > 1 else ():
        if len(values := set(table[name])) > 1 and values <= set(header):
            return [str(name)]
    if len(header) == 1 and header[0] in others:
        return [str(header[0])]
    named: list[str | list[str]] = [name for known in _NAMES for name in others if name.casefold() == known]
    if named:
        return [name for name in named if table[name].nunique() > 1] or named
    marks = [name for name in others if set(table[name]) <= {"0", "1", "0.0", "1.0"}]
    is_one_each = len(marks) > 1 and (table[marks].astype(float).sum(axis=1) == 1).all()
    return [marks] if is_one_each else []


def other_columns(table: pd.DataFrame, img: str) -> list[str]:
    """Columns that may hold classes although neither their names nor the sample submission say so."""
    most = min(1000, len(table) // 2)
    likely = [name for name in table.columns if 1 < table[name].nunique() <= most and name != img]
    return [
        name
        for name in likely
        if not (is_subject_column(name) or name.startswith("Unnamed:") or has_fractions(table[name]))
    ]


def pattern_in_names(names: Collection[str]) -> str | None:
    """A pattern for classes in file names such as cat.12.jpg, if each of two or more has several files."""
    matches = [re.search(_IN_NAME, name) for name in names]
    if not all(matches):
        return None
    counts = Counter(match[1] for match in matches if match)
    return _IN_NAME if len(counts) > 1 and min(counts.values()) > 1 else None


def has_fractions(values: "pd.Series[str]") -> bool:
    """Whether the values are numbers of which some are not whole, such as 0.5."""
    numbers = pd.to_numeric(values, errors="coerce")
    return bool(numbers.notna().all() and (numbers % 1 != 0).any())
