"""The rows of a prediction file: aligned by `img`, and checked."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.errors import StoreError

_TOLERANCE = 1e-4  # of a row's sum of probabilities


def align(table: pd.DataFrame, imgs: NDArray[Any], path: Path, redo: str) -> pd.DataFrame:
    """The rows of a table in the order of `imgs`; StoreError where an image is double, unknown or missing."""
    if np.array_equal(table["img"].to_numpy(), imgs):  # as it was written: each image is in its place
        return table
    if len(double := table["img"][table["img"].duplicated()]):
        raise StoreError(f"{path}: image {double.iloc[0]} is there more than once; {redo}")
    found, wanted = set(table["img"]), set(imgs)
    if found - wanted:
        raise StoreError(f"{path}: image {min(found - wanted)} does not belong there; {redo}")
    if wanted - found:
        more = f", and {len(wanted - found) - 1} more" if len(wanted - found) > 1 else ""
        raise StoreError(f"{path}: image {min(wanted - found)} is missing{more}; {redo}")
    return table.set_index("img").loc[imgs].reset_index()


def check_rows(table: pd.DataFrame, path: Path, remedy: str) -> None:
    """Refuse log-probabilities that are not finite or whose exponentials do not sum to 1."""
    log_probs = table.drop(columns="img").to_numpy(np.float64)
    finite = np.isfinite(log_probs).all(axis=1)
    if not finite.all():
        raise StoreError(
            f"{path}: image {table['img'][~finite].iloc[0]} has a value that is not finite; {remedy}"
        )
    sums = np.exp(log_probs).sum(axis=1)
    off = np.abs(sums - 1) > _TOLERANCE
    if off.any():
        raise StoreError(
            f"{path}: image {table['img'][off].iloc[0]}: probabilities sum to {sums[off][0]:.6f}, expected "
            f"1; {remedy}"
        )
