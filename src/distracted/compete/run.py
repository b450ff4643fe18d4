"""Runs jobs on an engine until the time is up; of a campaign, it keeps the best submission on disk."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol

from distracted.compete.campaign import Campaign
from distracted.compete.clock import Clock
from distracted.errors import DistractedError
from distracted.jobs.grid import Command, Ended, Engine, Job, Log
from distracted.stopping import Stop

_STOPPING = 6.0  # seconds in which jobs save their state once they are told to stop
_FIRST_BLEND = 15.0  # seconds that are set aside before a blend was made
_SPARE = 1.5  # the next blend may take longer than expected
_BESIDE_JOBS = 2.0  # how much longer a blend takes while jobs run
_LEAST_FREE = 100e6  # bytes on the disk
_LITTLE_FREE = 2e9  # bytes from which on room is made, if that is possible: a few checkpoints
_MOST_FAILED = 5  # runs one after another: the fault is not theirs


@dataclass(eq=False)
class Reserve:
    """The time at the end that is kept free for stopping jobs, blending and writing.

    Attributes:
        run_seconds: Seconds of a blend for each of its runs.
        num_runs: Runs of the next blend.
    """

    run_seconds: float = _FIRST_BLEND / _SPARE
    num_runs: int = 1

    @property
    def blend_seconds(self) -> float:
        """Expected seconds of the next blend."""
        return self.run_seconds * self.num_runs

    @property
    def seconds(self) -> float:
        return _STOPPING + _SPARE * self.blend_seconds


class JobSource(Protocol):
    """What decides on jobs."""

    def next_jobs(self, ended: Sequence[Ended], *, may_start: bool = True) -> list[Job]:
        """Jobs to start now, after some have ended."""
        ...


@dataclass(eq=False)
class TimedJobs:
    """Jobs on an engine, until none is left or the time is up.

    Attributes:
        reserve: Seconds at the end that are kept free of jobs.
        stop: The user's request to stop.
        show: Shows the state; called about every second with the jobs that have ended.
        idle: Called when all slots are busy: there is time for other work.
        free_bytes: Returns the free space on the disk.
        make_room: Called when there is little of it: removes what is needed no more.
    """

    source: JobSource
    clock: Clock
    reserve: Callable[[], float]
    stop: Stop
    show: Callable[[Sequence[Ended]], None] = lambda ended: None
    idle: Callable[[], None] = lambda: None
    free_bytes: Callable[[], float] = lambda: math.inf
    make_room: Callable[[], None] = lambda: None
    _end: Stop = field(default_factory=Stop)
    _trouble: str = ""

    def run(self, engine: Engine, *, command: Command, log: Log) -> None:
        """Run the jobs; those that run when the time is up save their state.

        Raises:
            Stopped: by request; jobs have saved their state.
            DistractedError: nothing can go well: the disk is full, or all jobs fail.
        """
        try:
            with self.stop.waiting(), self._end.waiting():
                if first := self._watch([]):
                    engine.run(first, command=command, log=log, stop=self._end, watch=self._watch)
            self.stop.check()
            if self._trouble:
                raise DistractedError(f"{self._trouble}; finished work is kept, and the same command goes on")
        finally:
            self.clock.note(at_once=True)

    def _watch(self, ended: Sequence[Ended]) -> list[Job]:
        self.clock.note()
        if self.stop.reason:
            self._end.ask(self.stop.reason)
        elif trouble := self._look_for_trouble(ended):
            self._trouble = self._trouble or trouble
            self._end.ask(trouble)
        elif self.clock.left <= self.reserve():
            self._end.ask("the time is up")
        jobs = self.source.next_jobs(ended, may_start=not self._end.reason)
        self.show(ended)
        if not jobs and not self._end.reason:
            self.idle()
        return jobs

    def _look_for_trouble(self, ended: Sequence[Ended]) -> str:
        """Why no job can end well, or ""."""
        if (free := self.free_bytes()) < _LITTLE_FREE:
            self.make_room()
            free = self.free_bytes()
        if free < _LEAST_FREE:
            left, least = free / 1e6, _LEAST_FREE / 1e6
            return f"the disk of the workspace is full: {left:.0f} MB are left, {least:.0f} are the least"
        failed = list(takewhile(lambda one: one.state == "failed", reversed(ended)))
        if len({one.job.run for one in failed}) >= _MOST_FAILED:
            return f"{_MOST_FAILED} runs in a row failed; the last: {failed[0].reason}"
        return ""


@dataclass(eq=False)
class Competing:
    """A campaign on an engine.

    Attributes:
        blend: Blends the finished runs that each fold chose, and writes the submission; returns the seconds.
        stop, show, free_bytes: As in `TimedJobs`.
    """

    campaign: Campaign
    clock: Clock
    reserve: Reserve
    blend: Callable[[Sequence[Sequence[str]]], float]
    stop: Stop
    show: Callable[[Sequence[Ended]], None] = lambda ended: None
    free_bytes: Callable[[], float] = lambda: math.inf
    _members: list[list[str]] = field(default_factory=list)  # of the last blend

    def run(self, engine: Engine, *, command: Command, log: Log) -> None:
        """Run jobs until nothing is left that is worth its time, or the time is up; blend in between.

        Raises:
            Stopped: by request; jobs have saved their state, and the last submission stays.
        """
        jobs = TimedJobs(
            self.campaign,
            self.clock,
            lambda: self.reserve.seconds,
            self.stop,
            show=self.show,
            idle=self._blend_beside_jobs,
            free_bytes=self.free_bytes,
        )
        try:
            self._blend_if_new()  # of an earlier command that was killed
            jobs.run(engine, command=command, log=log)
            self._blend_if_new()
            self.campaign.changed()
        finally:
            self.clock.note(at_once=True)

    def _blend_beside_jobs(self) -> None:
        """Blend as soon as there is something new, unless it could last until jobs have to be stopped."""
        self.reserve.num_runs = 1 + self._num_runs(self.campaign.members())
        expected = _BESIDE_JOBS * self.reserve.blend_seconds
        if not self._members or self.clock.left > self.reserve.seconds + expected:
            self._blend_if_new()

    def _blend_if_new(self) -> None:
        """Blend what is finished, unless the last blend was made of the same."""
        members = self.campaign.members()
        if not all(members) or members == self._members:
            return
        num_runs = self._num_runs(members)
        self.reserve.run_seconds = self.blend(members) / num_runs
        self.reserve.num_runs = 1 + num_runs
        self._members = members

    @staticmethod
    def _num_runs(members: Sequence[Sequence[str]]) -> int:
        return len({run for of_fold in members for run in of_fold})
