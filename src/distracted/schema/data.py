"""The data set: where it lies and how its files are named."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt

from distracted.schema.base import NAME, Section, added_later


class ColumnsConfig(Section):
    """Names of the columns in the training list."""

    img: str
    """Column of the file names."""
    label: str
    """Column of the classes."""
    group: str | None
    """Column of the subjects; null: there are none, and folds are by image."""


def _check_box(value: Any) -> Any:
    try:
        x0, y0, x1, y1 = value
        fits = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    except (TypeError, ValueError):  # not four, or no numbers
        fits = False
    if not fits:
        wanted = "expected [x0, y0, x1, y1] as shares of the picture's width and height"
        raise ValueError(f"{wanted}, 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    return value


#: A part of a picture: left, top, right and bottom as shares of its width and height.
Box = Annotated[tuple[float, float, float, float], BeforeValidator(_check_box)]


class DataConfig(Section):
    """The data set. These keys are set in configs/data/<data>.yaml, not by SET=."""

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    """Folder name in oof/, runs/, submissions/ and cache/."""
    folder: Path = Field(exclude=True)
    """Where the files are; enters no hash."""
    drop_list: Path | None = Field(default=None, exclude=True)
    """configs/data/<data>_drop.csv, if there: images left out of training. Its content enters the hash."""
    drops: str | None = added_later(None)
    """SHA-256 of the drop list; filled in."""
    kaggle: str | None = Field(default=None, exclude=True)
    """Name of the competition on Kaggle; enters no hash."""
    num_test_subjects: PositiveInt | None = Field(default=None, exclude=True)
    """Number of people in the test set, for the expected score; null: as `make people` estimates; without
    an estimate, people are taken to have as many images as in training. Enters no hash."""
    train_list: str = "driver_imgs_list.csv"
    """CSV of the training images."""
    train_images: str = "imgs/train"
    """Folder that holds a folder for each class."""
    test_images: str = "imgs/test"
    """Folder of the test images."""
    sample_submission: str = "sample_submission.csv"
    """The competition's sample submission: its columns are the classes in order."""
    columns: ColumnsConfig
    regions: dict[str, Box] = Field(default={})
    """Parts of the images that model.regions may name: [left, top, right, bottom] as shares of width and
    height."""
