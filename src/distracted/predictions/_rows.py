"""The rows of a prediction file: aligned by `img`, and checked."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.errors import StoreError, first_line

_TOLERANCE = 1e-4  # of a row's sum of probabilities


def as_table(
    imgs: NDArray[Any], log_probs: NDArray[np.floating[Any]], classes: Sequence[str], path: Path
) -> pd.DataFrame:
    """Log-probabilities as they are stored: `img` and a column of float32 a class.

    Raises:
        StoreError: another shape, a value that is not finite, or a row that does not sum to 1.
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
        StoreError: not a table of these classes and images, or as `as_table`; says what to do about it.
    """
    try:
        table = pd.read_parquet(BytesIO(content))
        for column in table:
            table[column].to_numpy()  # text that is none is found out only now
    except Exception as error:  # garbage makes the readers fail in a dozen ways
        raise StoreError(f"{path}: not a readable parquet file ({first_line(error)}); {redo}") from error
    if list(table.columns) != ["img", *classes]:
        raise StoreError(f"{path}: expected the columns img, {', '.join(classes)}; {redo}")
    aligned = _align(table, imgs, path, redo)
    _check(aligned, path, redo)
    return aligned[list(classes)].to_numpy(np.float64)


def _align(table: pd.DataFrame, imgs: NDArray[Any], path: Path, redo: str) -> pd.DataFrame:
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


def _check(table: pd.DataFrame, path: Path, remedy: str) -> None:
    """Refuse log-probabilities that are not finite or whose exponentials do not sum to 1."""
    log_probs = table.drop(columns="img").to_numpy(np.float64)
    finite = np.isfinite(log_probs).all(axis=1)
    if not finite.all():
        raise StoreError(
            f"{path}: image {table['img'][~finite].iloc[0]} has a value that is not finite; {remedy}"
        )
    with np.errstate(over="ignore"):  # infinite is not 1, either
        sums = np.exp(log_probs).sum(axis=1)
    off = np.abs(sums - 1) > _TOLERANCE
    if off.any():
        raise StoreError(
            f"{path}: image {table['img'][off].iloc[0]}: probabilities sum to {sums[off][0]:.6f}, expected "
            f"1; {remedy}"
        )
