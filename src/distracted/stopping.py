"""Stopping: a signal or a time limit asks, and the work ends at a point from which it can go on."""

from collections.abc import Iterator
from contextlib import contextmanager

#: The exit code of a command that was stopped and goes on when it is called again: EX_TEMPFAIL of sysexits.h.
RESUMABLE = 75


class Stopped(BaseException):
    """Work ended early by request; the same command goes on from there.

    Like KeyboardInterrupt it is no `Exception`: nothing is wrong, and code that carries on past errors must
    not catch it.
    """


class Stop:
    """Whether work was asked to stop, and why; a signal handler may ask at any time.

    Outside of `waiting` a request interrupts at once, as Ctrl-C does: files are written whole or not at all.

    Attributes:
        reason: Why to stop; "" if nobody asked.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._waits = False

    def ask(self, reason: str) -> None:
        """Ask to stop.

        Raises:
            Stopped: outside of `waiting`.
        """
        self.reason = self.reason or reason
        if not self._waits:
            self.check()

    def check(self) -> None:
        """Raise Stopped if a stop was asked for."""
        if self.reason:
            raise Stopped(self.reason)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within this block a request does not interrupt: the block checks `reason` and saves first."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
