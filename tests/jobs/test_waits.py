"""A stop ends the wait for images at once, wherever the training is, and the same command goes on."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distracted.data.loading import _Load
from distracted.data.worker_process import Task
from distracted.jobs.fold import train_and_store
from distracted.predictions.store import Store
from distracted.schema import RunConfig
from distracted.stopping import Stop, Stopped
from distracted.training.resolve import resolve

Configure = Callable[..., RunConfig]
SETTINGS = ("runtime.checkpoint_steps=1", "training.batch_size=6", "training.ema=0.9")
SOUP = ("phases.scratch.epochs=3", "phases.scratch.soup=3")  # epoch 3 measures BatchNorm's statistics


STALLS: list[Task | str] = [(0, 0), (0, 3), (1, 0), (2, 0), (2, 5), (3, 1), "predicting"]


class Stall:
    """A disk on which the reading of one batch hangs, in a worker process.

    Args:
        at: A batch of the shuffled training images; "predicting": any batch in order.

    Attributes:
        has_begun: Exists once the batch is being read.
    """

    def __init__(self, folder: Path, at: Task | str) -> None:
        self.has_begun, self._at, self._parent = folder / f"{at} has begun", at, os.getpid()

    def slow_down(self, load: Any, task: Task) -> None:
        """What a worker process does before it loads a batch."""
        is_shuffled = load._sampler._seed is not None
        while os.getpid() != self._parent and self._at == (task if is_shuffled else "predicting"):
            self.has_begun.touch()
            time.sleep(0.1)


@pytest.mark.slow
def test_a_stop_does_not_wait_for_images(
    store: Store, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One training is stopped while it waits for each of several batches; it ends with the same bytes."""
    settings = ["runtime.cache_gb=0", "runtime.num_workers=2", *SETTINGS, *SOUP]
    resolved = resolve(configure(*settings), num_folds=3)
    whole = train_and_store(store, resolved, run="whole", fold=0)
    load = _Load.__call__
    for at in STALLS:
        stall, stop = Stall(tmp_path, at), Stop()

        def slowly(self: Any, task: Task, stall: Stall = stall) -> Any:
            stall.slow_down(self, task)
            return load(self, task)

        monkeypatch.setattr(_Load, "__call__", slowly)
        asking = Asking(stall, stop)
        asking.start()
        with pytest.raises(Stopped, match="the time limit"):
            train_and_store(store, resolved, run="a", fold=0, stop=stop)
        assert time.monotonic() - asking.moment < 20  # after 30 this process would load the batch
        asking.join()
    monkeypatch.setattr(_Load, "__call__", load)
    manifest = train_and_store(store, resolved, run="a", fold=0)
    assert manifest.details["num_resumed"] == len(STALLS)
    assert (manifest.valid_sha256, manifest.test_sha256) == (whole.valid_sha256, whole.test_sha256)


class Asking(threading.Thread):
    """Asks to stop once a stall has begun."""

    def __init__(self, stall: Stall, stop: Stop) -> None:
        super().__init__()
        self._stall, self._stop_request, self.moment = stall, stop, 0.0

    def run(self) -> None:
        while not self._stall.has_begun.exists():
            time.sleep(0.05)
        self.moment = time.monotonic()
        self._stop_request.ask("the time limit")
