"""The index of a competition as a file in its store: commands on predictions work without the images."""

from pathlib import Path

import pandas as pd

from distracted.data.competition import Competition, hash_index
from distracted.errors import StoreError, first_line
from distracted.files import atomic_path
from distracted.schema import DataConfig

_COLUMNS = ["img", "subject", "classname", "label", "content"]


def write_index(path: Path, competition: Competition) -> None:
    """Write the training rows, then the test rows, whose label is -1, each in the competition's order."""
    test = competition.test.assign(subject="", classname="", label=-1)
    table = pd.concat([competition.train[_COLUMNS], test[_COLUMNS]], ignore_index=True)
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({first_line(error)}); {_remedy(path)}") from error
    if stated != index_hash:
        raise StoreError(f"{path}: not the index that data.json names (edited or damaged); {_remedy(path)}")
    return Competition(config, train, test, classes, stated, has_images=False)


def _remedy(path: Path) -> str:
    return f"restore it, or remove it: `make status` with {path.parent.name}'s images writes it again"
