"""Which recordings are complete."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import dead_owner, write_owner
from distracted.locks import Owner, this_process
from distracted.predictions.store import Store
from distracted.tracking.recordings import find_recordings

ELSEWHERE = replace(this_process(), host="container-of-yesterday", place="another")


@pytest.mark.parametrize(
    ("owner", "minutes", "is_complete"),
    [
        (None, 0, True),
        (this_process(), 120, False),
        (dead_owner(), 0, True),
        (ELSEWHERE, 1, False),
        (ELSEWHERE, 120, True),  # it cannot be looked up, and would have written since
    ],
)
@pytest.mark.parametrize("name", ["offline-run-20260101_000000-abc", "run-20260101_000000-abc"])
def test_a_recording_is_left_to_its_process_while_that_lives(
    store: Store, name: str, owner: Owner | None, minutes: int, is_complete: bool
) -> None:
    folder = store.workspace.scratch("tiny", "net", 0) / "wandb" / name
    folder.mkdir(parents=True)
    (folder / "unsent").touch()
    file: Path = folder / "run-abc.wandb"
    file.touch()
    os.utime(file, (time.time() - 60 * minutes,) * 2)
    if owner is not None:
        write_owner(folder / "open.json", owner)
    assert find_recordings(store) == [folder] * is_complete
