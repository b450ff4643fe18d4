"""A grid's jobs: their resources, how many run at a time on this machine, and how each ends."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from distracted.config import load_runtime_config
from distracted.errors import ClusterError
from distracted.jobs.grid import Ended, Job, judge, placement, plan_jobs, room_for
from distracted.jobs.local import Here
from distracted.jobs.on_ray import OnRay
from distracted.stopping import Stop

pytestmark = pytest.mark.slow

RUNTIME = load_runtime_config()


class Machine:
    """An engine with given resources."""

    def __init__(self, num_cpus: int, num_gpus: int = 0, at_once: int = 0) -> None:
        self.num_cpus, self.num_gpus, self.at_once, self.grows = num_cpus, num_gpus, at_once, not at_once
        self.startup = 0.0

    def run(self, jobs: Sequence[Job], **_: object) -> list[Ended]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("machine", "num_jobs", "asked", "num_cpus", "num_gpus"),
    [
        (Machine(2, at_once=2), 6, {}, 1, 0),
        (Machine(16, at_once=16), 3, {}, 5, 0),
        (Machine(16, at_once=2), 6, {}, 8, 0),  # JOBS=2
        (Machine(96, num_gpus=8), 30, {}, 12, 1),
        (Machine(8, num_gpus=1), 30, {"num_gpus": 0.5}, 4, 0.5),
        (Machine(8, num_gpus=1), 30, {"num_gpus": 0.5, "num_cpus": 3}, 3, 0.5),
        (Machine(4, num_gpus=2), 15, {}, 2, 1),  # a notebook
        (Machine(4, num_gpus=1), 15, {"num_gpus": 0.33}, 1, 0.33),
        (Machine(24, num_gpus=2), 15, {"num_gpus": 0.33}, 4, 0.33),  # a third of 12
        (Machine(24, num_gpus=2), 15, {"num_gpus": 1 / 3}, 4, 1 / 3),
        (Machine(8, num_gpus=2), 15, {"device": "cpu", "num_gpus": 0.5}, 1, 0),  # the CPU is asked for
        (Machine(64), 30, {}, 1, 0),  # a cluster: the size of its nodes is unknown
        (Machine(64), 30, {"num_gpus": 1, "num_cpus": 8}, 8, 1),  # a cluster without GPUs so far
        (Machine(2, at_once=2), 6, {"num_gpus": 0.5}, 1, 0),  # this machine has no GPU
    ],
)
def test_the_resources_of_a_job(
    machine: Machine, num_jobs: int, asked: dict[str, float], num_cpus: int, num_gpus: float
) -> None:
    todo = [("a", fold) for fold in range(num_jobs)]
    runtimes = {"a": RUNTIME.model_copy(update=asked)}
    jobs = plan_jobs(todo, runtimes, machine, num_all=num_jobs)
    assert jobs == [Job("a", fold, num_cpus, num_gpus) for fold in range(num_jobs)]
    assert plan_jobs(todo[:1], runtimes, machine, num_all=num_jobs) == jobs[:1]  # whatever is finished


def test_the_room_for_jobs() -> None:
    assert room_for(Job("a", 0, 1), Machine(4, at_once=4)) == 4
    assert room_for(Job("a", 0, 3), Machine(16, at_once=16)) == 5
    assert room_for(Job("a", 0, 4), Machine(16, at_once=2)) == 2
    assert room_for(Job("a", 0, 2, 0.5), Machine(8, num_gpus=1)) == 2
    assert room_for(Job("a", 0, 8), Machine(4)) == 1  # a cluster may grow


def test_jobs_that_are_added_while_others_run_run_too(tmp_path: Path) -> None:
    """Each is added when the one before it has ended."""

    def watch(ended: Sequence[Ended]) -> list[Job]:
        new = len(ended) > len(seen)
        seen[:] = ended
        return [Job("a", len(ended))] if new and len(ended) < 3 else []

    seen: list[Ended] = []
    ended = Here(2).run(
        [Job("a", 0)],
        command=lambda job, device: [sys.executable, "-c", "pass"],
        log=lambda job: tmp_path / f"{job.fold}.txt",
        stop=Stop(),
        watch=watch,
    )
    assert [one.job.fold for one in ended] == [0, 1, 2] and {one.state for one in ended} == {"done"}


def test_a_jobs_end_follows_from_its_exit_code_and_its_log(tmp_path: Path) -> None:
    job, log = Job("a", 0), tmp_path / "log.txt"
    log.write_text("error: an older one\nerror: img_1.jpg: not an image\nmore\n")
    assert judge(job, 0, log) == Ended(job, "done")
    assert judge(job, 1, log) == Ended(job, "failed", "img_1.jpg: not an image")
    assert judge(job, 75, log).state == "stopped"
    assert "signal 9 (memory may have run out)" in judge(job, -9, log).reason
    assert judge(job, -15, log).state == "failed" and judge(job, -15, log, stop_sent=True).state == "stopped"
    log.write_text("error: of an earlier run\nTraceback\n  File\n  line\nZeroDivisionError\n")
    assert judge(job, 1, log).reason == f"exit code 1; see {log}"
    log.write_text("no error line")
    assert judge(job, 2, log).reason == f"exit code 2; see {log}"


Run = Callable[..., tuple[list[Ended], list[str]]]


@pytest.fixture
def run_jobs(tmp_path: Path) -> Run:
    """Run jobs whose commands write a line at their start and end; returns their ends and these lines."""
    events = tmp_path / "events"
    events.touch()

    def run(
        engine: Here, jobs: Sequence[Job], *, body: str = "pass", stop: Stop | None = None
    ) -> tuple[list[Ended], list[str]]:
        def command(job: Job, device: str) -> list[str]:
            say = f"import os; say = lambda what: open({str(events)!r}, 'a').write(what + '\\n')"
            name = f"{job.run}{job.fold} {device}"
            seen = "os.environ['OMP_NUM_THREADS'] + ' ' + os.environ.get('CUDA_VISIBLE_DEVICES', 'all')"
            begin, end = (f"say('{what} {name} ' + {seen})" for what in ("+", "-"))
            return [sys.executable, "-c", f"{say}\n{begin}\n{body.format(fold=job.fold)}\n{end}"]

        ended = engine.run(
            jobs,
            command=command,
            log=lambda job: tmp_path / "logs" / f"{job.run}{job.fold}.txt",
            stop=stop or Stop(),
            watch=lambda ended: [],
        )
        return ended, events.read_text().splitlines()

    return run


def most_at_once(events: Sequence[str]) -> int:
    now = most = 0
    for line in events:
        now += 1 if line.startswith("+") else -1
        most = max(most, now)
    return most


@pytest.mark.parametrize(("at_once", "most"), [(0, 3), (2, 2), (1, 1)])
def test_no_more_jobs_run_at_once_than_allowed(run_jobs: Run, at_once: int, most: int) -> None:
    jobs = [Job("a", fold) for fold in range(5)]
    ended, events = run_jobs(Here(3, at_once=at_once), jobs)
    assert {one.job for one in ended} == set(jobs) and {one.state for one in ended} == {"done"}
    assert len(events) == 10 and most_at_once(events) <= most
    assert all(line.endswith("auto 1 ") for line in events)  # one thread each, and what this process sees


def test_gpus_are_shared_by_the_requested_fractions(run_jobs: Run) -> None:
    jobs = [Job("whole", 0, 1, 1.0), *(Job("half", fold, 1, 0.5) for fold in range(4))]
    _, events = run_jobs(Here(8, cards=["3", "MIG-5c89852c"]), jobs)
    now: dict[str, float] = {"3": 0.0, "MIG-5c89852c": 0.0}
    for line in events:
        sign, name, device, _, card = line.split()
        assert device == "cuda"  # the only one that it sees
        now[card] += (1.0 if name.startswith("whole") else 0.5) * (1 if sign == "+" else -1)
        assert now[card] <= 1.0
    assert {line.split()[4] for line in events} == set(now)


@pytest.mark.parametrize("share", [0.33, 1 / 3])
def test_three_jobs_share_a_gpu(run_jobs: Run, share: float) -> None:
    """Six of them: the last three get what the first three gave back."""
    jobs = [Job("a", fold, 1, share) for fold in range(6)]
    engine = Here(8, cards=["0"])
    ended, events = run_jobs(engine, jobs, body="import time; time.sleep(0.3)")
    assert {one.state for one in ended} == {"done"} and most_at_once(events) == 3
    assert engine._free == pytest.approx({"0": 1.0})


def test_shared_gpus_are_all_used_before_one_is_shared(run_jobs: Run) -> None:
    jobs = [Job("a", fold, 1, 0.5) for fold in range(2)]
    _, events = run_jobs(Here(8, cards=["0", "1"]), jobs)
    assert {line.split()[4] for line in events} == {"0", "1"}


def test_a_job_that_needs_no_gpu_runs_on_the_cpu_and_sees_no_gpu(run_jobs: Run) -> None:
    _, events = run_jobs(Here(2, cards=["0"]), [Job("a", 0)])
    assert events[0] == "+ a0 cpu 1 "


def test_a_jobs_settings_follow_from_its_device_and_its_cores() -> None:
    with_gpu, without = Job("a", 0, 2, 1.0), Job("a", 0, 2)
    assert placement(with_gpu, "cuda", RUNTIME) == "runtime.device=cuda runtime.num_workers=2"
    assert placement(Job("a", 0, 24, 1.0), "cuda", RUNTIME).endswith("num_workers=16")
    chosen = RUNTIME.model_copy(update={"num_workers": 5})
    assert placement(with_gpu, "cuda", chosen) == "runtime.device=cuda"
    assert (
        placement(without, "cpu", RUNTIME) == "runtime.device=cpu"
        and placement(without, "auto", RUNTIME) == ""
    )


def test_a_failed_job_stops_no_other(run_jobs: Run) -> None:
    jobs = [Job("a", fold) for fold in range(3)]
    body = "if {fold} == 0: raise SystemExit('error: this one cannot')"
    ended, _ = run_jobs(Here(1), jobs, body=body)
    assert {one.job.fold: one.state for one in ended} == {0: "failed", 1: "done", 2: "done"}
    assert ended[0].reason == "this one cannot"


def test_a_stop_reaches_running_jobs_and_starts_no_others(run_jobs: Run, tmp_path: Path) -> None:
    """The stop is requested, as by Ctrl-C, as soon as the first job runs."""
    stop = Stop()
    body = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(60)"
    )
    engine = Here(1)
    jobs = [Job("a", fold) for fold in range(3)]
    with stop.waiting():
        watched = engine.run

        def run(jobs: Sequence[Job], **settings: object) -> list[Ended]:
            def watch(ended: Sequence[Ended]) -> None:
                if (tmp_path / "ready").exists():
                    stop.ask("the test")

            return watched(jobs, **(settings | {"watch": watch}))  # type: ignore[arg-type]

        engine.run = run  # type: ignore[method-assign, assignment]
        ended, _ = run_jobs(engine, jobs, body=body, stop=stop)
    assert [(one.job.fold, one.state) for one in ended] == [(0, "stopped"), (1, "stopped"), (2, "stopped")]
    assert [one.reason for one in ended][1:] == ["not started", "not started"]


def test_a_job_that_can_never_fit_is_refused_before_any_starts(run_jobs: Run, tmp_path: Path) -> None:
    refused = r"b, fold 1: asks for 4 cores and 0 GPUs .* this machine has 2 cores"
    with pytest.raises(ClusterError, match=refused):
        run_jobs(Here(2), [Job("a", 0), Job("b", 1, 4)])
    assert (tmp_path / "events").read_text() == ""


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("ray://127.0.0.1:1", "nothing answers there"),
        ("auto", "no Ray cluster answers"),
    ],
)
def test_an_unreachable_cluster_is_an_error(address: str, why: str) -> None:
    with pytest.raises(ClusterError, match=f"CLUSTER={address}: {why}"):
        OnRay(address)
