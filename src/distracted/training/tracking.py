"""Where metrics go while a fold is trained: metrics.jsonl, and what else has the same interface."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from distracted.paths import METRICS


class Tracker(Protocol):
    """Takes metrics as they come and a summary at the end; used as a context."""

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None: ...

    def summarise(self, values: Mapping[str, Any]) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FileTracker:
    """The local truth: one JSON object a line in metrics.jsonl, begun anew with each run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / METRICS).open("w")

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def summarise(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"summary": dict(values)}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
