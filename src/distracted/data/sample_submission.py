"""The competition's sample submission: which images it asks for, and in which form it wants the answers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distracted.data.names import check_names, check_unique, some_of
from distracted.data.tables import read_table
from distracted.errors import DataError
from distracted.schema import DataConfig, SubmissionKind

_WANTED: Mapping[SubmissionKind, str] = {
    "probabilities": "one for each of two classes or more",
    "probability": "one for a probability",
    "label": "one for the class",
}


@dataclass(frozen=True)
class Sample:
    """A sample submission.

    Attributes:
        columns: Its header.
        asked: The columns besides that of the images.
        imgs: Its images in order.
        values: The values of its last column that is not the images'.
    """

    columns: tuple[str, ...]
    asked: tuple[str, ...]
    imgs: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class SubmissionFormat:
    """The form in which the competition wants its answers.

    Attributes:
        columns: The header; that of the images is `image_column` of the config.
        answers: For `label`, what is written for each class, in order; else empty.
        doubt: Why `answers` may not be what the competition expects; or "".
    """

    kind: SubmissionKind
    columns: tuple[str, ...]
    answers: tuple[str, ...] = ()
    doubt: str = ""


def image_column(config: DataConfig) -> str:
    """The column of images in the sample submission and in ours."""
    return config.columns.id or config.columns.img


def read_sample(config: DataConfig) -> Sample | None:
    """Read the sample submission, if the competition has one.

    Raises:
        DataError: it has other columns than data.submission says; or an image is missing or listed twice.
    """
    if config.sample_submission is None:
        return None
    path = config.folder / config.sample_submission
    table, key = read_table(path), image_column(config)
    kind, num = config.submission, len(table.columns)
    is_wide = kind == "probabilities"
    has_key = table.columns[0] == key if is_wide else key in table.columns
    if not has_key or (num < 3 if is_wide else num != 2):
        raise DataError(
            f"{path}: expected the columns {key!r} and {_WANTED[kind]}, got {some_of(table.columns)}; "
            f"use the competition's own file{_other_form(kind, list(table.columns), key)}"
        )
    check_names(table[key], path, key)
    check_unique(table[key], path)
    if not len(table):
        raise DataError(f"{path}: no test images listed")
    asked = tuple(name for name in table.columns if name != key)
    return Sample(tuple(table.columns), asked, tuple(table[key].tolist()), tuple(table[asked[-1]].tolist()))


def _other_form(kind: SubmissionKind, columns: Sequence[str], key: str) -> str:
    if columns[0] != key:
        return f", or set data.columns.id in configs/data/ if {columns[0]!r} is its column of images"
    if len(columns) == 2:
        return ", or set data.submission in configs/data/: label, or probability (of the last of two classes)"
    return ", or set data.submission: probabilities in configs/data/" if kind != "probabilities" else ""


def submission_format(config: DataConfig, sample: Sample | None, classes: Sequence[str]) -> SubmissionFormat:
    """The form of the answers.

    Args:
        classes: Names of the classes in order.

    Raises:
        DataError: one probability is asked for, and there are not two classes.
    """
    kind, key = config.submission, image_column(config)
    if kind == "probability" and len(classes) != 2:
        raise DataError(
            f"data.submission: probability is that of the last of two classes, and there are {len(classes)} "
            f"({some_of(classes)}); expected label or probabilities"
        )
    if kind == "probabilities":
        return SubmissionFormat(kind, sample.columns if sample else (key, *classes))
    columns = sample.columns if sample else (key, kind)
    if kind == "probability":
        return SubmissionFormat(kind, columns)
    labels = {name: label for label, name in (config.classes or {}).items()}
    by_label = tuple(labels.get(name, name) for name in classes)
    shown = set(sample.values) - {""} if sample else set()
    for answers in (by_label, tuple(classes), *_as_numbers(by_label)):
        if shown <= set(answers):
            return SubmissionFormat(kind, columns, answers)
    strange = min(shown - set(by_label))
    doubt = (
        f"{config.sample_submission} shows {strange!r}, which is no class: classes are written as the "
        f"training list has them, such as {by_label[0]!r} (data.classes maps labels to other names)"
    )
    return SubmissionFormat(kind, columns, by_label, doubt)


def _as_numbers(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Labels such as 1.0, 01 or True as 1, and as 1.0; none if two become one, or one is not whole."""
    words = {"true": "1", "false": "0"}
    numbers = [words.get(label.casefold(), label) for label in labels]
    if not all(re.fullmatch(r"-?\d+(\.0*)?", number) for number in numbers):
        return []
    whole = [int(number.partition(".")[0]) for number in numbers]
    if len(set(whole)) < len(whole):
        return []
    return [tuple(map(str, whole)), tuple(f"{number}.0" for number in whole)]


def default_format(config: DataConfig, classes: Sequence[str]) -> SubmissionFormat:
    """The form of competitions whose stored index says none: a probability for each class."""
    return SubmissionFormat("probabilities", (config.columns.img, *classes))


def sample_path(config: DataConfig) -> Path | None:
    """Path of the sample submission, if there is one."""
    return config.folder / config.sample_submission if config.sample_submission is not None else None
