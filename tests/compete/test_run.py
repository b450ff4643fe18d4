"""When jobs are stopped: nothing can go well any more, or the time is up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from distracted.compete.clock import Clock
from distracted.compete.run import TimedJobs
from distracted.errors import DistractedError
from distracted.jobs.grid import Command, Ended, Engine, Job, Log, Watch
from distracted.stopping import Stop


class Jobs:
    """Hands out a job a run, one after another."""

    def __init__(self, number: int) -> None:
        self.left = [Job(f"run{n}", 0) for n in range(number)]

    def next_jobs(self, ended: Sequence[Ended], *, may_start: bool = True) -> list[Job]:
        return [self.left.pop(0)] if self.left and may_start else []


class OneSlot:
    """An engine whose jobs end at once, some of them badly."""

    def __init__(self, *, good: str = "") -> None:
        self.good, self.ended = good, list[Ended]()

    def run(
        self, jobs: Sequence[Job], *, command: Command, log: Log, stop: Stop, watch: Watch
    ) -> list[Ended]:
        waiting = list(jobs)
        while waiting and not stop.reason:
            job = waiting.pop(0)
            state: Any = "done" if job.run == self.good else "failed"
            self.ended.append(Ended(job, state, "no memory"))
            waiting += watch(self.ended)
        return self.ended


def run(engine: OneSlot, *, number: int = 9, **given: Any) -> None:
    clock = Clock(None, 100.0, began=0.0, now=lambda: 0.0)
    jobs = TimedJobs(Jobs(number), clock, lambda: 1.0, Stop(), **given)
    jobs.run(cast(Engine, engine), command=lambda job, device: [], log=lambda job: Path())


def test_runs_that_all_fail_end_the_command() -> None:
    engine = OneSlot()
    with pytest.raises(
        DistractedError, match="5 runs in a row failed; the last: no memory; finished work is"
    ):
        run(engine)
    assert len(engine.ended) == 5


def test_a_run_that_ends_well_in_between_shows_that_others_may() -> None:
    engine = OneSlot(good="run4")
    run(engine)
    assert len(engine.ended) == 9


def test_a_full_disk_ends_the_command() -> None:
    engine, free = OneSlot(good="run0"), [1e10, 1e10, 3e6]
    with pytest.raises(DistractedError, match="the workspace is full: 3 MB are left, 100 are the least"):
        run(engine, free_bytes=lambda: free.pop(0) if len(free) > 1 else free[0])
    assert len(engine.ended) == 2


def test_where_there_is_little_room_more_is_made_before_the_command_gives_up() -> None:
    engine, free = OneSlot(good="run4"), [5e7]
    run(engine, free_bytes=lambda: free[0], make_room=lambda: free.__setitem__(0, 1e10))
    assert len(engine.ended) == 9 and free == [1e10]
