"""Guess what says whose picture an image is: a column of a list, or a pattern in file names."""

import re
from collections.abc import Collection, Sequence

import pandas as pd

#: What subjects are called in lists and in file names, the widest first.
_WORDS = (
    *("patient", "subject", "person", "driver", "participant", "individual", "user", "owner", "animal"),
    *("location", "site", "station", "camera", "lesion", "case", "study", "session", "slide", "specimen"),
    *("plant", "tree", "video", "clip", "sequence", "seq", "scene", "experiment"),
)
_ID = "(id|no|nr|num|uid|code|name|key)?"
#: Parts of file names, in lower case, whose group is a subject: both eyes are one person's.
_PATTERNS = (*(rf"(?<![a-z]){word}[_-]?(\d+)" for word in _WORDS), r"([^/]+?)[ _-](?:left|right)(?![a-z])")
#: The folder of an image is its subject.
FOLDER_PATTERN = r"([^/]+)/[^/]+$"
_FEWEST = 0.2  # share of names with a subject


def subject_column(table: pd.DataFrame, but: Collection[str]) -> str | None:
    """The column whose name says that it holds subjects, the widest of several; each row must have one.

    Args:
        but: Columns that are something else.
    """
    found = [
        (rank, "id" not in _words(name), place, str(name))
        for place, name in enumerate(table.columns)
        if name not in but and (rank := _rank(name)) is not None and _may_be_subjects(table[name])
    ]
    return min(found)[-1] if found else None


def _may_be_subjects(values: "pd.Series[str]") -> bool:
    return 2 < values.nunique() < len(values) and not (values == "").any()


def is_subject_column(name: str) -> bool:
    """Whether a column's name says that it holds subjects, such as patient_id, PatientID or patientid."""
    return _rank(name) is not None


def _rank(column: str) -> int | None:
    words = _words(column)
    if "anatom" in words:  # the site on a body
        return None
    ranks = (
        rank for rank, word in enumerate(_WORDS) if any(re.fullmatch(word + _ID, part) for part in words)
    )
    return next(ranks, None)


def _words(column: str) -> list[str]:
    return re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).casefold())


def subject_pattern(names: Sequence[str], labels: Sequence[str]) -> tuple[str, int] | None:
    """A pattern for subjects in file names such as patient_12_3.jpg, and how many of the names hold one.

    Other images are subjects of their own. A pattern that leaves a class with one subject finds something
    else.
    """
    for part in _PATTERNS:
        matches = [re.search(part, name, re.IGNORECASE) for name in names]
        found = [match[1].casefold() for match in matches if match]
        if len(found) < _FEWEST * len(names) or not 2 < len(set(found)) < len(found):
            continue
        subjects = [
            match[1].casefold() if match else f"/{name}" for match, name in zip(matches, names, strict=True)
        ]
        if _fewest_of_a_class(subjects, labels) < 2:
            continue
        if len(found) == len(names):
            return f"(?i){part}", len(found)
        return f"(?i){part}|^(?!.*{part})(.+)$", len(found)
    return None


def may_be_folders(names: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether the images' folders may be subjects: there are several of each class."""
    folders = [match[1] if (match := re.search(FOLDER_PATTERN, name)) else "" for name in names]
    return 2 < len(set(folders)) < len(names) and _fewest_of_a_class(folders, labels) > 1


def _fewest_of_a_class(subjects: Sequence[str], labels: Sequence[str]) -> int:
    return int(pd.Series(subjects).groupby(list(labels)).nunique().min())
