"""Subjects that a person would call the same although their names are spelled in different ways."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

import pandas as pd

#: Characters that Unicode displays as nothing, besides its categories Cf (format) and Cc (control).
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe00-\ufe0f]")
_WHOLE = re.compile(r"(\d+)\.0+")  # what spreadsheets and pandas make of a whole number
_LEADING_ZEROS = re.compile(r"(?<!\d)(?<!\d\.)0+(?=\d)")
_SEPARATORS = re.compile("[\\s_\\-\u2010-\u2015\u2212]+")
#: Small Cyrillic and Greek letters that look like Latin ones, after case folding.
_LOOK_ALIKES = str.maketrans("авекмнорстухіјѕ" + "αεικνορτυχ", "abekmhopctyxijs" + "aeikvoptux")
_BEFORE_NUMBER = re.compile(r"(?<=[^\W\d_])_(?=\d)")
_APOSTROPHES = re.compile("[\u2018\u2019\u02bc`]")


@cache
def plain_spelling(name: str) -> str:
    """A name without case, Unicode forms, invisible characters, leading zeros and kinds of separators.

    "P 02", "p_2", "p-002" and "p2" are spelled alike, and so are "2", "02" and "2.0".
    """
    name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    name = _INVISIBLE.sub("", name)
    name = "".join(c for c in name if c.isspace() or unicodedata.category(c) not in ("Cf", "Cc"))
    name = "".join(str(unicodedata.digit(c, c)) for c in name)  # such as Arabic digits
    name = _APOSTROPHES.sub("'", name.translate(_LOOK_ALIKES))
    name = _SEPARATORS.sub("_", name.strip())
    name = _BEFORE_NUMBER.sub("", name)
    name = whole[1] if (whole := _WHOLE.fullmatch(name)) else name
    return _LEADING_ZEROS.sub("", name)


def spelled_alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in spelling, sorted; names without a second spelling are left out."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(plain_spelling(name), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def subjects_alike(table: pd.DataFrame) -> list[list[str]]:
    """Groups of names that stand for one subject, as `spelled_alike`.

    Args:
        table: Columns img and subject. Where each image is its own subject, there are no such groups.
    """
    if (table["subject"] == table["img"]).all():
        return []
    return spelled_alike(table["subject"].unique().tolist())


def one_spelling(table: pd.DataFrame) -> "pd.Series[str]":
    """Each image's subject under one name: of several spellings the first in alphabetical order.

    Args:
        table: As for `subjects_alike`.
    """
    first = {name: names[0] for names in subjects_alike(table) for name in names}
    return table["subject"].replace(first) if first else table["subject"]
