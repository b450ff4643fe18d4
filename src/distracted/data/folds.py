"""Folds by subject: made once, shared by all runs, checked against the data whenever they are read."""

import io
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.data.competition import Competition
from distracted.data.split import split_by_subject, subjects_alone
from distracted.data.subjects import one_spelling
from distracted.data.train_list import list_path
from distracted.errors import FoldsError
from distracted.files import create_text, sha256_bytes
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

COLUMNS = ("img", "subject", "label", "fold")
MIN_SUBJECTS = 3
#: Fraction of the subjects that a single split holds out.
SINGLE_SHARE = 0.1
_SHOWN = 3  # of a long list, in a message


@dataclass(frozen=True, eq=False)
class Folds:
    """The fold in which each training image is held out.

    Attributes:
        table: Columns img, subject, label, fold, in the order of `Competition.train`; rows of fold -1 are
            trained on in every fold.
        hash: Hex SHA-256 of folds.csv.
    """

    table: pd.DataFrame
    hash: str

    @property
    def num_folds(self) -> int:
        return int(self.table["fold"].max()) + 1

    @property
    def ids(self) -> NDArray[np.int64]:
        """Fold of each image, shape (num_images,)."""
        return self.table["fold"].to_numpy(np.int64)

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.table["label"].to_numpy(np.int64)

    @cached_property
    def subject_names(self) -> "pd.Series[str]":
        """Subject of each image; of several spellings of one name the first."""
        return one_spelling(self.table)

    @property
    def subjects(self) -> NDArray[np.int64]:
        """Subject of each image as an id 0..S-1, shape (num_images,); spellings of one name share an id."""
        return pd.factorize(self.subject_names, sort=True)[0].astype(np.int64)

    @property
    def scored(self) -> NDArray[np.int64]:
        """Rows held out in some fold; a run has OOF predictions for these."""
        return np.flatnonzero(self.ids >= 0)

    def valid(self, fold: int) -> NDArray[np.int64]:
        """Rows held out in `fold`."""
        return np.flatnonzero(self.ids == fold)

    def train(self, fold: int) -> NDArray[np.int64]:
        """Rows trained on in `fold`."""
        return np.flatnonzero(self.ids != fold)

    def check_fold(self, fold: int) -> int:
        """Return `fold`, or raise FoldsError if it does not exist."""
        if not 0 <= fold < self.num_folds:
            raise FoldsError(f"FOLD={fold}: there are {self.num_folds} folds, 0 to {self.num_folds - 1}")
        return fold


def feasible_folds(competition: Competition, num_folds: int) -> int:
    """Limit a number of folds to the number of subjects that can be held out.

    A subject that alone shows a class cannot be: it is always trained on.

    Raises:
        FoldsError: no honest folds exist: fewer than three subjects, or fewer than two that can be held out.
    """
    train, path = competition.train, list_path(competition.config)
    if competition.num_subjects < MIN_SUBJECTS:
        names = ", ".join(sorted(set(train["subject"])))
        raise FoldsError(
            f"{path}: expected at least {MIN_SUBJECTS} subjects for folds by subject, got "
            f"{competition.num_subjects} ({names}); add subjects (data.columns.group: null in configs/data/ "
            "makes folds by image, whose score says nothing about new subjects)"
        )
    pinned = pinned_subjects(train)
    num_left = competition.num_subjects - len(pinned)
    if num_left < 2:
        shown = [f"{', '.join(classes[:_SHOWN])}: {subject}" for subject, classes in pinned.items()]
        cases = "; ".join(shown[:_SHOWN]) + ("; ..." if len(shown) > _SHOWN else "")
        raise FoldsError(
            f"{path}: a subject that alone shows a class is always trained on ({cases}), which leaves "
            f"{num_left} of {competition.num_subjects} subjects to hold out, expected at least 2; add images "
            "of these classes by other subjects, or leave the classes out"
        )
    return min(num_folds, num_left)


def pinned_subjects(train: pd.DataFrame) -> dict[str, list[str]]:
    """The subjects that alone show a class, with those classes; all in alphabetical order.

    Args:
        train: Columns img, subject and classname, as `Competition.train`.
    """
    pairs = pd.DataFrame({"subject": one_spelling(train), "classname": train["classname"]}).drop_duplicates()
    single = pairs[~pairs["classname"].duplicated(keep=False)].sort_values(["subject", "classname"])
    return {str(name): classes.tolist() for name, classes in single.groupby("subject")["classname"]}


def _feasible_before(competition: Competition, num_folds: int) -> int:
    """The limit of versions up to 0.2.0, whose folds stay valid: the rarest class had to be in every fold."""
    train = competition.train
    per_class = one_spelling(train).groupby(train["classname"]).nunique()
    return min(num_folds, competition.num_subjects, int(per_class.min()))


def make_folds(competition: Competition, num_folds: int, *, progress: Progress = silent) -> pd.DataFrame:
    """Split by subject, balanced in size and classes; by image if there are no subjects.

    Args:
        num_folds: 1 makes a single split: fold 0 is a tenth of the subjects (more if there are few), and the
            other rows have fold -1, always trained on.

    Returns:
        Columns img, subject, label, fold (0-based), in the order of `Competition.train`. Subjects that alone
        show a class have fold -1.

    Raises:
        FoldsError: no valid split was found.
    """
    train = competition.train
    num_parts = num_folds if num_folds > 1 else feasible_folds(competition, round(1 / SINGLE_SHARE))
    labels, subjects = train["label"].to_numpy(), pd.factorize(one_spelling(train), sort=True)[0]
    ids = split_by_subject(labels, subjects, num_parts, progress=progress)
    if ids is None:
        higher = range(num_parts + 1, competition.num_subjects + 1)
        more = next((num for num in higher if split_by_subject(labels, subjects, num) is not None), None)
        remedy = "fewer" if more is None else f"more: SET='training.num_folds={more}'"
        raise FoldsError(
            f"no split of {competition.num_subjects} subjects into {num_parts} parts was found that keeps "
            f"every class on every training side; ask for {remedy}"
        )
    fold = ids if num_folds > 1 else np.where(ids == 0, 0, -1)
    return train[["img", "subject", "label"]].assign(fold=fold)


def split_holdout(
    folds: Folds, fold: int, *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a fold's training side into rows to train on and an inner holdout for early stopping.

    The holdout is one of the better balanced parts of a split of the training side. Seeds 0, 1, ... take one
    after another.

    Args:
        share: Fraction of the training side's subjects to hold back; 0 holds nothing back.

    Returns:
        Rows to train on and rows held back; no subject is in both, and every class is in the first.

    Raises:
        FoldsError: the training side has too few subjects.
    """
    rows = folds.train(fold)
    if share == 0:
        return rows, np.empty(0, dtype=np.int64)
    labels, subjects = folds.labels[rows], folds.subjects[rows]
    num_subjects = len(np.unique(subjects))
    num_left = num_subjects - len(subjects_alone(labels, subjects))
    for num_parts in range(min(max(2, round(1 / share)), num_left), num_left + 1):
        num_choices = max(2, (num_parts + 1) // 2)
        ids = split_by_subject(labels, subjects, num_parts, seed=seed // num_choices)
        if ids is not None:
            is_back = ids == seed % num_choices
            held_back = len(np.unique(subjects[is_back]))
            text = "inner holdout: %d of %d training subjects held back, %d of %d images"
            _log.info(text, held_back, num_subjects, is_back.sum(), len(rows))
            return rows[~is_back], rows[is_back]
    raise FoldsError(
        f"training.holdout={share:g}: fold {fold} trains on {num_subjects} subjects, of which {num_left} can "
        "be held back without losing a class, expected at least 2; set it to 0, or add subjects"
    )


def ensure_folds(
    path: Path, competition: Competition, num_folds: int, *, progress: Progress = silent
) -> Folds:
    """Read folds.csv, or make it if it does not exist; log if there are fewer folds than asked for.

    Raises:
        FoldsError: the file has another number of folds than `num_folds`, or does not match the data.
    """
    if not path.exists():
        table = make_folds(competition, feasible_folds(competition, num_folds), progress=progress)
        text = table.to_csv(index=False, lineterminator="\n")
        create_text(path, text)  # no effect if another process was first; its folds are read below
    folds = read_folds(path, competition)
    num_subjects = competition.num_subjects
    if folds.num_folds == 1:
        held_out = len(np.unique(folds.subjects[folds.valid(0)]))
        text = "a single split: %d of %d subjects are held out and scored, the others are always trained on"
        _log.info(text, held_out, num_subjects)
    elif folds.num_folds != num_folds:
        if folds.num_folds == feasible_folds(competition, num_folds):
            reason = f"{folds.num_folds} of {num_subjects} subjects can be held out"
        elif folds.num_folds == _feasible_before(competition, num_folds):
            reason = f"an earlier version made {path}; remove {path.parent} to split again"
        else:
            raise FoldsError(
                f"{path} has {folds.num_folds} folds, this run asks for {num_folds}, but every run shares "
                f"one split: use SET='training.num_folds={folds.num_folds}', or remove {path.parent} to "
                "split again"
            )
        _log.info("%d folds instead of %d: %s", folds.num_folds, num_folds, reason)
    return folds


def read_folds(path: Path, competition: Competition) -> Folds:
    """Read folds.csv and check it against the data.

    Raises:
        FoldsError: the file is missing or damaged, does not match the images, subjects and labels, or puts a
            subject in two folds.
    """
    if not path.is_file():
        raise FoldsError(f"{path}: no folds yet; `make folds` or the first `make train` makes them")
    content = path.read_bytes()
    remedy = f"restore it, or remove {path.parent} to start over"
    try:
        table = pd.read_csv(io.BytesIO(content), dtype={"img": str, "subject": str}, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise FoldsError(f"{path}: not a readable CSV file ({str(error).strip()}); {remedy}") from error
    if tuple(table.columns) != COLUMNS:
        got = ",".join(table.columns)
        raise FoldsError(f"{path}: expected the columns {','.join(COLUMNS)}, got {got}; {remedy}")
    train, table = competition.train, table.sort_values("img", ignore_index=True)
    if len(table) != len(train) or (table["img"] != train["img"]).any():
        raise FoldsError(f"{path}: its images are not those of {competition.config.folder}; {remedy}")
    for column in ("subject", "label"):
        if (differs := table[column] != train[column]).any():
            img, other = table.loc[differs, "img"].iloc[0], list_path(competition.config).name
            raise FoldsError(f"{path}: {column} of {img} differs from {other}; {remedy}")
    ids = set(table["fold"]) - {-1}
    if not pd.api.types.is_integer_dtype(table["fold"]) or not ids or ids != set(range(len(ids))):
        expected = "folds 0, 1, ... without a gap (and -1 for rows always trained on)"
        raise FoldsError(f"{path}: expected {expected}; {remedy}")
    num_folds = table.groupby("subject")["fold"].nunique()
    if (num_folds > 1).any():
        raise FoldsError(f"{path}: subject {num_folds.idxmax()} is in more than one fold; {remedy}")
    return Folds(table, sha256_bytes(content))
