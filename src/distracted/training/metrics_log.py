"""Trackers: where metrics go while a fold is trained. metrics.jsonl is always written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from distracted.paths import METRICS


class Tracker(Protocol):
    """Takes metrics during training and a summary at the end; a context manager."""

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None: ...

    def summarise(self, values: Mapping[str, Any]) -> None: ...

    def tell(self) -> int:
        """The current position, for `rewind`."""
        ...

    def rewind(self, position: int) -> None:
        """Remove what was logged after a position: the training goes on from there, or begins at 0."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NoTracker:
    """Tracks nothing: for all processes of a team but the lead."""

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None:
        pass

    def summarise(self, values: Mapping[str, Any]) -> None:
        pass

    def tell(self) -> int:
        return 0

    def rewind(self, position: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class FileTracker:
    """Appends one JSON object a line to metrics.jsonl."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / METRICS).open("a")

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def summarise(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"summary": dict(values)}) + "\n")
        self._file.flush()

    def tell(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def rewind(self, position: int) -> None:
        self._file.truncate(min(position, self.tell()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
