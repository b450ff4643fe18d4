"""The data set: where it lies and how its files are named."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, model_validator

from distracted.schema.base import NAME, Section, added_later

#: What the answer to a test image is: a probability for each class, that of the last of two classes, a class.
SubmissionKind = Literal["probabilities", "probability", "label"]
MetricName = Literal["log_loss", "accuracy", "balanced_accuracy", "macro_f1", "auc", "quadratic_kappa"]


class ColumnsConfig(Section):
    """Names of the columns in the training list."""

    img: str
    """Column of the images: their names, with or without folders, with or without their ending."""
    label: str | tuple[str, ...]
    """Column of the classes; a list: one column for each class, with 1 in one of them and 0 in the others."""
    group: str | tuple[str, ...] | None
    """Column of the subjects; null: there are none, and folds are by image. A list: rows that share a value
    in any of these columns belong to one subject."""
    id: str | None = Field(default=None, exclude=True)
    """Column of the images in the sample submission; null: as `img`. Enters no hash."""


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


def _name_classes(value: Any) -> Any:
    """Labels and class names as text; a list names each class as its label."""
    if isinstance(value, list | tuple):
        value = dict(zip(value, value, strict=True))
    if not isinstance(value, dict):
        return value
    if any(isinstance(text, bool | None) for pair in value.items() for text in pair):
        raise ValueError("yes, no, true, false and null are no text in YAML; put them in quotes")
    classes = {str(label): str(name) for label, name in value.items()}
    if len(classes) < 2 or len(set(classes.values())) < len(classes):
        raise ValueError("expected two classes or more, each named once")
    return classes


def _check_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from None
    return value


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
    public_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, exclude=True)
    """Share of the test images in the public score, which then has a forecast of its own; null: unknown.
    Enters no hash."""
    train_list: str | tuple[str, ...] | None = "driver_imgs_list.csv"
    """List of the training images (CSV; tabs or semicolons may separate, too); null: there is none, and each
    folder in train_images is a class. Several: the first names the images, the others add columns for them,
    such as their subjects."""
    train_images: str | tuple[str, ...] = "imgs/train"
    """Folder of the training images, with or without folders in it. A list names several; `*` and `?` stand
    for parts of a name, such as `train/*.jpg`."""
    test_images: str | tuple[str, ...] = "imgs/test"
    """Folder of the test images; a list or `*` as for train_images."""
    sample_submission: str | None = "sample_submission.csv"
    """The competition's sample submission: its rows are the test images, its columns say what is asked for;
    null: there is none, and all images in test_images are predicted."""
    columns: ColumnsConfig
    subject_pattern: Annotated[str, AfterValidator(_check_pattern)] | None = Field(default=None, exclude=True)
    r"""Regular expression whose group in an image's name is its subject, such as `patient(\d+)_`; needs
    columns.group: null. Enters no hash."""
    label_pattern: Annotated[str, AfterValidator(_check_pattern)] | None = Field(default=None, exclude=True)
    r"""Regular expression whose group in an image's name is its class, such as `^([a-z]+)\.`; needs
    train_list: null. Enters no hash."""
    classes: Annotated[dict[str, str], BeforeValidator(_name_classes)] | None = Field(
        default=None, exclude=True
    )
    """Classes in order: a list, or a mapping from the list's labels to names. null: the labels themselves, in
    the order of the sample submission's columns, else sorted. Enters no hash."""
    submission: SubmissionKind = Field(default="probabilities", exclude=True)
    """What is asked for: `probabilities`, one column a class; `probability`, one column for the last of two
    classes; `label`, one column with the class. Enters no hash."""
    metric: MetricName = Field(default="log_loss", exclude=True)
    """The competition's score, by which runs are ranked and blenders chosen (docs/metrics.md). Enters no
    hash of a trained run."""
    regions: dict[str, Box] = Field(default={})
    """Parts of the images that model.regions may name: [left, top, right, bottom] as shares of width and
    height."""

    @property
    def train_lists(self) -> tuple[str, ...]:
        """The lists of training images; none if folders or names say the classes."""
        return (self.train_list,) if isinstance(self.train_list, str) else self.train_list or ()

    @property
    def has_subjects(self) -> bool:
        """Whether images are known to belong together; else each is a subject of its own."""
        return self.columns.group is not None or self.subject_pattern is not None

    @model_validator(mode="after")
    def _one_source_of_subjects(self) -> Self:
        if self.columns.group is not None and self.subject_pattern is not None:
            raise ValueError(
                "subject_pattern and columns.group both name the subjects; set one of them to null"
            )
        return self

    @model_validator(mode="after")
    def _one_source_of_classes(self) -> Self:
        if self.train_lists and self.label_pattern is not None:
            raise ValueError("train_list and label_pattern both name the classes; set one of them to null")
        return self

    @model_validator(mode="after")
    def _folders_name_the_classes(self) -> Self:
        if self.train_list is None and self.columns.group is not None:
            raise ValueError(
                "train_list is null, so there is no column of subjects; expected columns.group: null (and "
                "subject_pattern, if file names say the subject)"
            )
        return self
