"""Processes that load batches; none of these can get lost unnoticed.

torch's DataLoader passes batches through files in /dev/shm and through a queue that a thread of each process
feeds. A thread that fails drops its batch, for example where a container's shared memory is full, and the
loader waits for ever. Here each process answers on a connection of its own, from its main thread, so that the
parent hears of every failure. Images are passed in memory that belongs to no file system (memfd), of which
there is as much as the machine has, and where the system refuses that, through the connection. The memory is
used again and again, since new pages can cost more than decoding.
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from multiprocessing.connection import wait

from distracted.data import worker_connection
from distracted.data.worker_connection import Worker
from distracted.data.worker_process import AHEAD, Load, Parts, Task, join
from distracted.errors import TrainingError, first_line

_log = logging.getLogger(__name__)


class Workers:
    """Processes that load batches, as many as the system lets start.

    Args:
        load: Called in the processes; in this one for a batch that no process delivers.
        count: Number of processes.
        pin_memory: Deliver batches in page-locked memory.
    """

    def __init__(self, load: Load, count: int, *, pin_memory: bool = False) -> None:
        self._load, self._pin_memory = load, pin_memory
        self._workers: list[Worker] = []
        if count and multiprocessing.current_process().daemon:
            _log.warning("this process is a daemon, which may start no others: it decodes images itself")
            count = 0
        for number in range(count):
            try:
                self._workers.append(Worker(load, pin_memory))
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
            TrainingError: the last process was ended by what would end this one, too.
            Exception: what `load` raised.
        """
        todo, ready = list(tasks), dict[Task, Parts | Exception]()  # a heap: the first task is the least
        for task in tasks:
            while task not in ready:
                self._hand_out(todo, task)
                holders = [w for w in self._workers if task in w.tasks] or self._workers
                if all(worker.is_stuck for worker in holders):
                    ready[task] = self._load_here(task)
                    while_waiting()
                    timeout = 0.0
                else:
                    timeout = worker_connection.LOOK
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

    def _hand_out(self, todo: list[Task], awaited: Task) -> None:
        """Give out tasks, so that no process waits and few batches lie ready."""
        while todo and self._workers and todo[0][1] < awaited[1] + AHEAD * len(self._workers):
            worker = min(self._workers, key=lambda worker: len(worker.tasks))
            if len(worker.tasks) == AHEAD or not worker.give(todo[0]):
                break
            heappop(todo)

    def _take(
        self, worker: Worker, todo: list[Task], ready: dict[Task, Parts | Exception], *, after: Task
    ) -> None:
        """Receive what has arrived of an answer; answers of an epoch that was left early are dropped.

        Args:
            after: The task that is awaited; those before it are done.
        """
        try:
            received = worker.receive()
        except EOFError:
            self._bury(worker)
            for task in worker.tasks:
                if task[0] == after[0] and task[1] >= after[1]:
                    heappush(todo, task)
            return
        except BaseException:  # a stop may come half-way
            self.end()
            raise
        if received is None:
            return
        task, answer = received
        if task[0] != after[0] or task[1] < after[1]:
            return
        ready[task] = self._load_here(task) if answer is None else answer

    def _load_here(self, task: Task) -> Parts:
        return join(self._load(task), pin_memory=self._pin_memory)

    def _bury(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.hang_up()
        text = f"a process that decodes images was ended by the system ({worker.how_it_ended()})"
        if not self._workers and worker.process.exitcode == -signal.SIGKILL:
            _log.warning("%s; none is left: this process decodes until the epoch ends", text)
            return
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
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.hang_up()
        deadline = time.monotonic() + worker_connection.GRACE
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join(worker_connection.REAPED)
