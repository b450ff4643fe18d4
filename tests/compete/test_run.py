"""When jobs are stopped: nothing can go well any more, or the time is up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from distracted.compete.campaign import Campaign
from distracted.compete.clock import Clock
from distracted.compete.run import Competing, Reserve, TimedJobs
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


@dataclass
class Runs:
    """A campaign whose runs have one job each, and finish one after another."""

    number: int = 0
    finished: list[str] = field(default_factory=list)

    def next_jobs(self, ended: Sequence[Ended], *, may_start: bool = True) -> list[Job]:
        self.finished = [one.job.run for one in ended]
        if not may_start or self.number > len(ended):
            return []
        self.number += 1
        return [Job(f"run{self.number}", 0)]

    def members(self) -> list[list[str]]:
        return [self.finished, self.finished]

    def changed(self) -> None:
        pass


@pytest.mark.parametrize("seconds", [1.0, 8.0, 20.0])
def test_no_blend_lasts_beyond_the_end(seconds: float) -> None:
    """A blend takes so many seconds for each run, and while a job runs twice as many."""
    at, blended, runs, is_over = [0.0], list[int](), Runs(), [False]
    job_seconds = 40.0

    def blend(members: Sequence[Sequence[str]]) -> float:
        took = seconds * len(members[0]) * (1 if is_over[0] else 2)
        at[0] += took
        blended.append(len(members[0]))
        return took

    class Engine(OneSlot):
        def run(
            self, jobs: Sequence[Job], *, command: Command, log: Log, stop: Stop, watch: Watch
        ) -> list[Ended]:
            [job], ends = jobs, job_seconds
            while not stop.reason:
                at[0] += 1.0
                if at[0] >= ends:
                    self.ended.append(Ended(job, "done"))
                [job], ends = watch(self.ended) or [job], ends if at[0] < ends else at[0] + job_seconds
            is_over[0] = True
            watch(self.ended)
            return self.ended

    clock = Clock(None, 600.0, began=0.0, now=lambda: at[0])
    competing = Competing(cast(Campaign, runs), clock, Reserve(), blend, Stop())
    competing.run(cast(Any, Engine()), command=lambda job, device: [], log=lambda job: Path())
    assert clock.used <= 600
    assert blended[-1] == len(runs.finished) >= 3 and blended[0] == 1
