"""Stopping in time: a signal or a time limit asks, and work ends where it can go on later."""

from collections.abc import Iterator
from contextlib import contextmanager

#: The exit code of a command that was stopped and goes on when it is called again: EX_TEMPFAIL of sysexits.h.
RESUMABLE = 75


class Stopped(BaseException):
    """Work ended early because it was asked to; the same command goes on from where it is.

    As KeyboardInterrupt no `Exception`: nothing is wrong, and nothing that carries on past errors catches it.
    """


class Stop:
    """Whether work was asked to stop, and why; a signal handler may ask at any moment.

    Outside of `waiting` asking interrupts at once, as Ctrl-C does: files are written whole or not at all.

    Attributes:
        reason: "" as long as nobody asked.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._waits = False

    def ask(self, reason: str) -> None:
        """Ask to stop.

        Raises:
            Stopped: nobody waits for a good moment.
        """
        self.reason = self.reason or reason
        if not self._waits:
            self.check()

    def check(self) -> None:
        """Raise Stopped where it was asked for."""
        if self.reason:
            raise Stopped(self.reason)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within this block nobody is interrupted: it asks for `reason` itself, and saves its work first."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
