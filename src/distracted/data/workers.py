"""Processes that load batches; none of these can get lost unnoticed.

torch's DataLoader passes batches through files in /dev/shm and through a queue that a thread of each process
feeds. A thread that fails drops its batch, for example where a container's shared memory is full, and the
loader waits for ever. Here each process answers on a connection of its own, from its main thread, so that the
parent hears of every failure. Images are passed in memory that belongs to no file system (memfd), of which
there is as much as the machine has, and where the system refuses that, through the connection. The memory is
used again and again, since new pages can cost more than decoding.
"""

import itertools
import logging
import math
import mmap
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.images import Image
from distracted.data.pixel_limit import limit_pixels, pixel_limit
from distracted.errors import DistractedError, TrainingError, first_line

_log = logging.getLogger(__name__)

_LOOK = 1.0  # seconds between looks at a process that does not answer
_PATIENCE = 30  # looks at an idle process after which its batches are loaded here
_ORPHAN = 5.0  # seconds between looks of a process at its parent
_GRACE = 2.0  # seconds that processes get to end

# How an answer comes: the first byte of each.
_MAPPED, _PIPED, _ERROR = b"m", b"p", b"e"

_LIKELY = {
    "SIGKILL": "most likely the machine's or the container's memory ran out",
    "SIGBUS": "shared memory ran out, or a file of the cache was cut short",
    "SIGSEGV": "a library crashed, perhaps on a damaged image",
}

#: Batches that each process may have in hand or ready.
AHEAD = 2
#: One batch: (epoch, number of the batch).
Task = tuple[int, int]
#: Loads a batch's images, each with its position in the pictures.
Load = Callable[[Task], list[tuple[int, Image]]]


class Parts(NamedTuple):
    """A loaded batch.

    Attributes:
        pixels: uint8, all bytes of one image after those of another, in one dimension.
        shapes: Of each image.
        indices: Position of each image in the pictures.
    """

    pixels: torch.Tensor
    shapes: list[tuple[int, ...]]
    indices: list[int]


def join(items: list[tuple[int, Image]], *, pin_memory: bool = False) -> Parts:
    """Copy a batch's images into one piece of memory, page-locked on demand."""
    shapes, indices = _describe(items)
    pixels = torch.empty(_size(shapes), dtype=torch.uint8, pin_memory=pin_memory)
    _fill(pixels.numpy(), items)
    return Parts(pixels, shapes, indices)


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
            target=_serve, args=(load, theirs, self.pipe, pixel_limit()), daemon=True, name="decoding"
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
            with _as_socket(self.pipe) as connection:
                how, fds, _, _ = socket.recv_fds(connection, 1, 1)
            task, rest = self.pipe.recv()
            piped = bytearray(_size(rest[1]) if how == _PIPED else 0)
            if how == _PIPED:
                self.pipe.recv_bytes_into(piped)
        except OSError as error:
            raise EOFError from error
        self.tasks.remove(task)
        self._looks = 0
        if how == _ERROR:
            return task, rest
        slot, shapes, indices = rest
        if fds:
            self._slots.pop(slot, None)
            with suppress(OSError):  # too many open files, or no room
                self._slots[slot] = mmap.mmap(fds[0], 0)
            os.close(fds[0])
        source = piped if how == _PIPED else self._slots.get(slot)
        if source is None:
            self.release_memory()
            return task, None
        pixels = torch.empty(_size(shapes), dtype=torch.uint8, pin_memory=self._pin_memory)
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
        with suppress(OSError), _as_socket(self.pipe) as connection:
            connection.shutdown(socket.SHUT_RDWR)
        self.pipe.close()


def _serve(
    load: Load, pipe: "Connection[Any, Any]", parents_end: "Connection[Any, Any]", megapixels: float
) -> None:
    """Answer tasks until the parent hangs up or is gone."""
    parents_end.close()
    limit_pixels(megapixels)  # a process that was not forked has the default
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # the processes are the parallelism
    for number in (signal.SIGINT, signal.SIGTERM):  # they may reach the whole group of processes, whose
        signal.signal(number, signal.SIG_IGN)  # parent goes on to the next good moment and ends the workers
    parent, slots = os.getppid(), itertools.cycle(range(AHEAD))
    memory: dict[int, _Memory] = {}
    with suppress(EOFError, OSError):
        while True:
            while not pipe.poll(_ORPHAN):
                if os.getppid() != parent:
                    return
            task = pipe.recv()
            if task is None:
                memory.clear()
            else:
                _answer(pipe, task, load, memory, next(slots))


class _Memory:
    """Memory that another process can map by its file descriptor; of size 0 if there is none to be had.

    Attributes:
        is_sent: Whether the parent has been sent the file descriptor.
    """

    def __init__(self, size: int) -> None:
        self.pixels = np.empty(0, np.uint8)
        self.fd, self.is_sent = -1, False
        if sys.platform != "linux":
            return
        with suppress(OSError):  # a limit on memory, open files or file sizes, or forbidden
            self.fd = os.memfd_create("batch")
            os.posix_fallocate(self.fd, 0, size)  # fails now, where a later write would end the process
            self.pixels = np.frombuffer(mmap.mmap(self.fd, size), np.uint8)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _answer(
    pipe: "Connection[Any, Any]", task: Task, load: Load, memory: dict[int, _Memory], slot: int
) -> None:
    """Load a batch and send it.

    Args:
        slot: Which memory to use. The parent has copied what was there: it has received the answer before the
            last one, without which it would not have sent this task.
    """
    try:
        items = load(task)
        shapes, indices = _describe(items)
        size = _size(shapes)
        if slot not in memory or len(memory[slot].pixels) < size:
            memory.pop(slot, None)
            memory[slot] = _Memory(size + size // 8)  # batches may differ in size
        shared = memory[slot]
        pixels = shared.pixels[:size] if len(shared.pixels) else np.empty(size, np.uint8)
        _fill(pixels, items)
    except Exception as error:
        _send_byte(pipe, _ERROR)
        pipe.send((task, _portable(error)))
        return
    fds = [] if shared.is_sent else [shared.fd]
    shared.is_sent = bool(len(shared.pixels)) and _send_byte(pipe, _MAPPED, fds)
    if not shared.is_sent:
        _send_byte(pipe, _PIPED)
    pipe.send((task, (slot, shapes, indices)))
    if not shared.is_sent:
        pipe.send_bytes(pixels.data)


def _describe(items: list[tuple[int, Image]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Shape of each image, and its position in the pictures."""
    return [image.shape for _, image in items], [index for index, _ in items]


def _size(shapes: list[tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes))


def _fill(pixels: NDArray[np.uint8], items: list[tuple[int, Image]]) -> None:
    start = 0
    for _, image in items:
        assert image.dtype == np.uint8
        pixels[start : start + image.size].reshape(image.shape)[...] = image
        start += image.size


@contextmanager
def _as_socket(pipe: "Connection[Any, Any]") -> Iterator[socket.socket]:
    """A connection as the socket that it is, without another file descriptor."""
    connection = socket.socket(fileno=pipe.fileno())
    try:
        connection.settimeout(None)  # whatever the default of this process
        yield connection
    finally:
        connection.detach()


def _send_byte(pipe: "Connection[Any, Any]", byte: bytes, fds: Sequence[int] = ()) -> bool:
    """Send one byte, with file descriptors; False: the system does not pass these on."""
    try:
        with _as_socket(pipe) as connection:
            socket.send_fds(connection, [byte], fds)
    except OSError:
        if not fds:
            raise
        return False
    return True


def _portable(error: Exception) -> Exception:
    """The error as the parent can receive it; one that nobody expects with its traceback."""
    if isinstance(error, MemoryError):
        return TrainingError(
            "a process that decodes images ran out of memory; use fewer processes "
            "(SET='runtime.num_workers=2', or 0), and the same command continues"
        )
    trace = traceback.format_exc()
    if not isinstance(error, DistractedError):
        error.add_note(f"In a process that decodes images:\n{trace}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(trace)
    return error


def _activity(pid: int | None) -> tuple[str, int]:
    """State of a process, as `ps` shows it, and its CPU time in ticks; ("?", 0) where the system hides it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "?", 0
    return fields[0], int(fields[11]) + int(fields[12])
