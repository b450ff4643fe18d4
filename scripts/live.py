"""What is shown while jobs run: a live table on a terminal; elsewhere a line now and then."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

import console
import signals
from terminal import can_redraw

if TYPE_CHECKING:
    from distracted.jobs.grid import Ended

_SHOW_EVERY = 2.0
_LINE_EVERY = 60.0  # seconds between lines where there is no terminal


class LiveTable:
    """The base of a command's table, used as a context."""

    def __init__(self) -> None:
        self._live = Live(console=console.err, auto_refresh=False) if can_redraw() else None
        self._shown = -_SHOW_EVERY
        self._stops = False
        self._num_told = 0  # jobs that have ended and were looked at

    def __enter__(self) -> Self:
        if self._live is not None:
            signals.live.set()
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            signals.live.clear()

    def update(
        self, ended: "Sequence[Ended]", summary: Callable[[], str], table: Callable[[str], Table]
    ) -> None:
        """Say which jobs have failed since, and show the state if it is time; the summary is its title."""
        for one in ended[self._num_told :]:
            if one.state == "failed":
                console.warn(f"{one.job}: failed: {one.reason}; the others go on")
        self._num_told = len(ended)
        if self.is_due():
            text = summary()
            self.redraw(text, lambda: table(text))

    def is_due(self) -> bool:
        """Whether it is time to show the state again; a request to stop is shown at once."""
        every = _SHOW_EVERY if self._live is not None else _LINE_EVERY
        stops = bool(signals.stop.reason) and not self._stops
        self._stops = self._stops or stops
        if time.monotonic() - self._shown < every and not stops:
            return False
        self._shown = time.monotonic()
        return True

    def redraw(self, summary: str, table: Callable[[], Table]) -> None:
        """Show the table in place of the last one; without a terminal the summary, as a line."""
        if self._live is None:
            console.err.print(Text(summary))
        else:
            self._live.update(table(), refresh=True)
