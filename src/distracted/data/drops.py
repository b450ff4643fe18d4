"""The drop list: images to leave out of training, with reasons; they are still predicted and scored."""

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
    """Read a competition's drop list, configs/data/<data>_drop.csv; without a file it is empty.

    Returns:
        Columns img, reason, fold: the fold that trains without the image, -1 for all folds.

    Raises:
        DataError: a column, a reason, an image or a fold is wrong; the message names the row.
    """
    path = competition.config.drop_list
    if path is None:
        return pd.DataFrame({"img": [], "reason": [], "fold": np.empty(0, dtype=np.int64)})
    if path.is_file() and sha256_file(path) != competition.config.drops:
        raise DataError(
            f"{path}: changed since this command began, but a run has one list for all its folds; run the "
            "command again"
        )
    table = read_table(path)
    if not {"img", "reason"} <= set(table.columns) <= set(COLUMNS):
        got = ",".join(table.columns)
        raise DataError(f"{path}: expected the columns img,reason and optionally fold, got {got}")
    table = table.reindex(columns=list(COLUMNS), fill_value="")
    known = set(competition.train["img"])
    for number, (img, reason, fold) in enumerate(table.itertuples(index=False), start=2):
        where = f"{path}, row {number}"
        if img not in known:
            raise DataError(f"{where}: {img!r} is not a training image of {competition.name}; remove the row")
        if not reason.strip():
            raise DataError(f"{where}: {img} has no reason; say why it is left out")
        if fold and not fold.isdecimal():
            expected = "the number of the fold that trains without the image, or nothing for all folds"
            raise DataError(f"{where}: fold {fold!r}; expected {expected}")
    if len(again := table[table.duplicated(["img", "fold"])]):
        img = again["img"].iloc[0]
        raise DataError(f"{path}, row {again.index[0] + 2}: {img} is listed already; remove the row")
    return table.assign(fold=[int(fold) if fold else -1 for fold in table["fold"]])


def without_drops(
    competition: Competition, folds: Folds, fold: int, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Remove the images on the drop list from a fold's training rows.

    Raises:
        DataError: the list is wrong, names a fold that does not exist, or leaves a class without a row.
    """
    table = read_drops(competition)
    path = competition.config.drop_list
    if len(table) and table["fold"].max() >= folds.num_folds:
        raise DataError(
            f"{path}: fold {table['fold'].max()}; expected one of the {folds.num_folds} folds, 0 to "
            f"{folds.num_folds - 1}"
        )
    imgs = table.loc[table["fold"].isin([-1, fold]), "img"]
    remaining = rows[~competition.train["img"].isin(set(imgs)).to_numpy()[rows]]
    if missing := set(folds.labels[rows].tolist()) - set(folds.labels[remaining].tolist()):
        raise DataError(
            f"{path}: fold {fold} would train without any image of class "
            f"{competition.classes[min(missing)]!r}; remove some of its images from the list"
        )
    return remaining
