"""Runs a campaign on an engine until its time is up, and keeps the best submission on disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distracted.compete.campaign import Campaign
from distracted.compete.clock import Clock
from distracted.jobs.grid import Command, Ended, Engine, Job, Log
from distracted.stopping import Stop

_STOPPING = 6.0  # seconds in which jobs save their state once they are told to stop
_FIRST_BLEND = 15.0  # seconds that are set aside before a blend was made
_SPARE = 1.5  # the next blend may take longer than the last


@dataclass(eq=False)
class Reserve:
    """The time at the end that is kept free for stopping jobs, blending and writing."""

    blend_seconds: float = _FIRST_BLEND / _SPARE

    @property
    def seconds(self) -> float:
        return _STOPPING + _SPARE * self.blend_seconds


@dataclass(eq=False)
class Competing:
    """A campaign on an engine.

    Attributes:
        blend: Blends the finished runs that each fold chose, and writes the submission; returns the seconds.
        stop: The user's request to stop.
        show: Shows the state; called about every second with the jobs that have ended.
    """

    campaign: Campaign
    clock: Clock
    reserve: Reserve
    blend: Callable[[Sequence[Sequence[str]]], float]
    stop: Stop
    show: Callable[[Sequence[Ended]], None] = lambda ended: None
    _end: Stop = field(default_factory=Stop)
    _members: list[list[str]] = field(default_factory=list)  # of the last blend

    def run(self, engine: Engine, *, command: Command, log: Log) -> None:
        """Run jobs until nothing is left that is worth its time, or the time is up; blend in between.

        Raises:
            Stopped: by request; jobs have saved their state, and the last submission stays.
        """
        try:
            self._blend_if_new()  # of an earlier command that was killed
            with self.stop.waiting(), self._end.waiting():
                if first := self._watch([]):
                    engine.run(first, command=command, log=log, stop=self._end, watch=self._watch)
            self.stop.check()
            self._blend_if_new()
            self.campaign.changed()
        finally:
            self.clock.note(at_once=True)

    def _watch(self, ended: Sequence[Ended]) -> list[Job]:
        self.clock.note()
        if self.stop.reason:
            self._end.ask(self.stop.reason)
        elif self.clock.left <= self.reserve.seconds:
            self._end.ask("the time is up")
        jobs = self.campaign.next_jobs(ended, may_start=not self._end.reason)
        self.show(ended)
        if not jobs and not self._end.reason:  # all slots are busy: now there is time
            self._blend_if_new()
        return jobs

    def _blend_if_new(self) -> None:
        """Blend what is finished, unless the last blend was made of the same."""
        members = self.campaign.members()
        if not all(members) or members == self._members:
            return
        self.reserve.blend_seconds = self.blend(members)
        self._members = members
