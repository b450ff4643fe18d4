"""Which store holds the predictions of a data folder: the one whose index has the same hash.

The folder's name does not count: the same data may lie under another name on another machine.
"""

import logging
from collections.abc import Set

import pandas as pd

from distracted.data.competition import load_competition, read_train_imgs
from distracted.errors import DataError, StoreError
from distracted.paths import Workspace
from distracted.predictions._binding import bound_hash
from distracted.progress import Progress, silent
from distracted.schema import DataConfig

_log = logging.getLogger(__name__)


def find_store(workspace: Workspace, data: DataConfig, *, progress: Progress = silent) -> str:
    """The name of the store that a folder's data belongs to; the data's own name if there is none.

    The images are read only if another store lists the same training images.

    Args:
        data: The config of a data folder; its name is made from the folder's name.

    Raises:
        DataError: as `load_competition`, where the images have to be read.
        StoreError: several other stores hold predictions of this data.
    """
    if not (others := _listing_the_same(workspace, data)):
        return data.name
    index_hash = load_competition(data, cache=workspace.digests(data.folder), progress=progress).index_hash
    same = [name for name in others if bound_hash(workspace, name) == index_hash]
    if not same or bound_hash(workspace, data.name) == index_hash:
        return data.name
    if len(same) > 1:
        paths = " and ".join(str(workspace.oof(name)) for name in same)
        raise StoreError(
            f"{paths} hold predictions of the data in {data.folder}: DATA={same[0]} takes one if "
            f"configs/data/{same[0]}.yaml says `data: {{folder: {data.folder}}}`; or move the others away"
        )
    _log.info("%s: its data is that of %s, which is used", data.folder, workspace.oof(same[0]))
    return same[0]


def other_store(workspace: Workspace, name: str, index_hash: str) -> str:
    """Another store of the same data while the named one has no predictions; "" if there is none."""
    if any(workspace.oof(name).glob("*/fold*")):
        return ""
    return next((other for other in stores_of(workspace, index_hash) if other != name), "")


def stores_of(workspace: Workspace, index_hash: str) -> list[str]:
    """The names of all stores that are bound to an index."""
    return [name for name in _stores(workspace) if bound_hash(workspace, name) == index_hash]


def _stores(workspace: Workspace) -> list[str]:
    return sorted(path.parent.name for path in workspace.data_bindings())


def _listing_the_same(workspace: Workspace, data: DataConfig) -> list[str]:
    """Other stores whose folds.csv lists the folder's training images."""
    others = [name for name in _stores(workspace) if name != data.name]
    if not others:
        return []
    try:
        imgs = read_train_imgs(data)
    except DataError:  # the command that reads the folder says it
        return []
    return [name for name in others if _lists(workspace, name, imgs)]


def _lists(workspace: Workspace, name: str, imgs: Set[str]) -> bool:
    """Whether folds.csv lists these images, or is not there yet."""
    path = workspace.folds(name)
    if not path.is_file():
        return True
    try:
        return set(pd.read_csv(path, dtype=str, usecols=["img"], keep_default_na=False)["img"]) == imgs
    except (OSError, ValueError):  # damaged: its own commands say it
        return False
