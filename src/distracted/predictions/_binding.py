"""data.json: binds a data set's name to its index."""

import json

from distracted.data.competition import Competition
from distracted.errors import StoreError
from distracted.files import create_text
from distracted.paths import Workspace


def bind_data(workspace: Workspace, competition: Competition) -> None:
    """Bind the data's name to its index in data.json, or check that it is bound to this index.

    Raises:
        StoreError: the name is bound to another index, or the file is damaged.
    """
    path = workspace.data_binding(competition.name)
    bound = f'{{"name": "{competition.name}", "index_hash": "{competition.index_hash}"}}\n'
    if create_text(path, bound) or (held := _hash_in(path.read_bytes())) == competition.index_hash:
        return
    if held is None:
        raise StoreError(f"{path}: damaged; remove this file only, and it is written again")
    folder = competition.config.folder
    raise StoreError(
        f"{path}: the name {competition.name!r} belongs to other data than {folder} holds now; rename the "
        f"folder (or link to it under another name: ln -s), or remove {path.parent} (its folds and "
        "predictions) to start over"
    )


def bound_hash(workspace: Workspace, name: str) -> str | None:
    """The hash of the index that a store is bound to; None if data.json is missing or damaged."""
    try:
        return _hash_in(workspace.data_binding(name).read_bytes())
    except OSError:
        return None


def _hash_in(content: bytes) -> str | None:
    try:
        value = json.loads(content)["index_hash"]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
