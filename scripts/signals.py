"""What asks a command to stop: SIGTERM, Ctrl-C, the time limit, the end of the terminal or the parent."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from distracted.errors import ConfigError
from distracted.locks import born_at, is_alive
from distracted.stopping import Stop, Stopped
from terminal import out

#: Asked by the signals below.
stop = Stop()
#: Set while a live table, or another process of the command, shows a stop.
live = threading.Event()
_SIGNALS = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGINT: "Ctrl-C",
    signal.SIGHUP: "the terminal has gone",
    signal.SIGALRM: "the time limit",
}
_LONGEST = 10**8  # seconds of a time limit
_MOST_HOURS = 10_000.0  # of HOURS=


@contextmanager
def stops_first() -> Iterator[None]:
    """Raise the stop again that another error took the place of, as a library's clean-up may fail on it."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Stopped):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None


@contextmanager
def listening() -> Iterator[None]:
    """Within this block a signal or the time limit asks to stop; a second Ctrl-C exits at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        name = _SIGNALS[signal.Signals(number)]
        if not (live.is_set() or out.quiet):
            with suppress(OSError):  # Ctrl-C has ended the reader, too
                os.write(2, f"{name}: stopping at the next good moment; Ctrl-C leaves at once\n".encode())
        stop.ask(name)

    stop.reason = ""
    asking = set(_SIGNALS)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup
        asking.remove(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in asking}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def limit_time(text: str) -> None:
    """Ask to stop after TIME_LIMIT, such as 8h30m; "" is no limit."""
    if seconds := time_limit(text):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def time_limit(text: str) -> int:
    """TIME_LIMIT in seconds; 0 is none."""
    if not text:
        return 0
    seconds = in_seconds(text)
    if not 0 < seconds <= 3600 * _MOST_HOURS:
        raise ConfigError(f"TIME_LIMIT={text!r}: expected hours, minutes, seconds, such as 8h30m or 90s")
    return seconds


def in_seconds(text: str) -> int:
    """A time such as 8h30m or 90s in seconds; 0 if it is none."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    parts = match.groups() if match else (0, 0, 0)
    return sum(int(part or 0) * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))


def hours_in_seconds(text: str) -> float:
    """HOURS= in seconds: a number of hours, or hours and minutes as in TIME_LIMIT.

    Raises:
        ConfigError: neither, or not above 0.
    """
    try:
        seconds = 3600 * float(text)
    except ValueError:
        seconds = float(in_seconds(text.strip()))
    if not 0 < seconds <= _LONGEST:
        raise ConfigError(
            f"HOURS={text!r}: expected a time above 0: hours such as 8 or 1.5, or 1h30m, or 45m"
        )
    return seconds


def stop_with(command: int) -> None:
    """Ask to stop when a command has ended, or the process that started this one; 0: no command."""
    born, parent = born_at(command), os.getppid()

    def look() -> None:
        while os.getppid() == parent and is_alive(command, born):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if command:
        threading.Thread(target=look, daemon=True, name="parent").start()
