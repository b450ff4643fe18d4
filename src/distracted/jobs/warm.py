"""Starts jobs as forks of a process that has imported torch and the like already: seconds less for each.

The process that forks is a Python of its own, since a command's own process has threads. It imports what
jobs need, starts no thread and uses no GPU. A job is a script with its arguments, as if Python were started
with them; it ends as Python ends, and the forking process reports its exit code.
"""

import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Protocol

from distracted.imports import importing

#: What the scripts of jobs import.
_MODULES = ("distracted.jobs.begun", "distracted.jobs.fold", "sklearn.linear_model")
_LOOK = 0.1  # seconds between looks at the forks
#: Signals that a terminal or a batch system sends to all processes of a command.
_TO_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Process(Protocol):
    """A job's process, as of `subprocess.Popen`."""

    def poll(self) -> int | None:
        """Its exit code, minus the number of a signal; None while it runs."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM."""
        ...


class WarmStart:
    """Starts scripts, here on Linux.

    Args:
        environment: Variables that libraries read when they are imported.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._ours, theirs = Pipe()
        with theirs:
            call = f"fork_at_requests({theirs.fileno()}, sys, os.environ)"
            code = f"import os, sys; from {__name__} import fork_at_requests; {call}"
            assigned = [f"{name}={value}" for name, value in environment.items()]
            self._server = subprocess.Popen(
                ["env", *assigned, sys.executable, "-c", code], pass_fds=[theirs.fileno()]
            )
        self._number = 0
        self._codes: dict[int, int] = {}

    def start(self, script: Sequence[str], log: Path, environment: Mapping[str, str]) -> "_Forked":
        """Start a script with its arguments.

        Args:
            log: Gets all of its output, after what is there.
            environment: Further variables; the others are those of the forking process.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        log.open("ab").close()  # what is wrong with it is told here, not in the fork
        self._number += 1
        self._send("start", self._number, [*script], str(log), dict(environment))
        return _Forked(self, self._number)

    @property
    def is_alive(self) -> bool:
        return self._server.poll() is None

    def close(self) -> None:
        """End the forking process; its forks have ended, or are not waited for."""
        self._ours.close()
        self._server.wait()

    def code(self, number: int) -> int | None:
        """The exit code of a fork, or None; if the forking process was killed, the forks stop."""
        with suppress(EOFError, OSError):
            while self._ours.poll():
                self._codes.update([self._ours.recv()])
            return self._codes.get(number)
        return self._codes.get(number, -signal.SIGKILL)

    def stop(self, number: int) -> None:
        self._send("stop", number)

    def _send(self, *message: Any) -> None:
        with suppress(OSError):  # the forking process is gone; `code` tells
            self._ours.send(message)


class _Forked:
    def __init__(self, source: WarmStart, number: int) -> None:
        self._source, self._number = source, number

    def poll(self) -> int | None:
        return self._source.code(self._number)

    def terminate(self) -> None:
        self._source.stop(self._number)


def _serve(requests: Connection) -> tuple[list[str], str, dict[str, str]] | None:
    """Fork at each request; returns it in the fork. None: there is nobody any more who would ask."""
    running = dict[int, int]()  # by process, its number
    while True:
        try:
            while requests.poll(_LOOK if running else None):
                kind, number, *request = requests.recv()
                if kind == "start":
                    try:
                        pid = _fork()
                    except OSError as error:  # too many processes, or too little memory: this job alone fails
                        with Path(request[1]).open("a") as log:
                            log.write(f"error: no process can be started: {error.strerror}\n")
                        requests.send((number, 1))
                        continue
                    if not pid:
                        return request[0], request[1], request[2]
                    running[pid] = number
                for pid in [pid for pid, of in running.items() if of == number and kind == "stop"]:
                    os.kill(pid, signal.SIGTERM)  # it is not waited for yet: the number is still its own
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    requests.send((running.pop(pid), os.waitstatus_to_exitcode(status)))
        except (EOFError, OSError):
            return None


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # BLAS has threads, and is ready for forks
        return os.fork()


def fork_at_requests(file: int, python: Any, environ: MutableMapping[str, str]) -> None:
    """The forking process from its start, and each fork to its end; requests come by an open connection.

    Args:
        python: The module `sys`, whose arguments become the script's; environ: gets the script's variables.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    with importing():  # and a fork's collector leaves alone what all share
        for name in _MODULES:
            import_module(name)
    with Connection(file) as requests:
        request = _serve(requests)
    if request is None:
        return
    script, log, environment = request
    environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    python.argv, python.path[0] = script, str(Path(script[0]).parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TO_ALL)
    runpy.run_path(script[0], run_name="__main__")
