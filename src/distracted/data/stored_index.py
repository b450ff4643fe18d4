"""The index of a competition as a file in its store: commands on predictions work without the images."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from distracted.data.competition import Competition, hash_index
from distracted.data.sample_submission import SubmissionFormat, default_format
from distracted.errors import StoreError, first_line
from distracted.files import atomic_path
from distracted.schema import DataConfig

_COLUMNS = ["img", "subject", "classname", "label", "content"]
_FORMAT = "submission"  # in the file's metadata; without it the form is the default one


def keep_index(path: Path, competition: Competition) -> None:
    """Write the index unless it is there; one that is damaged or has another form of answers is replaced."""
    if not path.exists() or _read_format(path, competition) != competition.submission:
        write_index(path, competition)


def write_index(path: Path, competition: Competition) -> None:
    """Write the training rows, then the test rows, whose label is -1, each in the competition's order."""
    test = competition.test.assign(subject="", classname="", label=-1)
    table = pd.concat([competition.train[_COLUMNS], test[_COLUMNS]], ignore_index=True)
    if competition.submission != default_format(competition.config, competition.classes):
        table.attrs[_FORMAT] = asdict(competition.submission)
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


def _read_format(path: Path, competition: Competition) -> SubmissionFormat | None:
    """The form of answers that a stored index says; None if it is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        attrs = pd.read_parquet(path, columns=["label"]).attrs
        return _as_format(attrs, competition.config, competition.classes)
    return None


def _as_format(attrs: dict[Any, Any], config: DataConfig, classes: tuple[str, ...]) -> SubmissionFormat:
    if _FORMAT not in attrs:
        return default_format(config, classes)
    stored = attrs[_FORMAT]
    columns, answers = tuple(stored["columns"]), tuple(stored["answers"])
    return SubmissionFormat(stored["kind"], columns, answers, stored["doubt"])


def read_index(path: Path, config: DataConfig, *, index_hash: str | None) -> Competition:
    """The competition of a stored index; it has no images.

    Args:
        index_hash: The hash in the store's data.json.

    Raises:
        StoreError: the file is damaged, or another data set's.
    """
    try:
        table = pd.read_parquet(path, columns=_COLUMNS)
        is_test = table["label"] == -1
        train = table[~is_test].reset_index(drop=True)
        test = table.loc[is_test, ["img", "content"]].reset_index(drop=True)
        by_label = train.drop_duplicates("label").set_index("label")["classname"]
        classes = tuple(by_label.loc[list(range(len(by_label)))])
        stated = hash_index(train, test, classes)
        form = _as_format(table.attrs, config, classes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({first_line(error)}); {_remedy(path)}") from error
    if stated != index_hash:
        raise StoreError(f"{path}: not the index that data.json names (edited or damaged); {_remedy(path)}")
    if form.kind != config.submission:
        raise StoreError(
            f"{path}: made with data.submission: {form.kind}, and it is {config.submission} now; `make "
            f"status` with {path.parent.name}'s images writes it again"
        )
    return Competition(config, train, test, classes, stated, form, has_images=False)


def _remedy(path: Path) -> str:
    return f"restore it, or remove it: `make status` with {path.parent.name}'s images writes it again"
