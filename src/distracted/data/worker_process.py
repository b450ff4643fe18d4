"""What a process that loads batches does, and how its answers travel.

An answer is a head, which says how it comes, a pickled message, and for a batch without shared memory its
pixels. A file descriptor that travels with the head belongs to memory that the parent maps; later batches
come in the same memory.
"""

import itertools
import math
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.images import Image
from distracted.data.pixel_limit import limit_pixels
from distracted.errors import DistractedError, TrainingError
from distracted.files import create_memory_file

#: Batches that a process may have in hand or ready.
AHEAD = 2
#: How an answer comes: a batch in new or in known shared memory, or in the connection; an error.
NEW, MAPPED, PIPED, ERROR = b"n", b"m", b"p", b"e"
#: An answer's head: how it comes, and the length of its message.
HEAD = struct.Struct("!cQ")

_ORPHAN = 5.0  # seconds between looks at the parent

#: One batch: (epoch, number of the batch).
Task = tuple[int, int]
#: A batch's images, each with its position in the pictures.
Items = list[tuple[int, Image]]
Load = Callable[[Task], Items]


class Parts(NamedTuple):
    """A loaded batch.

    Attributes:
        pixels: uint8, all bytes of one image after those of another, in one dimension.
        shapes: Shape of each image.
        indices: Position of each image in the pictures.
    """

    pixels: torch.Tensor
    shapes: list[tuple[int, ...]]
    indices: list[int]


def join(items: Items, *, pin_memory: bool = False) -> Parts:
    """Copy a batch's images into one piece of memory, page-locked on demand."""
    shapes, indices = _describe(items)
    pixels = torch.empty(num_bytes(shapes), dtype=torch.uint8, pin_memory=pin_memory)
    _fill(pixels.numpy(), items)
    return Parts(pixels, shapes, indices)


def serve(
    load: Load, pipe: "Connection[Any, Any]", parents_end: "Connection[Any, Any]", megapixels: float
) -> None:
    """Answer tasks until the parent hangs up or is gone."""
    parents_end.close()
    limit_pixels(megapixels)  # a process that was not forked has the default
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # the processes are the parallelism
    # These may reach a whole group of processes, whose parent goes on to the next good moment
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent, slots = os.getppid(), itertools.cycle(range(AHEAD))
    memory: dict[int, _Memory] | None = {}
    with suppress(EOFError, OSError):
        while True:
            while not pipe.poll(_ORPHAN):
                if os.getppid() != parent:
                    return
            task = pipe.recv()
            if task is None:  # an epoch is over
                memory = None if memory is None else {}
            elif task == PIPED:  # the parent cannot map the memory
                memory = None
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
            self.fd = create_memory_file("batch")
            os.posix_fallocate(self.fd, 0, size)  # fails now, where a later write would end the process
            self.pixels = np.frombuffer(mmap.mmap(self.fd, size), np.uint8)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _answer(
    pipe: "Connection[Any, Any]", task: Task, load: Load, memory: dict[int, _Memory] | None, slot: int
) -> None:
    """Load a batch and send it.

    Args:
        memory: The pieces in use, by slot; None: none may be used.
        slot: Which memory to use. The parent has copied what was there: it has received the answer before the
            last one, without which it would not have sent this task.
    """
    try:
        items = load(task)
        shapes, indices = _describe(items)
        size = num_bytes(shapes)
        shared = _piece(memory, slot, size)
        pixels = np.empty(size, np.uint8) if shared is None else shared.pixels[:size]
        _fill(pixels, items)
    except Exception as error:
        _send(pipe, ERROR, (task, _portable(error)))
        return
    message = task, (slot, shapes, indices)
    if shared is not None:
        how, fds = (MAPPED, []) if shared.is_sent else (NEW, [shared.fd])
        with suppress(OSError):  # the system passes no file descriptors on
            _send(pipe, how, message, fds=fds)
            shared.is_sent = True
            return
    _send(pipe, PIPED, message, pixels=pixels.data)


def _piece(memory: dict[int, _Memory] | None, slot: int, size: int) -> _Memory | None:
    """A slot's memory, new where that is too small for a batch; None if there is none to be had."""
    if memory is None:
        return None
    if slot not in memory or len(memory[slot].pixels) < size:
        memory.pop(slot, None)
        memory[slot] = _Memory(size + size // 8)  # batches may differ in size
    return memory[slot] if len(memory[slot].pixels) else None


def _send(
    pipe: "Connection[Any, Any]",
    how: bytes,
    message: object,
    *,
    pixels: "bytes | memoryview[Any]" = b"",
    fds: Sequence[int] = (),
) -> None:
    text = pickle.dumps(message)
    with as_socket(pipe) as connection:
        socket.send_fds(connection, [HEAD.pack(how, len(text))], fds)
        connection.sendall(text)
        connection.sendall(pixels)


def _describe(items: Items) -> tuple[list[tuple[int, ...]], list[int]]:
    """Shape of each image, and its position in the pictures."""
    return [image.shape for _, image in items], [index for index, _ in items]


def num_bytes(shapes: list[tuple[int, ...]]) -> int:
    """Bytes of all images of these shapes."""
    return sum(map(math.prod, shapes))


def _fill(pixels: NDArray[np.uint8], items: Items) -> None:
    start = 0
    for _, image in items:
        assert image.dtype == np.uint8
        pixels[start : start + image.size].reshape(image.shape)[...] = image
        start += image.size


@contextmanager
def as_socket(pipe: "Connection[Any, Any]") -> Iterator[socket.socket]:
    """A connection as the socket that it is, without another file descriptor."""
    connection = socket.socket(fileno=pipe.fileno())
    try:
        connection.settimeout(None)  # whatever the default of this process
        yield connection
    finally:
        connection.detach()


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
