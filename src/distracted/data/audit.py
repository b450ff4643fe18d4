"""Trouble in a split, found and said before training."""

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from distracted.data.competition import Competition
from distracted.data.folds import SINGLE_SHARE, Folds
from distracted.errors import FoldsError

_log = logging.getLogger(__name__)

_SHOWN = 3
_FAR = 0.5  # a side is far from its size when it differs by more than this share


@dataclass(frozen=True)
class SplitFinding:
    """One thing about a split: an `error` makes its score dishonest, a `warning` is worth knowing."""

    level: Literal["error", "warning"]
    text: str


def audit_folds(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    """Look for leaks and poor balance.

    Args:
        table: img, subject, label, fold, in the order of `competition.train`.

    Returns:
        A subject in two folds (error), a class missing from a side (error for the training side), a side far
        from its intended size, no subjects at all, identical pictures across a split or between train and
        test (warnings).
    """
    return [
        *_no_subjects(competition),
        *_straddling_subjects(table),
        *_missing_classes(competition, table),
        *_uneven_sides(table),
        *_identical_pictures(competition, table),
    ]


def check_split(competition: Competition, folds: Folds) -> None:
    """Audit the folds and log the warnings.

    Raises:
        FoldsError: a finding makes the scores dishonest.
    """
    findings = audit_folds(competition, folds.table)
    refuse_errors(findings)
    for finding in findings:
        _log.warning("%s", finding.text)


def refuse_errors(findings: list[SplitFinding]) -> None:
    """Raise FoldsError with the first error among the findings."""
    for finding in findings:
        if finding.level == "error":
            raise FoldsError(finding.text)


def _no_subjects(competition: Competition) -> list[SplitFinding]:
    if competition.config.columns.group is not None:
        return []
    text = (
        "no subjects (data.columns.group: null): each image is a group of its own, so the split is by image; "
        "where images have something in common, a person, a clip, its scores are too good"
    )
    return [SplitFinding("warning", text)]


def _straddling_subjects(table: pd.DataFrame) -> list[SplitFinding]:
    spread = table.groupby("subject")["fold"].unique()
    return [
        SplitFinding("error", f"subject {subject} is in folds {', '.join(map(str, sorted(folds)))}")
        for subject, folds in spread.items()
        if len(folds) > 1
    ]


def _missing_classes(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    findings = []
    for fold in range(int(table["fold"].max()) + 1):
        valid = table["fold"] == fold
        for label, name in enumerate(competition.classes):
            if not (table.loc[~valid, "label"] == label).any():
                findings.append(
                    SplitFinding("error", f"fold {fold}: class {name} is missing from the training side")
                )
            if not (table.loc[valid, "label"] == label).any():
                findings.append(
                    SplitFinding("warning", f"fold {fold}: class {name} is missing from the validation side")
                )
    return findings


def _uneven_sides(table: pd.DataFrame) -> list[SplitFinding]:
    sizes = table.loc[table["fold"] >= 0, "fold"].value_counts().sort_index()
    intended = sizes.sum() / len(sizes) if len(sizes) > 1 else len(table) * SINGLE_SHARE
    return [
        SplitFinding("warning", f"fold {fold}: {size} validation images where {intended:.0f} were intended")
        for fold, size in sizes.items()
        if abs(size / intended - 1) > _FAR
    ]


def _identical_pictures(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    train = competition.train.assign(fold=table["fold"].to_numpy())
    groups = train[train["content"].duplicated(keep=False)].groupby("content")
    across = [group for _, group in groups if group["fold"].nunique() > 1]
    findings = []
    if across:
        examples = "; ".join(
            " = ".join(f"{r.img} ({r.subject}, {r.classname}, fold {r.fold})" for r in group.itertuples())
            for group in across[:_SHOWN]
        )
        findings.append(
            SplitFinding("warning", f"identical pictures across a split, {_count(len(across))}: {examples}")
        )
    shared = np.intersect1d(competition.train["content"], competition.test["content"])
    if len(shared):
        examples = "; ".join(
            f"{train.loc[train['content'] == content, 'img'].iloc[0]} = "
            f"{competition.test.loc[competition.test['content'] == content, 'img'].iloc[0]}"
            for content in shared[:_SHOWN]
        )
        findings.append(
            SplitFinding(
                "warning", f"identical pictures in train and test, {_count(len(shared))}: {examples}"
            )
        )
    return findings


def _count(number: int) -> str:
    return "1 picture" if number == 1 else f"{number} pictures"
