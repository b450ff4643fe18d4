"""Batches from worker processes are those of this process, whatever happens to the processes.

Shared memory of any size, exhausted limits, killed, stuck, stopped and slow processes: the batches are
complete and the same, or an error says what happened.
"""

import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distracted import files
from distracted.data import worker_connection, worker_process
from distracted.data.loading import Loader
from distracted.data.worker_process import Items, Load, Task, join
from distracted.data.workers import Workers
from distracted.errors import ImageError, TrainingError
from distracted.paths import CONFIGS
from distracted.stopping import Stopped

pytestmark = pytest.mark.skipif(
    multiprocessing.get_context().get_start_method() != "fork",
    reason="a process that is not forked cannot take over functions of a test",
)
SOURCES = CONFIGS.parent / "src"
PARENT = os.getpid()
TASKS = [(3, number) for number in range(12)]


def items_of(task: Task) -> Items:
    """A batch of images of different shapes, up to 100 kB."""
    rng = np.random.default_rng(task)
    sizes = rng.integers(1, 130, (2 + task[1] % 3, 2))
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8)[:, ::-1] for size in sizes]
    return [(10 * task[1] + number, image) for number, image in enumerate(images)]


def before_each(act: Callable[[Task], object]) -> Load:
    """A function that loads batches and first does something, in worker processes alone."""

    def load(task: Task) -> Items:
        if os.getpid() != PARENT:
            act(task)
        return items_of(task)

    return load


@contextmanager
def running(load: Load, count: int = 2) -> Iterator[Workers]:
    workers = Workers(load, count)
    try:
        yield workers
    finally:
        workers.end()


def check(workers: Workers, tasks: list[Task] = TASKS) -> None:
    """All batches come, in order, with their bytes."""
    for task, parts in zip(tasks, workers.load(tasks), strict=True):
        expected = join(items_of(task))
        assert parts.indices == expected.indices and parts.shapes == expected.shapes
        assert torch.equal(parts.pixels, expected.pixels)


def processes() -> list[int]:
    """The running ones of this test."""
    running = {child.pid or 0 for child in multiprocessing.active_children()}
    return sorted(running - earlier)


earlier: set[int] = set()


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    """No process outlives its test."""
    earlier.update(processes())
    yield
    assert processes() == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of a second without a sign of life is enough, and so it is for an end."""
    monkeypatch.setattr(worker_connection, "LOOK", 0.02)
    monkeypatch.setattr(worker_connection, "PATIENCE", 10)
    monkeypatch.setattr(worker_connection, "GRACE", 0.2)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_batches_are_those_of_this_process(count: int) -> None:
    with running(items_of, count) as workers:
        check(workers)
        check(workers, [(4, number) for number in range(30)])
        assert len(processes()) == count


def test_batches_stay_as_they_are_when_later_ones_come() -> None:
    with running(items_of) as workers:
        kept = list(workers.load(TASKS))
        check(workers, [(4, number) for number in range(30)])
    for task, parts in zip(TASKS, kept, strict=True):
        assert torch.equal(parts.pixels, join(items_of(task)).pixels)


def test_an_epoch_that_was_left_does_not_disturb_the_next() -> None:
    with running(before_each(lambda task: time.sleep(0.02))) as workers:
        for tasks in (TASKS, TASKS, [(4, number) for number in range(5)]):
            for _, parts in zip(range(3), workers.load(TASKS), strict=False):
                assert len(parts.indices)
            check(workers, tasks)


# Memory and other limits


SCRIPT = """
import multiprocessing
import signal
import sys

import numpy as np

from distracted.data.loading import Loader


class Noise:
    def __len__(self):
        return 640

    def __getitem__(self, index):
        return np.random.default_rng(index).integers(0, 256, (96, 128, 3), dtype=np.uint8)


class Whole:
    def __call__(self, image, *, epoch, index, repeat):
        return image


def main(method, wait=""):
    multiprocessing.set_start_method(method)
    rows = np.arange(640)
    here, there = (Loader(Noise(), rows, Whole(), batch_size=64, num_workers=n, seed=0) for n in (0, 2))
    if wait:
        batches = there.epoch()
        next(batches)
        print("started", flush=True)
        signal.pause()
    for epoch in (0, 1):
        for expected, batch in zip(here.epoch(epoch), there.epoch(epoch), strict=True):
            assert batch.images.nbytes == 64 * 96 * 128 * 3
            assert (batch.images == expected.images).all()
    print("the same batches")


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    """A command that compares batches of 2.4 MB from two processes with those of one, for a start method."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return ["env", f"PYTHONPATH={SOURCES}", sys.executable, str(path)]


NAMESPACE = ["unshare", "--map-root-user", "--mount"]
needs_namespace = pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0
    if sys.platform == "linux"
    else True,
    reason="another /dev/shm needs a mount namespace, which this system forbids",
)


@needs_namespace
@pytest.mark.slow
@pytest.mark.parametrize("size", ["1m", "8m", "64m", "none"])
def test_shared_memory_of_any_size(script: list[str], size: str) -> None:
    """torch's loader would need 10 MB of /dev/shm, and some of it for its queues."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if size == "none":
        mount = "mount -o bind /proc/self /dev/shm"
    inside = [*NAMESPACE, "sh", "-c", f'{mount} && exec "$@"', "sh", *script, "fork"]
    done = subprocess.run(inside, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the same batches\n", "")


def limit_files(task: Task) -> None:
    """No file may be larger than this: memfd_create works, taking memory fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def limit_descriptors(task: Task) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.mark.parametrize("limit", [limit_files, limit_descriptors])
def test_without_shared_memory_batches_come_through_the_connection(limit: Callable[[Task], None]) -> None:
    with running(before_each(limit)) as workers:
        check(workers)
        check(workers)


@pytest.mark.parametrize("known", [True, False])
def test_pythons_that_lack_memfd_create(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv's and conda's are built for systems that lack it; it is looked for in the system itself."""
    monkeypatch.delattr(os, "memfd_create")
    if not known:
        monkeypatch.setattr(files.ctypes, "CDLL", lambda name: object())
    with running(items_of) as workers:
        parts = workers.load(TASKS)
        assert next(parts).indices == [0, 1]
        assert bool(workers._workers[0]._slots) == known
        check(workers)


def test_a_parent_without_file_descriptors_loads_the_first_batches_itself() -> None:
    """The kernel drops a file descriptor that the receiver has no room for; the next batches need none."""
    here = []

    def load(task: Task) -> Items:
        here.append(task)  # in this process
        return items_of(task)

    with running(load) as workers:
        with few_descriptors(0):
            check(workers, [(3, number) for number in range(40)])
        assert 0 < len(here) <= 2 * worker_process.AHEAD
        check(workers)


def uniform(task: Task, height: int) -> Items:
    return [(task[1], np.full((height, 100, 3), task[1], np.uint8))]


@pytest.mark.parametrize("heights", [range(100, 1300, 100), [100] * 4 + [300] * 2 + [100] * 6])
def test_pixels_are_never_those_of_earlier_memory(heights: Sequence[int]) -> None:
    """Batches that grow take new memory, which a parent with too many open files does not receive.

    With the second sizes the process has no new memory for the larger batches either, and then a piece that
    is no larger than the first.
    """

    def load(task: Task) -> Items:
        if os.getpid() != PARENT and heights[-1] == 100:
            lacks = task[1] in (4, 5)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3 if lacks else 256, 4096))
        return uniform(task, heights[task[1]])

    with running(load, 1) as workers:
        parts = workers.load(TASKS)
        loaded = [next(parts) for _ in range(4)]
        with few_descriptors(0):
            loaded += parts
    for number, part in enumerate(loaded):
        assert part.indices == [number] and part.shapes == [(heights[number], 100, 3)]
        assert (part.pixels == number).all()


@contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    """Leave this process so many file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with suppress(OSError):
            while True:
                opened.append(os.dup(0))
        for _ in range(number):
            os.close(opened.pop())
        yield
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("descriptors", "left"), [(7, 1), (0, 0)])
def test_as_many_processes_as_can_be_started(
    descriptors: int, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each needs two for its connection and two for its end; Python closes some of them later."""
    with few_descriptors(descriptors):
        workers = Workers(items_of, 3)
    try:
        assert f"{left} of 3 processes decode images: " in caplog.text
        assert len(processes()) == left
        check(workers)
    finally:
        workers.end()


# Errors


class Unpicklable(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ImageError("a.jpg: the image is truncated"), ImageError, "^a.jpg: the image is truncated$"),
        (KeyError("a"), KeyError, "^'a'\nIn a process that decodes images:(.|\n)*in fail"),
        (Unpicklable("one", "two"), RuntimeError, "Traceback(.|\n)*Unpicklable: one two"),
        (MemoryError(), TrainingError, "ran out of memory; use fewer processes.*num_workers=2"),
    ],
)
def test_an_error_reaches_this_process(error: Exception, kind: type[Exception], message: str) -> None:
    def fail(task: Task) -> None:
        if task[1] == 5:
            raise error

    with running(before_each(fail)) as workers:
        loaded = []
        with pytest.raises(kind, match=message):
            loaded.extend(workers.load(TASKS))
        assert len(loaded) == 5
        check(workers, TASKS[:5])
        assert len(processes()) == 2


# Death


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGBUS), r"SIGBUS: shared memory ran out"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"SIGSEGV: a library crashed"),
        (lambda: os.kill(os.getpid(), signal.SIGUSR1), r"SIGUSR1"),
        (lambda: os._exit(3), r"exit code 3"),
    ],
)
def test_the_death_of_all_processes_is_an_error_with_its_reason(
    end: Callable[[], object], reason: str
) -> None:
    def die(task: Task) -> None:
        if task[1] > 3:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)  # pytest prints tracebacks
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            end()

    expected = rf"a process that decodes images was ended by the system \({reason}.*runtime\.num_workers=2"
    with running(before_each(die)) as workers:
        parts = workers.load(TASKS)
        assert len([next(parts) for _ in range(4)]) == 4
        with pytest.raises(TrainingError, match=expected):
            next(parts)
        assert processes() == []


def test_without_processes_this_one_decodes_if_memory_ran_out(caplog: pytest.LogCaptureFixture) -> None:
    def die(task: Task) -> None:
        if task[1] > 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with running(before_each(die)) as workers:
        check(workers)
        assert "; 1 are left" in caplog.text and "SIGKILL" in caplog.text
        assert "none is left: this process decodes" in caplog.text
        assert processes() == [] and not workers.are_left
        check(workers, [(4, number) for number in range(5)])


def test_the_batches_of_two_processes_that_die_at_once_are_handed_out_in_order(
    impatient: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch that is awaited would else come after later ones that nobody may have yet."""

    def die(task: Task) -> None:
        marker = tmp_path / str(task[1])
        if task[1] == 1 and not marker.exists():
            wait_until((tmp_path / "0").exists)
        if task[1] < 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with running(before_each(die), 3) as workers:
        check(workers)
    assert caplog.text.count("SIGKILL") == 2 and "has done nothing" not in caplog.text


def test_the_others_go_on_after_a_death(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def die_once(task: Task) -> None:
        if task[1] == 4:
            with suppress(FileExistsError):
                (tmp_path / "died").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)

    with running(before_each(die_once), 3) as workers:
        check(workers)
        assert "ended by the system (SIGKILL: " in caplog.text and "; 2 are left" in caplog.text
        check(workers)
        assert len(processes()) == 2


def test_a_death_half_way_through_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Without shared memory a process waits in the middle of an answer until the parent reads it."""

    def load(task: Task) -> Items:
        if os.getpid() != PARENT:
            limit_files(task)
        return [(task[1], np.full((1000, 1000, 3), task[1], np.uint8))]

    with running(load) as workers:
        parts = workers.load(TASKS)
        assert next(parts).indices == [0]
        first = processes()[0]
        wait_until(lambda: state(first) == "S")
        os.kill(first, signal.SIGKILL)
        rest = list(parts)
    assert [part.indices for part in rest] == [[number] for number in range(1, 12)]
    assert all((part.pixels == part.indices[0]).all() for part in rest)
    assert "SIGKILL" in caplog.text


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Silence


def test_a_process_has_no_thread_that_could_lose_a_batch() -> None:
    """torch's loader hands its batches to one. Whatever threads there are here, their end changes nothing."""

    def end_threads(task: Task) -> None:
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                exit_ = ctypes.py_object(SystemExit)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), exit_)
        assert len(list(Path("/proc/self/task").iterdir())) == 1

    with running(before_each(end_threads)) as workers:
        check(workers)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_this_process_takes_the_place_of_stuck_ones(
    impatient: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, all_of_them: bool
) -> None:
    """As behind a lock that another thread held when the process was forked."""
    lock = threading.Lock()

    def wait_for_ever(task: Task) -> None:
        with suppress(FileExistsError):
            if task[1] >= 3 and not all_of_them:
                (tmp_path / "stuck").touch(exist_ok=False)
            if task[1] >= 3:
                lock.acquire()

    lock.acquire()
    with running(before_each(wait_for_ever)) as workers:
        stuck = 2 if all_of_them else 1
        check(workers)
        assert caplog.text.count("has done nothing for") == stuck
        start = time.monotonic()
        check(workers, [(4, number) for number in range(3 if all_of_them else 12)])
        assert time.monotonic() - start < 15  # it is not waited for again
        assert caplog.text.count("has done nothing for") == stuck


def test_a_slow_process_is_waited_for(impatient: None, caplog: pytest.LogCaptureFixture) -> None:
    def compute(task: Task) -> None:
        if task[1] == 4:
            end = time.process_time() + 0.5
            while time.process_time() < end:
                pass

    with running(before_each(compute), 1) as workers:
        check(workers, TASKS[:6])
    assert caplog.text == ""


def compute() -> None:
    while True:
        pass


@pytest.mark.parametrize("ask", [worker_connection.activity, worker_connection.activity_by_ps])
def test_the_activity_of_a_process(ask: Callable[[int], tuple[str, str]]) -> None:
    """macOS has no /proc; its `ps` knows the same, and on Linux counts whole seconds."""
    pids = []
    for act in (signal.pause, lambda: os.kill(os.getpid(), signal.SIGSTOP), compute):
        pids.append(os.fork())
        if not pids[-1]:
            act()
    sleeping, stopped, computing = pids
    try:
        wait_until(lambda: ask(sleeping)[0] == "S" and ask(stopped)[0] == "T" and ask(computing)[0] == "R")
        before, first = ask(sleeping), worker_connection.activity(computing)[1]
        wait_until(lambda: worker_connection.activity(computing)[1] != first)
        assert before[1] and ask(sleeping) == before
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert ask(sleeping) == ("?", "")


def test_a_stopped_process_is_not_lost(impatient: None, caplog: pytest.LogCaptureFixture) -> None:
    with running(before_each(lambda task: time.sleep(0.01))) as workers:
        parts = workers.load(TASKS)
        next(parts)
        first = processes()[0]
        os.kill(first, signal.SIGSTOP)
        assert len(list(parts)) == len(TASKS) - 1
        assert f"process {first}, which decodes images, has done nothing" in caplog.text
        assert "(state T)" in caplog.text
        os.kill(first, signal.SIGCONT)
        caplog.clear()
        before = cpu_seconds(first)
        for _ in range(3):
            check(workers)
        assert caplog.text == "" and cpu_seconds(first) > before  # it takes part again


def test_a_process_that_is_stopped_half_way_through_an_answer(
    impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Without shared memory; this process neither waits for the answer's rest nor loses its place in it."""

    def load(task: Task) -> Items:
        if os.getpid() != PARENT:
            limit_files(task)
        return uniform(task, 10_000)

    with running(load) as workers:
        parts = workers.load(TASKS)
        loaded = [next(parts)]
        first = processes()[0]
        wait_until(lambda: state(first) == "S")
        os.kill(first, signal.SIGSTOP)
        loaded += parts
        assert f"process {first}, which decodes images, has done nothing" in caplog.text
        os.kill(first, signal.SIGCONT)
        loaded += workers.load(TASKS)
    assert [part.indices for part in loaded] == [[number] for number in range(12)] * 2
    assert all((part.pixels == part.indices[0]).all() for part in loaded)


def cpu_seconds(pid: int) -> int:
    """In clock ticks; exact to the nanosecond where the scheduler counts so."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def test_a_wait_can_be_ended(impatient: None) -> None:
    """By a signal or the time limit, which the caller looks for."""

    def stop() -> None:
        raise Stopped("the time limit")

    start = time.monotonic()
    with running(before_each(lambda task: time.sleep(1000))) as workers, pytest.raises(Stopped):
        list(workers.load(TASKS, stop))
    assert time.monotonic() - start < 20  # and the processes are ended


class Blank:
    """Eight black pictures, which need no transform."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return np.zeros((4, 4, 3), np.uint8)

    def __call__(self, image: NDArray[np.uint8], *, epoch: int, index: int, repeat: int) -> NDArray[np.uint8]:
        return image


def blank_loader(**settings: int) -> Loader:
    return Loader(Blank(), np.arange(8), Blank(), **{"batch_size": 2, "num_workers": 2, **settings})


def test_an_interrupt_at_any_moment_does_not_disturb_the_next_epoch() -> None:
    """As Ctrl-C in a notebook: it comes between any two lines."""
    tasks, count, at = TASKS[:4], 0, 0

    def trace(frame: FrameType, event: str, arg: object) -> Callable[..., object] | None:
        nonlocal count
        if Path(frame.f_code.co_filename).stem not in ("workers", "worker_connection"):
            return None
        count += event == "line"
        if count == at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    was_interrupted = True
    while was_interrupted:
        count, at, was_interrupted = 0, at + 43, False
        with running(items_of) as workers:
            sys.settrace(trace)
            try:
                list(workers.load(tasks))
            except KeyboardInterrupt:
                was_interrupted = True
            finally:
                sys.settrace(None)
            check(workers, tasks)
    assert at > 100


def test_processes_that_have_ended_leave_nothing_behind() -> None:
    """Neither memory nor open files, although Python has not looked for cycles of references."""
    gc.collect()
    gc.disable()
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            with running(items_of) as workers:
                check(workers)
                for process in processes()[:1]:
                    os.kill(process, signal.SIGKILL)
                check(workers)
            del workers
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        gc.enable()


def test_a_copy_of_the_parent_leaves_the_processes_alone() -> None:
    """A forked process has a copy of each loader, and may clean it up."""
    loader = blank_loader()
    assert len(list(loader.epoch())) == 4
    copy = os.fork()
    if not copy:
        del loader
        os._exit(0)
    assert os.waitpid(copy, 0)[1] == 0
    assert len(list(loader.epoch())) == 4 and len(processes()) == 2
    del loader


def test_there_are_no_more_processes_than_batches() -> None:
    loader = blank_loader(batch_size=3, num_workers=8)
    assert len(list(loader.epoch())) == 3 and len(processes()) == 3
    del loader


def load_in_daemon(results: "multiprocessing.Queue[int]") -> None:
    results.put(sum(len(batch.indices) for batch in blank_loader().epoch()))


def test_a_daemon_process_decodes_itself() -> None:
    """Such as one of a user's multiprocessing.Pool, which may not start processes."""
    results: multiprocessing.Queue[int] = multiprocessing.Queue()
    daemon = multiprocessing.Process(target=load_in_daemon, args=(results,), daemon=True)
    daemon.start()
    assert results.get(timeout=60) == 8
    daemon.join()


# Other processes than this one


@pytest.mark.slow
def test_processes_end_with_their_parent(script: list[str]) -> None:
    """A parent that is killed cannot end them."""
    with subprocess.Popen([*script, "fork", "wait"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "started\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 2
        parent.kill()
    wait_until(lambda: not any(is_running(int(child)) for child in children))


def is_running(pid: int) -> bool:
    try:
        return state(pid) != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_are_not_forked(script: list[str], method: str) -> None:
    """As on macOS, and by default from Python 3.14."""
    done = subprocess.run([*script, method], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the same batches\n", "")
