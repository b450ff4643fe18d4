"""Runs work in a process of its own: what it leaves on the card, or breaks, does not reach the next part."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from distracted.errors import DistractedError, first_line
from gpu_parts.rows import Row, judged

# A server that has imported torch, and never touches a card, forks the processes. Metal bears no fork.
_CONTEXT = multiprocessing.get_context("spawn" if sys.platform == "darwin" else "forkserver")
_CONTEXT.set_forkserver_preload(["distracted.jobs.fold", "distracted.inference.device_views"])


class Apart:
    """A function that runs in another process; its results arrive one by one.

    Args:
        function: Picklable, as are its arguments; returns an iterable.
    """

    def __init__(self, function: Callable[..., Iterable[Any]], *arguments: Any) -> None:
        self._pipe, theirs = _CONTEXT.Pipe(duplex=False)
        process_of: Any = _CONTEXT.Process  # type: ignore[attr-defined]
        self._process = process_of(target=_work, args=(theirs, function, arguments))
        self._process.start()
        theirs.close()

    def results(self, seconds: float) -> Iterator[Any]:
        """What it yields.

        Raises:
            DistractedError: it failed, was ended by a signal, or took longer; says how.
        """
        deadline = time.monotonic() + seconds
        try:
            while True:
                if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
                    raise DistractedError(f"it took longer than {seconds:.0f} seconds and was ended")
                try:
                    kind, value = self._pipe.recv()
                except EOFError:
                    self._process.join()
                    raise DistractedError(f"its process ended with {_how(self._process.exitcode)}") from None
                if kind == "failed":
                    raise DistractedError(value)
                if kind == "done":
                    return
                yield value
        finally:
            self.end()

    def end(self) -> None:
        """End the process and those that it started."""
        self._process.join(0.5)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _work(pipe: Connection, function: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)  # a group, so that all that it starts can be ended with it
    logging.getLogger("distracted").addHandler(logging.NullHandler())  # rows tell what matters
    try:
        for result in function(*arguments):
            pipe.send(("result", result))
        pipe.send(("done", None))
    except Exception as error:
        logging.getLogger(__name__).exception("a part of gpu-check failed")
        pipe.send(("failed", f"{type(error).__name__}: {first_line(error)}"))


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def rows_apart(part: Callable[..., Iterable[Row]], *arguments: Any, seconds: float) -> Iterator[Row]:
    """A part's rows from a process of its own; a failure is a row, too."""
    try:
        yield from Apart(part, *arguments).results(seconds)
    except DistractedError as error:
        yield judged("the part itself", str(error), "runs to its end", False)
