"""Processes that load batches; none of these can get lost unnoticed.

torch's DataLoader passes batches through files in /dev/shm and through a queue that a thread of each process
feeds. A thread that fails drops its batch, for example where a container's shared memory is full, and the
loader waits for ever. Here each process answers on a connection of its own, from its main thread, so that the
parent hears of every failure. Images are passed in memory that belongs to no file system (memfd), of which
there is as much as the machine has, and where the system refuses that, through the connection. The memory is
used again and again, since new pages can cost more than decoding.
"""

import logging
import mmap
import multiprocessing
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

import torch

from distracted.data.pixel_limit import pixel_limit
from distracted.data.worker_process import (
    AHEAD,
    ERROR,
    PIPED,
    Load,
    Parts,
    Task,
    as_socket,
    join,
    num_bytes,
    serve,
)
from distracted.errors import TrainingError, first_line

_log = logging.getLogger(__name__)

_LOOK = 1.0  # seconds between looks at a process that does not answer
_PATIENCE = 30  # looks at an idle process after which its batches are loaded here
_GRACE = 2.0  # seconds that processes get to end

_LIKELY = {
    "SIGKILL": "most likely the machine's or the container's memory ran out",
    "SIGBUS": "shared memory ran out, or a file of the cache was cut short",
    "SIGSEGV": "a library crashed, perhaps on a damaged image",
}


class Workers:
    """Processes that load batches, as many as the system lets start.

    Args:
        load: Called in the processes; in this one for a batch that no process delivers.
        count: Number of processes.
        pin_memory: Deliver batches in page-locked memory.
    """

    def __init__(self, load: Load, count: int, *, pin_memory: bool = False) -> None:
        self._load, self._pin_memory, self._owner = load, pin_memory, os.getpid()
        self._workers: list[_Worker] = []
        for number in range(count):
            try:
                self._workers.append(_Worker(load, pin_memory))
            except OSError as error:  # a limit on processes, open files or memory
                _log.warning("%d of %d processes decode images: %s", number, count, first_line(error))
                break

    def load(
        self, tasks: Sequence[Task], while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[Parts]:
        """Load consecutive batches of an epoch, in their order.

        Args:
            while_waiting: Called about every second of waiting; may raise, to give up.

        Raises:
            TrainingError: the last process was ended by the system.
            Exception: what `load` raised.
        """
        todo, ready = deque(tasks), dict[Task, Parts | Exception]()
        for task in tasks:
            while task not in ready:
                self._hand_out(todo, task)
                holders = [w for w in self._workers if task in w.tasks] or self._workers
                if all(worker.is_stuck for worker in holders):
                    ready[task] = self._load_here(task)
                    while_waiting()
                    timeout = 0.0
                else:
                    timeout = _LOOK
                arrived = wait([worker.pipe for worker in self._workers], timeout)
                for worker in [w for w in self._workers if w.pipe in arrived]:
                    self._take(worker, todo, ready, after=task)
                if not arrived and timeout:
                    while_waiting()
                    for worker in holders:
                        worker.look()
            answer = ready.pop(task)
            if isinstance(answer, Exception):
                try:
                    raise answer
                finally:
                    del answer  # else it and this frame would keep each other, and the processes, alive
            yield answer
        for worker in self._workers:
            if not worker.tasks:
                worker.release_memory()

    def _hand_out(self, todo: deque[Task], awaited: Task) -> None:
        """Give out tasks, so that no process waits and few batches lie ready."""
        while todo and self._workers and todo[0][1] < awaited[1] + AHEAD * len(self._workers):
            worker = min(self._workers, key=lambda worker: len(worker.tasks))
            if len(worker.tasks) == AHEAD or not worker.give(todo[0]):
                break
            todo.popleft()

    def _take(
        self, worker: "_Worker", todo: deque[Task], ready: dict[Task, Parts | Exception], *, after: Task
    ) -> None:
        """Receive an answer; answers of an epoch that was left early are dropped.

        Args:
            after: The task that is awaited; those before it are done.
        """
        try:
            task, answer = worker.receive()
        except EOFError:
            self._bury(worker)
            todo.extendleft(t for t in reversed(worker.tasks) if t[0] == after[0] and t[1] >= after[1])
            return
        except BaseException:  # a stop may come half-way
            self.end()
            raise
        if task[0] != after[0] or task[1] < after[1]:
            return
        ready[task] = self._load_here(task) if answer is None else answer

    def _load_here(self, task: Task) -> Parts:
        return join(self._load(task), pin_memory=self._pin_memory)

    def _bury(self, worker: "_Worker") -> None:
        self._workers.remove(worker)
        text = f"a process that decodes images was ended by the system ({worker.how_it_ended()})"
        if not self._workers:
            raise TrainingError(
                f"{text}; use fewer processes (SET='runtime.num_workers=2', or 0), and the same command "
                "continues"
            )
        _log.warning("%s; %d are left", text, len(self._workers))

    @property
    def are_left(self) -> bool:
        return bool(self._workers)

    def end(self) -> None:
        """End the processes."""
        if os.getpid() != self._owner:  # in a copy of the parent
            return
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.hang_up()
        deadline = time.monotonic() + _GRACE
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join(_GRACE)


class _Worker:
    """A process and this process's end of their connection.

    Attributes:
        tasks: Those that it has not answered yet.
    """

    def __init__(self, load: Load, pin_memory: bool) -> None:
        self.tasks: list[Task] = []
        self._pin_memory = pin_memory
        self._slots: dict[int, mmap.mmap] = {}
        self._looks, self._cpu_ticks = 0, -1
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(
            target=serve, args=(load, theirs, self.pipe, pixel_limit()), daemon=True, name="decoding"
        )
        try:
            self.process.start()
        finally:
            theirs.close()

    def give(self, task: Task) -> bool:
        """Hand over a task, in a message too short to block; False: the process has ended."""
        try:
            self.pipe.send(task)
        except OSError:
            return False
        self.tasks.append(task)
        return True

    def receive(self) -> tuple[Task, Parts | Exception | None]:
        """An answer that has arrived: a batch, an error, or None for a batch that this process cannot map.

        Raises:
            EOFError: the process has ended.
        """
        try:
            with as_socket(self.pipe) as connection:
                how, fds, _, _ = socket.recv_fds(connection, 1, 1)
            task, rest = self.pipe.recv()
            piped = bytearray(num_bytes(rest[1]) if how == PIPED else 0)
            if how == PIPED:
                self.pipe.recv_bytes_into(piped)
        except OSError as error:
            raise EOFError from error
        self.tasks.remove(task)
        self._looks = 0
        if how == ERROR:
            return task, rest
        slot, shapes, indices = rest
        if fds:
            self._slots.pop(slot, None)
            with suppress(OSError):  # too many open files, or no room
                self._slots[slot] = mmap.mmap(fds[0], 0)
            os.close(fds[0])
        source = piped if how == PIPED else self._slots.get(slot)
        if source is None:
            self.release_memory()
            return task, None
        pixels = torch.empty(num_bytes(shapes), dtype=torch.uint8, pin_memory=self._pin_memory)
        pixels.copy_(torch.frombuffer(source, dtype=torch.uint8, count=len(pixels)))
        return task, Parts(pixels, shapes, indices)

    def release_memory(self) -> None:
        """Let go of the memory in which batches come; the process takes new one for the next."""
        self._slots.clear()
        with suppress(OSError):
            self.pipe.send(None)

    def look(self) -> None:
        """Look what the process does, after a while without an answer."""
        state, cpu_ticks = _activity(self.process.pid)
        if cpu_ticks != self._cpu_ticks or state in "DR":  # it computes, or waits for a disk or a core
            self._cpu_ticks, self._looks = cpu_ticks, 0
            return
        self._looks += 1
        if self._looks == _PATIENCE:
            _log.warning(
                f"process {self.process.pid}, which decodes images, has done nothing for "
                f"{_PATIENCE * _LOOK:.0f} s (state {state}): this process decodes in its place"
            )

    @property
    def is_stuck(self) -> bool:
        return self._looks >= _PATIENCE

    def how_it_ended(self) -> str:
        self.process.join(_GRACE)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}: {_LIKELY[name]}" if name in _LIKELY else name

    def hang_up(self) -> None:
        """Shut down the connection, which other processes may have inherited; the process then ends."""
        with suppress(OSError), as_socket(self.pipe) as connection:
            connection.shutdown(socket.SHUT_RDWR)
        self.pipe.close()


def _activity(pid: int | None) -> tuple[str, int]:
    """State of a process, as `ps` shows it, and its CPU time in ticks; ("?", 0) where the system hides it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "?", 0
    return fields[0], int(fields[11]) + int(fields[12])
