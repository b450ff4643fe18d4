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
    if create_text(path, bound) or (content := path.read_bytes()) == bound.encode():
        return
    try:
        json.loads(content)["index_hash"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{path}: damaged; remove this file only, and it is written again") from None
    raise StoreError(
        f"{path}: the name {competition.name!r} belongs to other data than {competition.config.folder} holds "
        f"now; rename the folder, or remove {path.parent} (its folds and predictions) to start over"
    )
