"""The rows of a prediction file: aligned by `img`, and checked."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.errors import StoreError, first_line

_TOLERANCE = 1e-4  # for the sum of a row's probabilities


def as_table(
    imgs: NDArray[Any], log_probs: NDArray[np.floating[Any]], classes: Sequence[str], path: Path
) -> pd.DataFrame:
    """Log-probabilities as the table that is stored: `img` and a float32 column for each class.

    Raises:
        StoreError: the shape is wrong, a value is not finite, or a row does not sum to 1.
    """
    expected = (len(imgs), len(classes))
    if log_probs.shape != expected:
        raise StoreError(f"{path}: expected log-probabilities of shape {expected}, got {log_probs.shape}")
    table = pd.DataFrame(log_probs.astype(np.float32), columns=list(classes))
    table.insert(0, "img", imgs)
    _check(table, path, "nothing was written")
    return table


def read_rows(
    content: bytes, imgs: NDArray[Any], classes: Sequence[str], path: Path, redo: str
) -> NDArray[np.float64]:
    """Log-probabilities from a file's bytes, in the order of `imgs`, (num_images, num_classes).

    Raises:
        StoreError: not a table of these classes and images, or as `as_table`; ends with `redo`, the remedy.
    """
    try:
        table = pd.read_parquet(BytesIO(content))
        for column in table:
            table[column].to_numpy()  # invalid text is noticed only now
    except Exception as error:  # damaged files make pyarrow fail in a dozen ways
        raise StoreError(f"{path}: not a readable parquet file ({first_line(error)}); {redo}") from error
    if list(table.columns) != ["img", *classes]:
        raise StoreError(f"{path}: expected the columns img, {', '.join(classes)}; {redo}")
    aligned = _align(table, imgs, path, redo)
    _check(aligned, path, redo)
    return aligned[list(classes)].to_numpy(np.float64)


def _align(table: pd.DataFrame, imgs: NDArray[Any], path: Path, redo: str) -> pd.DataFrame:
    """The table's rows in the order of `imgs`; StoreError if an image is duplicate, unknown or missing."""
    if np.array_equal(table["img"].to_numpy(), imgs):  # the usual case, and fast
        return table
    if len(double := table["img"][table["img"].duplicated()]):
        raise StoreError(f"{path}: image {double.iloc[0]} is there more than once; {redo}")
    names, expected = set(table["img"]), set(imgs)
    if unknown := names - expected:
        raise StoreError(f"{path}: image {min(unknown)} does not belong there; {redo}")
    if missing := expected - names:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise StoreError(f"{path}: image {min(missing)} is missing{more}; {redo}")
    return table.set_index("img").loc[imgs].reset_index()


def _check(table: pd.DataFrame, path: Path, remedy: str) -> None:
    """Refuse log-probabilities that are not finite or whose exponentials do not sum to 1."""
    log_probs = table.drop(columns="img").to_numpy(np.float64)
    finite = np.isfinite(log_probs).all(axis=1)
    if not finite.all():
        raise StoreError(
            f"{path}: image {table['img'][~finite].iloc[0]} has a value that is not finite; {remedy}"
        )
    with np.errstate(over="ignore"):  # an infinite sum is refused as well
        sums = np.exp(log_probs).sum(axis=1)
    off = np.abs(sums - 1) > _TOLERANCE
    if off.any():
        raise StoreError(
            f"{path}: image {table['img'][off].iloc[0]}: probabilities sum to {sums[off][0]:.6f}, expected "
            f"1; {remedy}"
        )
