"""Check a split for leaks and poor balance before training."""

import logging
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from distracted.data.competition import Competition
from distracted.data.folds import SINGLE_SHARE, Folds
from distracted.data.subjects import spelled_alike
from distracted.errors import FoldsError

_log = logging.getLogger(__name__)

_SHOWN = 3
_TOLERANCE = 0.5  # a side whose size is off by more than this fraction is reported


@dataclass(frozen=True)
class SplitFinding:
    """A finding about a split: an `error` makes its scores dishonest, a `warning` is worth knowing."""

    level: Literal["error", "warning"]
    text: str


def audit_folds(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    """Look for leaks and poor balance.

    Errors: a subject in two folds, a class missing from a training side. Warnings: pictures that no list
    names, no subjects, subjects that differ only in spelling, a class missing from a validation side, a side
    far from its intended size, identical pictures in two folds or in train and test, images in the folder of
    another class than the list says, files left out.

    Args:
        table: Columns img, subject, label, fold, in the order of `competition.train`.
    """
    return [
        *_unlisted_pictures(competition),
        *_no_subjects(competition),
        *_subjects_in_two_folds(table),
        *_spelled_alike(competition, table),
        *_missing_classes(competition, table),
        *_uneven_sides(table),
        *_identical_pictures(competition, table),
        *_other_folders(competition),
        *_left_out(competition),
    ]


def check_split(competition: Competition, folds: Folds) -> None:
    """Audit the folds and log the warnings.

    Raises:
        FoldsError: the first finding that makes the scores dishonest.
    """
    findings = audit_folds(competition, folds.table)
    if errors := [finding.text for finding in findings if finding.level == "error"]:
        raise FoldsError(errors[0])
    for finding in findings:
        _log.warning("%s", finding.text)


def _no_subjects(competition: Competition) -> list[SplitFinding]:
    if competition.config.has_subjects:
        return []
    text = (
        "no subjects (data.columns.group: null): the split is by image; if images share a person or a clip, "
        "its scores are too good"
    )
    return [SplitFinding("warning", text)]


def _subjects_in_two_folds(table: pd.DataFrame) -> list[SplitFinding]:
    return [
        SplitFinding("error", f"subject {subject} is in folds {', '.join(map(str, sorted(folds)))}")
        for subject, folds in table.groupby("subject")["fold"].unique().items()
        if len(folds) > 1
    ]


def _unlisted_pictures(competition: Competition) -> list[SplitFinding]:
    config = competition.config
    lists = {
        "train": f"{config.train_list} names {len(competition.train):,}",
        "test": f"{config.sample_submission} names {len(competition.test):,}",
    }
    findings = []
    for part, names in competition.unlisted.items():
        if names:
            count = "1 picture" if len(names) == 1 else f"{len(names):,} pictures"
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            text = f"{count} on disk that no list names ({shown}); {lists[part]}: was it cut, or edited?"
            findings.append(SplitFinding("warning", text))
    return findings


def _spelled_alike(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    folds = table.groupby("subject")["fold"].first()
    together: list[str] = []
    apart: list[str] = []
    for names in spelled_alike(table):
        (apart if folds[names].nunique() > 1 else together).append(" = ".join(map(repr, names)))
    file, findings = competition.config.train_list, []
    for cases, what, way_out in (
        (together, "count as one and share a fold", f"if they are different people, rename them in {file}"),
        (
            apart,
            "are in different folds",
            f"if they are one person, all scores are too good: mend {file} and make the folds again",
        ),
    ):
        if cases:
            shown = "; ".join(cases[:_SHOWN]) + (f" and {len(cases) - _SHOWN} more" * (len(cases) > _SHOWN))
            text = f"subjects whose names differ only in spelling {what}: {shown}; {way_out}"
            findings.append(SplitFinding("warning", text))
    return findings


def _missing_classes(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    findings = []
    for fold in range(int(table["fold"].max()) + 1):
        valid = table["fold"] == fold
        for label, name in enumerate(competition.classes):
            text = f"fold {fold}: class {name} is missing from the"
            if not (table.loc[~valid, "label"] == label).any():
                findings.append(SplitFinding("error", f"{text} training side"))
            if not (table.loc[valid, "label"] == label).any():
                findings.append(SplitFinding("warning", f"{text} validation side"))
    return findings


def _uneven_sides(table: pd.DataFrame) -> list[SplitFinding]:
    sizes = table.loc[table["fold"] >= 0, "fold"].value_counts().sort_index()
    intended = sizes.sum() / len(sizes) if len(sizes) > 1 else len(table) * SINGLE_SHARE
    return [
        SplitFinding("warning", f"fold {fold}: {size} validation images instead of {intended:.0f}")
        for fold, size in sizes.items()
        if abs(size / intended - 1) > _TOLERANCE
    ]


def _identical_pictures(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    train, test = competition.train.assign(fold=table["fold"].to_numpy()), competition.test
    num_folds = train.groupby("content")["fold"].nunique()
    across = num_folds.index[num_folds > 1]
    cases_across = [_describe_copies(train[train["content"] == content]) for content in across[:_SHOWN]]
    first = (part.drop_duplicates("content").set_index("content")["img"] for part in (train, test))
    both = pd.concat(first, axis=1, join="inner").sort_index()
    shared = [" = ".join(imgs) for imgs in both.iloc[:_SHOWN].itertuples(index=False)]
    findings = []
    for where, num, cases in (
        ("across a split", len(across), cases_across),
        ("in train and test", len(both), shared),
    ):
        if cases:
            count = "1 picture" if num == 1 else f"{num} pictures"
            text = f"identical pictures {where}, {count}: {'; '.join(cases)}"
            findings.append(SplitFinding("warning", text))
    return findings


def _describe_copies(rows: pd.DataFrame) -> str:
    """Copies of one picture, of different folds first."""
    order = rows.groupby("fold").cumcount().argsort(kind="stable")
    shown = [
        f"{r.img} ({r.subject}, {r.classname}, fold {r.fold})" for r in rows.iloc[order[:_SHOWN]].itertuples()
    ]
    rest = len(rows) - len(shown)
    return " = ".join(shown) + (f" = {rest:,} more" if rest else "")


def _left_out(competition: Competition) -> list[SplitFinding]:
    """Files beside images that no list names, and that are no images by their ending."""
    if not (paths := competition.left_out):
        return []
    are = "1 file is no image" if len(paths) == 1 else f"{len(paths)} files are no images"
    text = f"{are} by the ending, and left out: {', '.join(paths[:_SHOWN])}"
    return [SplitFinding("warning", text)]


def _other_folders(competition: Competition) -> list[SplitFinding]:
    """Images whose label was mended in the list alone, or that were moved: the list counts."""
    train, classes = competition.train, set(competition.classes)
    folders = [path.rpartition("/")[0].rpartition("/")[2] for path in competition.train_files]
    listed = zip(train["img"].tolist(), train["classname"].tolist(), folders, strict=False)
    cases = [
        f"{img} (list: {classname}, folder: {folder})"
        for img, classname, folder in listed
        if folder != classname and folder in classes
    ]
    if not cases:
        return []
    lie = "1 image lies" if len(cases) == 1 else f"{len(cases)} images lie"
    text = (
        f"{lie} in the folder of another class than the list says, which counts: {'; '.join(cases[:_SHOWN])}"
    )
    return [SplitFinding("warning", text)]
