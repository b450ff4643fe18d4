"""Scripts that are started as forks: they run and end as if Python had been started with them."""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path

import pytest

from distracted.jobs import warm
from distracted.jobs.grid import Job
from distracted.jobs.local import Here
from distracted.jobs.warm import Process, WarmStart
from distracted.stopping import Stop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="jobs are started so on Linux alone"),
]

SCRIPT = """
import atexit, os, signal, sys, threading, time
from pathlib import Path
import torch
import beside
atexit.register(lambda: print("at its end", flush=True))
print(*sys.argv[1:], os.environ["MINE"], torch.get_num_threads(), __name__, flush=True)
print("error output", file=sys.stderr, flush=True)
if sys.argv[1] == "waits":
    if sys.argv[2] == "for SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    Path(sys.argv[3]).write_text(str(os.getpid()))
    time.sleep(600)
if sys.argv[1] == "fails":
    raise SystemExit(sys.argv[2] if sys.argv[2:] else 3)
if sys.argv[1] == "raises":
    raise RuntimeError("broken")
"""


@pytest.fixture(scope="module")
def source() -> Iterator[WarmStart]:
    warm = WarmStart({"OMP_NUM_THREADS": "2"})
    yield warm
    warm.close()


Start = Callable[..., Process]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").touch()  # a script imports what lies beside it
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def start(source: WarmStart, script: Path, tmp_path: Path) -> Start:
    def start(*arguments: str, source: WarmStart = source) -> Process:
        return source.start([str(script), *arguments], tmp_path / "logs/log.txt", {"MINE": "given"})

    return start


def wait(process: Process) -> int:
    return until(process.poll)


def until(look: Callable[[], int | None]) -> int:
    deadline = time.monotonic() + 120
    while (value := look()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def pid_of(path: Path) -> int:
    """The number of a process that waits, once it does."""
    return until(lambda: int(text) if path.exists() and (text := path.read_text()) else None)


def test_a_script_gets_its_arguments_variables_and_threads(start: Start, tmp_path: Path) -> None:
    assert [wait(start("first", "one")), wait(start("second", ""))] == [0, 0]
    log = (tmp_path / "logs/log.txt").read_text()
    end = "error output\nat its end\n"
    assert log == f"first one given 2 __main__\n{end}second  given 2 __main__\n{end}"


@pytest.mark.parametrize(
    ("arguments", "code", "last"),
    [(["fails"], 3, ""), (["fails", "error: why"], 1, "error: why"), (["raises"], 1, "RuntimeError: broken")],
)
def test_how_it_fails_is_told(
    arguments: list[str], code: int, last: str, start: Start, tmp_path: Path
) -> None:
    assert wait(start(*arguments)) == code
    assert last in (tmp_path / "logs/log.txt").read_text()


@pytest.mark.parametrize(("how", "code"), [("for SIGTERM", 75), ("for nothing", -signal.SIGTERM)])
def test_one_is_stopped_and_others_go_on(how: str, code: int, start: Start, tmp_path: Path) -> None:
    one, other = (start("waits", how, str(tmp_path / name)) for name in ("one", "other"))
    pid_of(tmp_path / "one")
    one.terminate()
    assert wait(one) == code and other.poll() is None
    os.kill(pid_of(tmp_path / "other"), signal.SIGKILL)
    assert wait(other) == -signal.SIGKILL


def test_one_that_is_stopped_before_it_begins_ends(start: Start, script: Path, tmp_path: Path) -> None:
    """The forking process still imports."""
    fresh = WarmStart({})
    process = start("waits", "for SIGTERM", str(tmp_path / "pid"), source=fresh)
    process.terminate()
    assert wait(process) in (75, -signal.SIGTERM)
    fresh.close()


def test_signals_to_all_of_a_command_do_not_end_the_forking_process(start: Start, tmp_path: Path) -> None:
    fresh = WarmStart({})
    process = start("waits", "for SIGTERM", str(tmp_path / "pid"), source=fresh)
    pid = pid_of(tmp_path / "pid")
    forking = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(forking, number)
    os.kill(pid, signal.SIGTERM)
    assert wait(process) == 75
    fresh.close()


def test_without_the_forking_process_jobs_count_as_killed_and_the_next_get_another(
    script: Path, tmp_path: Path
) -> None:
    """As where memory has run out."""
    engine, jobs = Here(1), [Job("a", fold) for fold in range(2)]
    killed = list[int]()

    def command(job: Job, device: str) -> list[str]:
        kind = ["waits", "for SIGTERM", str(tmp_path / "pid")] if job.fold == 0 else ["first", "one"]
        return [sys.executable, str(script), *kind]

    def watch(ended: object) -> None:
        if not killed and (tmp_path / "pid").exists() and (text := (tmp_path / "pid").read_text()):
            killed.append(int(text))
            forking = int(Path(f"/proc/{text}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(forking, signal.SIGKILL)

    os.environ["MINE"] = "given"
    try:
        ended = engine.run(
            jobs, command=command, log=lambda job: tmp_path / f"{job.fold}.txt", stop=Stop(), watch=watch
        )
    finally:
        del os.environ["MINE"]
    assert [(one.job.fold, one.state) for one in ended] == [(0, "failed"), (1, "done")]
    assert "ended by signal 9 (memory may have run out)" in ended[0].reason
    os.kill(killed[0], signal.SIGKILL)


def test_a_process_that_cannot_be_started_costs_its_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a container allows no further process."""

    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(warm, "_fork", fork)
    ours, theirs = Pipe()
    server = threading.Thread(target=warm._serve, args=(theirs,))
    server.start()
    for number in (1, 2):
        ours.send(("start", number, ["script.py"], str(tmp_path / f"{number}.txt"), {}))
        assert ours.recv() == (number, 1)
        assert "no process can be started: Resource temporarily" in (tmp_path / f"{number}.txt").read_text()
    ours.close()
    server.join(10)
    assert not server.is_alive()
