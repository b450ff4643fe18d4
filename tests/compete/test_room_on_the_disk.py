"""What the trials of a search leave on the disk."""

import logging

import pytest

from distracted.compete.trials import remove_checkpoints
from distracted.locks import hold
from distracted.predictions.store import Store
from distracted.training.checkpoints import LAST, PREVIOUS


def test_room_is_made_of_checkpoints_that_nobody_trains_on(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [store.workspace.scratch("tiny", run, fold) for run in ("dropped", "kept") for fold in (0, 1)]
    for folder in folders:
        folder.mkdir(parents=True)
        for name in (LAST, PREVIOUS, "metrics.jsonl"):
            (folder / name).write_bytes(b"x" * 1_000_000)
    with hold(store.workspace.lock("tiny", "dropped", 1), "a person"), caplog.at_level(logging.INFO):
        remove_checkpoints(store, ["dropped", "never_begun"])
    left = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    whole = sorted([LAST, "metrics.jsonl", PREVIOUS])
    assert left == [["metrics.jsonl"], whole, whole, whole]
    assert "removed checkpoints of 1 dropped trainings, 2 MB" in caplog.text
