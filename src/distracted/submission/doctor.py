"""The doctor: checks that the competition would accept a submission, against its sample_submission.csv."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.data.names import some_of
from distracted.data.sample_submission import SubmissionFormat
from distracted.data.tables import read_table
from distracted.errors import SubmissionError

_TOLERANCE = 1e-4  # of the sum of a row


def check_submission(
    path: Path,
    sample: Path | pd.DataFrame,
    *,
    form: SubmissionFormat | None = None,
    key: str | None = None,
    name: Path | None = None,
) -> None:
    """Check a submission file against the competition's sample.

    Args:
        sample: The file, or its table: the columns in order, and the images.
        key: The column of the images; by default the first.
        form: What the other columns hold; by default a probability for each class.
        name: The path that errors name, if `path` is a temporary file.

    Raises:
        DataError: a file is missing or not a CSV.
        SubmissionError: columns or their order differ; an image is missing, repeated or unknown; a label is
            no class; a probability is not a finite number in [0, 1]; a row's do not sum to 1. Names the row
            and image.
    """
    table = read_table(path)
    expected = sample if isinstance(sample, pd.DataFrame) else read_table(sample)
    path = name or path
    if list(table.columns) != list(expected.columns):
        raise SubmissionError(
            f"{path}: expected the columns {','.join(expected.columns)}, got {','.join(table.columns)}"
        )
    key = key or str(expected.columns[0])
    _check_images(table[key], expected[key], path)
    if form is not None and form.kind == "label":
        known = f"a class that is none of {some_of(form.answers)}"
        answers = table.drop(columns=key).iloc[:, 0]
        _refuse(~answers.isin(list(form.answers)).to_numpy(), table[key], path, known)
        return
    values = table.drop(columns=key).apply(pd.to_numeric, errors="coerce")
    numbers = values.to_numpy(np.float64)
    _refuse(~np.isfinite(numbers).all(axis=1), table[key], path, "a value that is not a finite number")
    _refuse(((numbers < 0) | (numbers > 1)).any(axis=1), table[key], path, "a value outside [0, 1]")
    if form is None or form.kind == "probabilities":
        off = np.abs(numbers.sum(axis=1) - 1) > _TOLERANCE
        _refuse(off, table[key], path, "probabilities that do not sum to 1")


def _check_images(imgs: "pd.Series[str]", expected: "pd.Series[str]", path: Path) -> None:
    if len(repeated := imgs[imgs.duplicated()]):
        row = repeated.index[0] + 2
        raise SubmissionError(f"{path}, row {row}: image {repeated.iloc[0]} occurs more than once")
    if extra := set(imgs) - set(expected):
        raise SubmissionError(f"{path}: {len(extra)} images are not in the test set, such as {min(extra)}")
    if missing := set(expected) - set(imgs):
        raise SubmissionError(f"{path}: {len(missing)} images are missing, such as {min(missing)}")


def _refuse(bad: NDArray[np.bool_], imgs: "pd.Series[str]", path: Path, fault: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise SubmissionError(f"{path}, row {row + 2}: image {imgs.iloc[row]} has {fault}")
