"""The doctor accepts what the competition accepts, and names the row and image of each fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distracted.errors import DataError, SubmissionError
from distracted.submission.doctor import check_submission

Change = Callable[[pd.DataFrame], pd.DataFrame]
IMGS = [f"img_{number}.jpg" for number in (5, 3, 8, 1)]


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample_submission.csv"
    pd.DataFrame({"img": IMGS} | dict.fromkeys(("c0", "c1", "c2", "c3"), 0.25)).to_csv(path, index=False)
    return path


def check(sample: Path, change: Change) -> None:
    """Check the sample submission after a change."""
    path = sample.with_name("submission.csv")
    change(pd.read_csv(sample, dtype=str)).to_csv(path, index=False)
    check_submission(path, sample)


def put(row: int, column: str, value: Any) -> Change:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


def test_the_sample_itself_is_accepted(sample: Path) -> None:
    check_submission(sample, sample)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), sharpness=st.sampled_from([0.0, 1.0, 50.0]))
def test_probabilities_in_any_order_of_images_are_accepted(sample: Path, seed: int, sharpness: float) -> None:
    rng = np.random.default_rng(seed)
    scores = np.exp(sharpness * rng.normal(size=(4, 4)))
    table = pd.DataFrame(scores / scores.sum(axis=1, keepdims=True), columns=["c0", "c1", "c2", "c3"])
    table.insert(0, "img", rng.permutation(IMGS))
    path = sample.with_name("submission.csv")
    table.to_csv(path, index=False, float_format="%.8g")
    check_submission(path, sample)


FAULTS: dict[str, tuple[Change, str]] = {
    "a column less": (
        lambda t: t.drop(columns="c3"),
        ": expected the columns img,c0,c1,c2,c3, got img,c0,c1,c2",
    ),
    "a column more": (
        lambda t: t.assign(c4="0"),
        ": expected the columns img,c0,c1,c2,c3, got img,c0,c1,c2,c3,c4",
    ),
    "columns swapped": (
        lambda t: t[["img", "c1", "c0", "c2", "c3"]],
        ": expected the columns img,c0,c1,c2,c3, got img,c1,c0,c2,c3",
    ),
    "another name": (
        lambda t: t.rename(columns={"c3": "C3"}),
        ": expected the columns img,c0,c1,c2,c3, got img,c0,c1,c2,C3",
    ),
    "an image less": (lambda t: t.drop(index=2), ": 1 images are missing, such as img_8.jpg"),
    "an image more": (
        lambda t: pd.concat([t, t.tail(1).assign(img="img_9.jpg")]),
        ": 1 images are not in the test set, such as img_9.jpg",
    ),
    "an image twice": (
        lambda t: pd.concat([t, t.iloc[[1]]]),
        ", row 6: image img_3.jpg occurs more than once",
    ),
    "an image's name padded": (put(1, "img", "img_3.jpg "), ": 1 images are not in the test set"),
    "nothing": (put(1, "c2", ""), ", row 3: image img_3.jpg has a value that is not a finite number"),
    "NaN": (put(2, "c2", "nan"), ", row 4: image img_8.jpg has a value that is not a finite number"),
    "infinity": (put(0, "c0", "inf"), ", row 2: image img_5.jpg has a value that is not a finite number"),
    "text": (put(3, "c1", "likely"), ", row 5: image img_1.jpg has a value that is not a finite number"),
    "true": (put(3, "c1", "True"), ", row 5: image img_1.jpg has a value that is not a finite number"),
    "negative": (put(1, "c0", "-0.25"), r", row 3: image img_3.jpg has a value outside [0, 1]"),
    "above 1": (put(1, "c0", "1.25"), r", row 3: image img_3.jpg has a value outside [0, 1]"),
    "sum": (put(2, "c0", "0.2503"), ", row 4: image img_8.jpg has probabilities that do not sum to 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_place(sample: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    with pytest.raises(SubmissionError) as refusal:
        check(sample, change)
    assert str(refusal.value).startswith(f"{sample.with_name('submission.csv')}{message}")


def test_a_sum_within_rounding_is_accepted(sample: Path) -> None:
    check(sample, put(2, "c0", "0.25009"))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'img,c0\n"img_1.jpg', b"img,c0\na,1,2\nb\n"])
def test_a_file_that_is_no_table_is_rejected(sample: Path, content: bytes) -> None:
    path = sample.with_name("submission.csv")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"submission\.csv: (not a readable CSV file|its rows)"):
        check_submission(path, sample)


def test_missing_files_are_rejected(sample: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        check_submission(sample.with_name("nowhere.csv"), sample)
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        check_submission(sample, sample.with_name("nowhere.csv"))
