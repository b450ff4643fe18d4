"""One of the processes that load batches, as the parent sees it: its tasks, its answers, whether it lives."""

import logging
import mmap
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from distracted.data.pixel_limit import pixel_limit
from distracted.data.worker_process import (
    ERROR,
    HEAD,
    NEW,
    PIPED,
    Load,
    Parts,
    Task,
    as_socket,
    num_bytes,
    serve,
)

_log = logging.getLogger(__name__)

#: A task's outcome: a batch, an error, or None for a batch that this process cannot map.
Answer = tuple[Task, Parts | Exception | None]

#: Seconds between looks at a process that does not answer.
LOOK = 1.0
#: Looks at an idle process after which its batches are loaded by the parent.
PATIENCE = 30
#: Seconds that a process gets to end by itself.
GRACE = 2.0
#: Seconds that the system gets to end a process: on a busy machine, freeing its memory takes a while.
REAPED = 10.0

_LIKELY = {
    "SIGKILL": "most likely the machine's or the container's memory ran out",
    "SIGBUS": "shared memory ran out, or a file of the cache was cut short",
    "SIGSEGV": "a library crashed, perhaps on a damaged image",
}


class Worker:
    """A process and this process's end of their connection.

    Attributes:
        tasks: Those that it has not answered yet.
    """

    def __init__(self, load: Load, pin_memory: bool) -> None:
        self.tasks: list[Task] = []
        self._pin_memory = pin_memory
        self._slots: dict[int, mmap.mmap] = {}
        self._answers = self._read()
        self._looks, self._cpu_time = 0, ""
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
        self.tasks.append(task)  # first: a stop may come in between
        try:
            self.pipe.send(task)
        except OSError:
            self.tasks.pop()
            return False
        return True

    def receive(self) -> Answer | None:
        """Read what has arrived; returns an answer once all of it has.

        Raises:
            EOFError: the process has ended.
        """
        try:
            answer = next(self._answers)
        except OSError as error:
            raise EOFError from error
        self._looks = 0
        if answer is not None:
            self.tasks.remove(answer[0])
        return answer

    def _read(self) -> Generator[Answer | None, None, None]:
        """The answers; None wherever the rest has not arrived: the process may be stopped in the middle."""
        while True:
            yield (yield from self._read_answer())

    def _read_answer(self) -> Generator[None, None, Answer]:
        with as_socket(self.pipe) as connection:
            head, fds, _, _ = socket.recv_fds(connection, HEAD.size, 1)
        if not head:
            raise EOFError
        memory = _map(fds)
        how, length = HEAD.unpack(head)
        message = bytearray(length)
        yield from self._fill(message)
        task, rest = pickle.loads(message)
        if how == ERROR:
            return task, rest
        slot, shapes, indices = rest
        if how == NEW:
            self._slots.pop(slot, None)
            if memory is not None:  # the system drops what finds too many files open here
                self._slots[slot] = memory
        if how != PIPED and slot not in self._slots:
            self._slots.clear()
            self._tell(PIPED)  # from now on
            return task, None
        pixels = torch.empty(num_bytes(shapes), dtype=torch.uint8, pin_memory=self._pin_memory)
        if how == PIPED:
            yield from self._fill(pixels.numpy().data)
        else:
            pixels.copy_(torch.frombuffer(self._slots[slot], dtype=torch.uint8, count=len(pixels)))
        return task, Parts(pixels, shapes, indices)

    def _fill(self, buffer: bytearray | memoryview) -> Iterator[None]:
        """Fill a buffer from the connection, as its bytes arrive."""
        rest = memoryview(buffer)
        while rest:
            try:
                with as_socket(self.pipe) as connection:
                    count = connection.recv_into(rest, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                yield
                continue
            if not count:
                raise EOFError
            rest = rest[count:]

    def release_memory(self) -> None:
        """Let go of the memory in which batches come; the process takes new one for the next."""
        self._slots.clear()
        self._tell(None)

    def _tell(self, message: bytes | None) -> None:
        with suppress(OSError):  # the process has ended
            self.pipe.send(message)

    def look(self) -> None:
        """Look what the process does, after a while without an answer."""
        state, cpu_time = activity(self.process.pid)
        waits = state in "DRU"  # for a disk (U: on macOS) or a core
        if waits or cpu_time != self._cpu_time:
            self._cpu_time, self._looks = cpu_time, 0
            return
        self._looks += 1
        if self._looks == PATIENCE:
            _log.warning(
                f"process {self.process.pid}, which decodes images, has done nothing for "
                f"{PATIENCE * LOOK:.0f} s (state {state}): this process decodes in its place"
            )

    @property
    def is_stuck(self) -> bool:
        return self._looks >= PATIENCE

    def how_it_ended(self) -> str:
        self.process.join(REAPED)
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
        self._slots.clear()
        self._answers.close()  # it refers to this object, which would else stay until Python looks for cycles


def _map(fds: list[int]) -> mmap.mmap | None:
    """The memory behind a file descriptor that was received, and is closed; None: there is none."""
    memory = None
    for fd in fds:
        with suppress(OSError):  # too many open files, or no room
            memory = mmap.mmap(fd, 0)
        os.close(fd)
    return memory


def activity(pid: int | None) -> tuple[str, str]:
    """State of a process, as `ps` shows it, and its CPU time; ("?", "") where the system hides them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], f"{fields[11]} {fields[12]}"
    except OSError:
        return activity_by_ps(pid)


def activity_by_ps(pid: int | None) -> tuple[str, str]:
    """`activity` where there is no /proc, such as on macOS."""
    with suppress(OSError):
        command = ["ps", "-o", "state=,time=", "-p", str(pid)]
        shown = subprocess.run(command, capture_output=True, text=True).stdout.split()
        if len(shown) == 2:
            return shown[0][:1], shown[1]
    return "?", ""
