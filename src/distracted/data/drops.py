"""The drop list: images left out of training, each with a reason; all rows stay scored."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.data.competition import Competition
from distracted.data.folds import Folds
from distracted.data.tables import read_table
from distracted.errors import DataError
from distracted.files import sha256_file

COLUMNS = ("img", "reason", "fold")


def read_drops(competition: Competition) -> pd.DataFrame:
    """The drop list of a competition, configs/data/<data>_drop.csv; empty if there is none.

    Returns:
        Columns img, reason, fold: the fold whose training side leaves the image out; -1: all folds.

    Raises:
        DataError: a column, a reason or an image is wrong; says which row.
    """
    path = competition.config.drop_list
    if path is None:
        return pd.DataFrame({"img": [], "reason": [], "fold": np.empty(0, dtype=np.int64)})
    if path.is_file() and sha256_file(path) != competition.config.drops:
        raise DataError(
            f"{path}: changed since this command began, and a run has one list over all its folds; repeat "
            "the command"
        )
    table = read_table(path)
    if not {"img", "reason"} <= set(table.columns) <= set(COLUMNS):
        raise DataError(
            f"{path}: expected the columns img,reason and perhaps fold, got {','.join(table.columns)}"
        )
    if "fold" not in table.columns:
        table["fold"] = ""
    known = set(competition.train["img"])
    for number, (img, reason, fold) in enumerate(table[list(COLUMNS)].itertuples(index=False), start=2):
        where = f"{path}, row {number}"
        if img not in known:
            raise DataError(f"{where}: {img!r} is no training image of {competition.name}; remove the row")
        if not reason.strip():
            raise DataError(f"{where}: {img} has no reason; say why it is left out")
        if fold and not fold.isdecimal():
            raise DataError(
                f"{where}: fold {fold!r}; expected the number of the fold whose training side it is left out "
                "of, or nothing for all of them"
            )
    if len(double := table[table.duplicated(["img", "fold"])]):
        raise DataError(f"{path}, row {double.index[0] + 2}: {double['img'].iloc[0]} is there already")
    return table[list(COLUMNS)].assign(fold=[int(fold) if fold else -1 for fold in table["fold"]])


def keep_rows(
    competition: Competition, folds: Folds, fold: int, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Rows that a fold trains on, without those that the drop list leaves out of its training side.

    Raises:
        DataError: the list is wrong, names a fold that is not there, or leaves a class without a row.
    """
    table = read_drops(competition)
    path = competition.config.drop_list
    if len(table) and table["fold"].max() >= folds.num_folds:
        raise DataError(
            f"{path}: fold {table['fold'].max()}; there are {folds.num_folds}, 0 to {folds.num_folds - 1}"
        )
    imgs = table.loc[table["fold"].isin([-1, fold]), "img"]
    left = rows[~competition.train["img"].isin(set(imgs)).to_numpy()[rows]]
    if missing := set(folds.labels[rows].tolist()) - set(folds.labels[left].tolist()):
        raise DataError(
            f"{path}: without its images fold {fold} would train on none of class "
            f"{competition.classes[min(missing)]!r}; keep some"
        )
    return left
