"""Check a split for leaks and poor balance before training."""

import logging
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from distracted.data.competition import Competition
from distracted.data.folds import SINGLE_SHARE, Folds, pinned_subjects
from distracted.data.names import in_utf8
from distracted.data.subjects import one_spelling, spelled_alike, subjects_alike
from distracted.data.train_list import list_path
from distracted.data.walk import by_kind
from distracted.errors import FoldsError

_log = logging.getLogger(__name__)

Level = Literal["error", "warning"]
_SHOWN = 3
_TOLERANCE = 0.5  # a side whose size is off by more than this fraction is reported


@dataclass(frozen=True)
class SplitFinding:
    """A finding about a split: an `error` makes its scores dishonest, a `warning` is worth knowing."""

    level: Level
    text: str


def audit_folds(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    """Look for leaks and poor balance.

    Errors: a subject in two folds, a class missing from a training side. Warnings: pictures that no list
    names, no subjects, subjects or classes that differ only in spelling, an order of classes that nobody
    stated where the metric needs one, classes that are never scored, a class missing from a validation side,
    a side far from its intended size, identical pictures in two folds or in train and test, images in the
    folder of another class than the list says, files left out.

    Args:
        table: Columns img, subject, label, fold, in the order of `competition.train`.
    """
    return [
        *_unlisted_pictures(competition),
        *_no_subjects(competition),
        *_subjects_in_two_folds(table),
        *_subjects_alike(competition, table),
        *_classes_alike(competition),
        *_order_of_classes(competition),
        *_never_scored(competition, table),
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
    pairs = table[["subject", "fold"]].drop_duplicates().sort_values(["subject", "fold"])
    folds = pairs[pairs["subject"].duplicated(keep=False)].groupby("subject")["fold"]
    return [
        SplitFinding("error", f"subject {subject} is in folds {', '.join(map(str, ids))}")
        for subject, ids in folds
    ]


def _unlisted_pictures(competition: Competition) -> list[SplitFinding]:
    config = competition.config
    lists = {
        "train": f"{' and '.join(config.train_lists)} names {len(competition.train):,}",
        "test": f"{config.sample_submission} names {len(competition.test):,}",
    }
    findings = []
    for part, names in competition.unlisted.items():
        if names:
            count = "1 picture" if len(names) == 1 else f"{len(names):,} pictures"
            shown = ", ".join(map(in_utf8, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
            text = f"{count} on disk that no list names ({shown}); {lists[part]}: was it cut, or edited?"
            findings.append(SplitFinding("warning", text))
    return findings


def _subjects_alike(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    folds = table.groupby("subject")["fold"].first()
    together: list[str] = []
    apart: list[str] = []
    for names in subjects_alike(table):
        (apart if folds[names].nunique() > 1 else together).append(" = ".join(map(repr, names)))
    file, findings = " and ".join(competition.config.train_lists), []
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


def _classes_alike(competition: Competition) -> list[SplitFinding]:
    """Perhaps labels that were typed in two ways; but letters, say, may be classes in both cases."""
    if not (cases := spelled_alike(competition.classes)):
        return []
    shown = "; ".join(" = ".join(map(repr, names)) for names in cases[:_SHOWN])
    text = (
        f"classes whose names differ only in spelling: {shown}; if they are one class, give it one name in "
        f"{list_path(competition.config)}"
    )
    return [SplitFinding("warning", text)]


def _order_of_classes(competition: Competition) -> list[SplitFinding]:
    config, classes = competition.config, competition.classes
    is_by_number = pd.to_numeric(pd.Series(classes), errors="coerce").is_monotonic_increasing
    if config.metric != "quadratic_kappa" or config.classes is not None or is_by_number:
        return []
    text = (
        f"quadratic kappa counts the steps between classes in this order: {', '.join(classes)}; data.classes "
        "gives another"
    )
    return [SplitFinding("warning", text)]


def never_scored(competition: Competition, table: pd.DataFrame) -> str:
    """Which subjects and classes are never scored since a subject alone shows a class; "" if there are none.

    Args:
        table: As for `audit_folds`.
    """
    pinned = pinned_subjects(competition.train)
    if not pinned or table["fold"].max() == 0:  # a single split scores few subjects anyway
        return ""
    rows = int(one_spelling(table).isin(pinned).sum())
    cases = [f"{subject} alone shows {', '.join(classes)}" for subject, classes in pinned.items()]
    shown = "; ".join(cases[:_SHOWN]) + (f"; and {len(cases) - _SHOWN} more" * (len(cases) > _SHOWN))
    num = "1 subject is" if len(cases) == 1 else f"{len(cases)} subjects are"
    images = "1 image" if rows == 1 else f"{rows:,} images"
    return (
        f"{num} trained on in every fold and never scored ({shown}), {images}, {rows / len(table):.0%} of "
        "all: the scores say nothing about these classes; images of them by another subject would"
    )


def _never_scored(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    text = never_scored(competition, table)
    return [SplitFinding("warning", text)] if text else []


def _missing_classes(competition: Competition, table: pd.DataFrame) -> list[SplitFinding]:
    """Classes missing from a side, but from validation sides not those that are never scored at all."""
    findings = list[SplitFinding]()
    pinned = {} if table["fold"].max() == 0 else pinned_subjects(competition.train)
    unscored = {name for classes in pinned.values() for name in classes}
    for fold in range(int(table["fold"].max()) + 1):
        valid = table["fold"] == fold
        sides: tuple[tuple[pd.Series, Level, str], ...] = (
            (~valid, "error", "training"),
            (valid, "warning", "validation"),
        )
        for rows, level, side in sides:
            there = set(table.loc[rows, "label"])
            missing = [name for label, name in enumerate(competition.classes) if label not in there]
            if level == "warning":
                missing = [name for name in missing if name not in unscored]
            texts = [f"class {name} is" for name in missing]
            if len(missing) > _SHOWN:
                texts = [f"{len(missing)} classes ({', '.join(missing[:_SHOWN])}, ...) are"]
            findings += [
                SplitFinding(level, f"fold {fold}: {text} missing from the {side} side") for text in texts
            ]
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
    """What is in the folders of images and not used, where no list names the images."""
    return [SplitFinding("warning", f"left out: {kind}") for kind in by_kind(competition.left_out, _SHOWN)]


def _other_folders(competition: Competition) -> list[SplitFinding]:
    """Images whose label was mended in the list alone, or that were moved: the list counts."""
    train, labels = competition.train, competition.config.classes or {}
    own = {(name, name) for name in competition.classes} | {(name, label) for label, name in labels.items()}
    known = {folder for _, folder in own}
    folders = [path.rpartition("/")[0].rpartition("/")[2] for path in competition.train_files]
    listed = zip(train["img"].tolist(), train["classname"].tolist(), folders, strict=False)
    cases = [
        f"{img} (list: {classname}, folder: {folder})"
        for img, classname, folder in listed
        if folder in known and (classname, folder) not in own
    ]
    if not cases:
        return []
    lie = "1 image lies" if len(cases) == 1 else f"{len(cases)} images lie"
    text = (
        f"{lie} in the folder of another class than the list says, which counts: {'; '.join(cases[:_SHOWN])}"
    )
    return [SplitFinding("warning", text)]
