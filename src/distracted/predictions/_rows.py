"""The rows of a prediction file: aligned by `img`, and checked."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.errors import StoreError, first_line

LogProbs = NDArray[np.float32]
Imgs = pd.Series  # of text

if TYPE_CHECKING:
    import pyarrow as pa

_TOLERANCE = 1e-4  # for the sum of a row's probabilities
_ROUNDING = 1e-5  # of such a sum in float32


def as_table(
    imgs: Imgs, log_probs: NDArray[np.floating[Any]], classes: Sequence[str], path: Path
) -> pd.DataFrame:
    """Log-probabilities as the table that is stored: `img` and a float32 column for each class.

    Raises:
        StoreError: the shape is wrong, a value is not finite, or a row does not sum to 1.
    """
    expected = (len(imgs), len(classes))
    if log_probs.shape != expected:
        raise StoreError(f"{path}: expected log-probabilities of shape {expected}, got {log_probs.shape}")
    rounded = log_probs.astype(np.float32)
    _check(rounded, imgs, path, "nothing was written")
    table = pd.DataFrame(rounded, columns=list(classes))
    table.insert(0, "img", imgs.to_numpy())
    return table


def read_rows(content: bytes, imgs: Imgs, classes: Sequence[str], path: Path, redo: str) -> LogProbs:
    """Log-probabilities from a file's bytes, in the order of `imgs`, (num_images, num_classes).

    Raises:
        StoreError: not a table of these classes and images, or as `as_table`; ends with `redo`, the remedy.
    """
    log_probs = _read_as_written(content, imgs, classes)
    if log_probs is None:
        log_probs = _read_aligned(content, imgs, classes, path, redo)
    _check(log_probs, imgs, path, redo)
    return log_probs


def _read_as_written(content: bytes, imgs: Imgs, classes: Sequence[str]) -> LogProbs | None:
    """The rows of a table just as `as_table` makes it, the usual case, without pandas; else None.

    The array lies in memory by columns, as pandas makes it: sums over another order round otherwise, and
    submissions are compared with stored ones by such sums.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(pa.BufferReader(content)).read()
        names, *columns = table.columns
        as_expected = table.column_names == ["img", *classes] and all(
            column.type == pa.float32() and not column.null_count for column in columns
        )
        if as_expected and _text(names).equals(_text(pa.chunked_array([pa.array(imgs)]))):
            return np.stack([column.to_numpy() for column in columns]).T
    except Exception:  # `_read_aligned` says what is wrong
        pass
    return None


def _read_aligned(content: bytes, imgs: Imgs, classes: Sequence[str], path: Path, redo: str) -> LogProbs:
    try:
        table = pd.read_parquet(BytesIO(content))
        for column in table:
            table[column].to_numpy()  # invalid text is noticed only now
    except Exception as error:  # damaged files make pyarrow fail in a dozen ways
        raise StoreError(f"{path}: not a readable parquet file ({first_line(error)}); {redo}") from error
    if list(table.columns) != ["img", *classes]:
        raise StoreError(f"{path}: expected the columns img, {', '.join(classes)}; {redo}")
    aligned = _align(table, imgs.to_numpy(), path, redo)
    try:
        return aligned[list(classes)].to_numpy(np.float64).astype(np.float32)
    except (ValueError, TypeError) as error:  # text
        raise StoreError(f"{path}: not a readable parquet file ({first_line(error)}); {redo}") from error


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


def _check(log_probs: LogProbs, imgs: Imgs, path: Path, remedy: str) -> None:
    """Refuse log-probabilities that are not finite or whose exponentials do not sum to 1."""
    finite = np.asarray(np.isfinite(log_probs).all(axis=1))
    if not finite.all():
        raise StoreError(f"{path}: image {imgs[~finite].iloc[0]} has a value that is not finite; {remedy}")
    with np.errstate(over="ignore"):  # an infinite sum is refused as well
        sums = np.exp(log_probs).sum(axis=1)
        if np.abs(sums - 1).max(initial=0) < _TOLERANCE - _ROUNDING:
            return
        sums = np.exp(log_probs.astype(np.float64)).sum(axis=1)
    off = np.abs(sums - 1) > _TOLERANCE
    if off.any():
        img, total = imgs[off].iloc[0], sums[off][0]
        raise StoreError(f"{path}: image {img}: probabilities sum to {total:.6f}, expected 1; {remedy}")


def _text(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """A column of names as one type of text: pandas and pyarrow have several."""
    return column.cast("large_string")
