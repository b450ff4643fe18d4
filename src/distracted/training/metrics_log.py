"""Trackers: where metrics go while a fold is trained. metrics.jsonl is always written."""

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from distracted.paths import METRICS


class Tracker:
    """Takes metrics during training and a summary at the end.

    This one drops them: in a team, all processes but the lead have it.
    """

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None:
        pass

    def summarise(self, values: Mapping[str, Any]) -> None:
        pass

    def tell(self) -> int:
        """The current position, for `rewind`."""
        return 0

    def rewind(self, position: int) -> None:
        """Remove what was logged after a position: the training goes on from there, or begins at 0."""


class FileTracker(Tracker, AbstractContextManager["FileTracker"]):
    """Appends one JSON object a line to metrics.jsonl; a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / METRICS).open("a", buffering=1)  # flushed after each line

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")

    def summarise(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"summary": dict(values)}) + "\n")

    def tell(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def rewind(self, position: int) -> None:
        self._file.truncate(min(position, self.tell()))

    def __exit__(self, *_: object) -> None:
        self._file.close()
