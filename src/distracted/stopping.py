"""Stop cleanly after a signal or a time limit, so that the same command can continue later."""

from collections.abc import Iterator
from contextlib import contextmanager

#: Exit code of a stopped command that continues when it is run again (EX_TEMPFAIL of sysexits.h).
RESUMABLE = 75


class Stopped(BaseException):
    """Work ended early on request; the same command continues it.

    Like KeyboardInterrupt it is no `Exception`, so that code which tolerates errors does not swallow it.
    """


class Stop:
    """A request to stop; a signal handler may make it at any moment.

    Outside of a `waiting` block a request raises at once, as Ctrl-C does: files are written atomically.

    Attributes:
        reason: Why to stop; "" until a stop is requested.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._is_waiting = False

    def ask(self, reason: str) -> None:
        """Request a stop.

        Raises:
            Stopped: outside of a `waiting` block.
        """
        self.reason = self.reason or reason
        if not self._is_waiting:
            self.check()

    def check(self) -> None:
        """Raise Stopped if a stop was requested."""
        if self.reason:
            raise Stopped(self.reason)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In this block requests do not raise: the block polls `reason`, saves its work and calls `check`."""
        before, self._is_waiting = self._is_waiting, True
        try:
            yield
        finally:
            self._is_waiting = before
