"""The time of a competition: HOURS= is all of it, over any number of stops."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distracted.files import write_json

_BEAT = 5.0  # seconds between notes of the used time


class Clock:
    """Counts the used seconds, and keeps them in a file, so that a killed command goes on counting.

    Attributes:
        hours: The time that was given, in seconds.

    Args:
        path: The file; None: none is kept.
        began: When the command began, by the same clock; by default now.
    """

    def __init__(
        self,
        path: Path | None,
        hours: float,
        *,
        began: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self.hours, self._now = path, hours, now
        self._before, self._start, self._noted = _read(path), now() if began is None else began, now()

    @property
    def used(self) -> float:
        """Seconds so far, those of earlier commands included."""
        return self._before + self._now() - self._start

    @property
    def left(self) -> float:
        return self.hours - self.used

    def note(self, *, at_once: bool = False) -> None:
        """Write the used time down, at most every few seconds."""
        if self._path is not None and (at_once or self._now() - self._noted >= _BEAT):
            self._noted = self._now()
            with suppress(OSError):  # a full disk: the work matters more
                write_json(self._path, {"used_seconds": round(self.used, 1)})


def _read(path: Path | None) -> float:
    if path is None:
        return 0.0
    try:
        return max(0.0, float(json.loads(path.read_text())["used_seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
