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
from distracted.data.split import split_by_subject
from distracted.data.subjects import one_spelling
from distracted.data.train_list import list_path
from distracted.errors import FoldsError
from distracted.files import create_text, sha256_bytes

_log = logging.getLogger(__name__)

COLUMNS = ("img", "subject", "label", "fold")
MIN_SUBJECTS = 3
#: Fraction of the subjects that a single split holds out.
SINGLE_SHARE = 0.1


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
    """Limit a number of folds to the number of subjects, in all and of the rarest class.

    Raises:
        FoldsError: no honest folds exist: fewer than three subjects, or a class with a single subject.
    """
    train, path = competition.train, list_path(competition.config)
    if competition.num_subjects < MIN_SUBJECTS:
        names = ", ".join(sorted(set(train["subject"])))
        raise FoldsError(
            f"{path}: expected at least {MIN_SUBJECTS} subjects for folds by subject, got "
            f"{competition.num_subjects} ({names}); add subjects (data.columns.group: null in configs/data/ "
            "makes folds by image, whose score says nothing about new subjects)"
        )
    per_class = _subjects_per_class(competition)
    if (too_few := per_class[per_class < 2]).size:
        name = str(too_few.index[0])
        subject = train.loc[train["classname"] == name, "subject"].iloc[0]
        raise FoldsError(
            f"{path}: class {name!r} has a single subject ({subject}): if it is held out, the class is "
            "missing from the training side; add images of another subject"
        )
    return min(num_folds, competition.num_subjects, int(per_class.min()))


def _subjects_per_class(competition: Competition) -> "pd.Series[int]":
    subjects = one_spelling(competition.train)
    return subjects.groupby(competition.train["classname"]).nunique()


def make_folds(competition: Competition, num_folds: int) -> pd.DataFrame:
    """Split by subject, balanced in size and classes; by image if there are no subjects.

    Args:
        num_folds: 1 makes a single split: fold 0 is a tenth of the subjects (more if there are few), and the
            other rows have fold -1, always trained on.

    Returns:
        Columns img, subject, label, fold (0-based), in the order of `Competition.train`.

    Raises:
        FoldsError: no valid split was found.
    """
    train = competition.train
    num_parts = num_folds if num_folds > 1 else feasible_folds(competition, round(1 / SINGLE_SHARE))
    subjects = pd.factorize(one_spelling(train), sort=True)[0]
    ids = split_by_subject(train["label"].to_numpy(), subjects, num_parts)
    if ids is None:
        fewer = f"ask for fewer: SET='training.num_folds={num_folds - 1}'"
        remedy = fewer if num_folds > 2 else "add images of other subjects"
        raise FoldsError(
            f"no split of {competition.num_subjects} subjects into {num_parts} parts was found that keeps "
            f"every class on every training side; {remedy}"
        )
    fold = ids if num_folds > 1 else np.where(ids == 0, 0, -1)
    return train[["img", "subject", "label"]].assign(fold=fold)


def split_holdout(
    folds: Folds, fold: int, *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a fold's training side into rows to train on and an inner holdout for early stopping.

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
    for num_parts in range(min(max(2, round(1 / share)), num_subjects), 1, -1):
        ids = split_by_subject(labels, subjects, num_parts, seed=seed)
        if ids is not None:
            held_back = len(np.unique(subjects[ids == 0]))
            _log.info("inner holdout: %d of %d training subjects held back", held_back, num_subjects)
            return rows[ids != 0], rows[ids == 0]
    raise FoldsError(
        f"training.holdout={share:g}: fold {fold} trains on {num_subjects} subjects, none of which can be "
        "held back without losing a class; set it to 0, or add subjects"
    )


def ensure_folds(path: Path, competition: Competition, num_folds: int) -> Folds:
    """Read folds.csv, or make it if it does not exist; log if there are fewer folds than asked for.

    Raises:
        FoldsError: the file has another number of folds than `num_folds`, or does not match the data.
    """
    if not path.exists():
        table = make_folds(competition, feasible_folds(competition, num_folds))
        text = table.to_csv(index=False, lineterminator="\n")
        create_text(path, text)  # no effect if another process was first; its folds are read below
    folds = read_folds(path, competition)
    if folds.num_folds not in (num_folds, 1) and folds.num_folds != feasible_folds(competition, num_folds):
        raise FoldsError(
            f"{path} has {folds.num_folds} folds, this run asks for {num_folds}, but every run shares one "
            f"split: use SET='training.num_folds={folds.num_folds}', or remove {path.parent} to split again"
        )
    num_subjects = competition.num_subjects
    if folds.num_folds == 1:
        held_out = len(np.unique(folds.subjects[folds.valid(0)]))
        text = "a single split: %d of %d subjects are held out and scored, the others are always trained on"
        _log.info(text, held_out, num_subjects)
    elif folds.num_folds != num_folds:
        rarest = _subjects_per_class(competition).min()
        text = "%d folds instead of %d: there are %d subjects, %d in the rarest class"
        _log.info(text, folds.num_folds, num_folds, num_subjects, rarest)
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
