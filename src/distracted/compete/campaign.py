"""A competition under way: hands out jobs as slots become free, and plans again as results come in.

The folds are in two groups that choose in rounds (`Chooser`). A run that either has chosen is trained over
all folds, once, and one that both have chosen costs no more. How far the rounds are at a given time depends
on the machine, and on how often the groups agree.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from distracted.compete.candidates import NUM_SEEDS, Candidate, find_candidate
from distracted.compete.chooser import Chooser
from distracted.compete.entries import TTA, Entry, Plan, entry_of
from distracted.compete.groups import Group, other_folds
from distracted.compete.planner import MARGIN, Planned
from distracted.compete.results import Results
from distracted.compete.times import Times
from distracted.compete.views import VIEWS, Views
from distracted.jobs.grid import Ended, Job

_log = logging.getLogger(__name__)

Key = tuple[str, int]  # of a job: run and fold


@dataclass(frozen=True)
class _Running:
    """A running job.

    Attributes:
        since: When it was started.
        share: Share of its epochs that was done by then.
        stop_after: Epochs after which it stops: it is a short fit.
        expected: Expected seconds of all of it.
    """

    since: float
    share: float
    stop_after: int | None
    expected: float


@dataclass(eq=False)
class Campaign:
    """The state of a competition; nothing in it is lost with the process that the plan file lacks.

    Attributes:
        candidates: All runs that may be chosen, with the first seed each.
        groups: The folds, in two groups of which each chooses by the labels of the other.
        plan: Its entries are the chosen runs, in the order in which they were; kept up to date.
        make_job: The job of a run's fold, with its resources.
        num_seeds: Seeds of one setting at most.
        num_views: Views of each image that tuned runs predict again; 0: none.
        changed: Called when the plan has changed.
        known: Candidates by run, with any seed.
    """

    candidates: Sequence[Candidate]
    plan: Plan
    results: Results
    times: Times
    groups: Sequence[Group]
    num_slots: int
    make_job: Callable[[str, int], Job]
    now: Callable[[], float]  # seconds, of any clock
    ends: Callable[[], float]  # when all jobs have to be finished, by that clock
    num_seeds: int = NUM_SEEDS
    num_views: int = 0
    changed: Callable[[], None] = lambda: None
    known: dict[str, Candidate] = field(default_factory=dict)
    _running: dict[Key, _Running] = field(default_factory=dict)
    _rung: dict[Key, int] = field(default_factory=dict)  # short fits that wait for a slot, with their epochs
    _num_seen: int = 0
    _nothing_left: bool = False  # that is worth its time, until a job ends

    def __post_init__(self) -> None:
        self.known |= {candidate.name: candidate for candidate in self.candidates}
        self._views = Views(self.times, self.num_folds, self.num_views)
        self.chooser = Chooser(
            self.candidates,
            self.known,
            set(),
            self.plan,
            self.results,
            self.times,
            self.groups,
            seconds=self._seconds,
            free=self._free,
            left=lambda: self.ends() - self.now(),
            num_slots=self.num_slots,
            num_seeds=self.num_seeds,
        )
        for entry in self.plan.entries:
            if (candidate := find_candidate(self.candidates, entry.run)) is not None:
                self.known[entry.run] = candidate
        for entry in list(self.plan.entries):  # a killed command may not have noted the last ends
            if self.is_done(entry.run):
                self._finish(entry)
            elif entry.state in ("done", "failed"):  # removed since, or to be tried again
                entry.state = "running"
        if self.plan.trials:
            self._begin_rung(max(self.plan.trials))

    # What the engine asks

    def next_jobs(self, ended: Sequence[Ended], *, may_start: bool = True) -> list[Job]:
        """Jobs to start now, after some have ended; none if the time is up."""
        for one in ended[self._num_seen :]:
            self._end(one)
            self._nothing_left = False
        self._num_seen = len(ended)
        jobs = list[Job]()
        while may_start and len(self._running) < self.num_slots and (job := self._next()) is not None:
            key = job.run, job.fold
            share, epochs = self.results.share(*key), self._rung.pop(key, None)
            self._running[key] = _Running(self.now(), share, epochs, self._expect(job.run, epochs))
            jobs.append(job)
        return jobs

    def stop_after(self, job: Job) -> int | None:
        """The epochs after which a job stops, if it is a short fit."""
        return self._running[job.run, job.fold].stop_after

    @property
    def num_folds(self) -> int:
        return sum(map(len, self.groups))

    @property
    def running(self) -> list[Key]:
        """Run and fold of the jobs that run now."""
        return list(self._running)

    # What is done

    def search(self) -> dict[str, int]:
        """What was chosen among, for manifests."""
        tried = {run for runs in self.plan.trials.values() for run in runs}
        runs = [entry for entry in self.plan.entries if entry.state == "done" and not entry.views]
        return {"num_candidates": len(self.candidates), "num_trials": len(tried), "num_runs": len(runs)}

    def as_written(self) -> Plan:
        """The plan with what would come next."""
        further: dict[str, Entry] = {}
        for group, plan in self.chooser.outlook.items():
            for planned in plan:
                if self.plan.find(planned.candidate.name) is None:
                    entry = entry_of(planned, group, "planned; it may change")
                    known = further.setdefault(entry.run, entry)
                    known.by = tuple(sorted({*known.by, *group}))
        return replace(self.plan, entries=[*self.plan.entries, *further.values()])

    def is_done(self, run: str) -> bool:
        return len(self.results.finished_folds(run)) == self.num_folds

    def members(self) -> list[list[str]]:
        """For each fold the finished runs that it chose."""
        done = [entry for entry in self.plan.entries if entry.state == "done"]
        return [[entry.run for entry in done if fold in entry.by] for fold in range(self.num_folds)]

    def _end(self, ended: Ended) -> None:
        key = ended.job.run, ended.job.fold
        ran, candidate = self._running.pop(key), self.known.get(ended.job.run)
        entry = self.plan.find(ended.job.run)
        if ended.state == "done" and not ran.share:
            if candidate is not None:
                self.times.record(candidate, self.now() - ran.since)
            elif entry is not None and entry.views and ran.expected:
                self.times.record_views(self.now() - ran.since, ran.expected)
        if ended.state == "failed":
            self.chooser.failed.add(ended.job.run)
        if entry is None:
            return
        if ended.state == "failed":
            entry.state, entry.why = "failed", ended.reason
        elif self.is_done(entry.run):
            self._finish(entry)
        self.changed()

    def _finish(self, entry: Entry) -> None:
        entry.state, entry.minutes = "done", self.results.seconds(entry.run) / 60
        entry.loss = self.results.loss(entry.run)
        candidate = self.known.get(entry.run)
        may_add = self.plan.extend and not self.plan.is_edited
        if may_add and candidate is not None and self._views.are_cheap(candidate):
            self._add_views(entry)

    # What comes next

    def _next(self) -> Job | None:
        """The next job, in the order of the plan; None if nothing is left that is worth its time."""
        while True:
            if waiting := [key for key in self._rung if key not in self._running]:
                return self.make_job(*waiting[0])
            if (job := self._next_of_plan()) is not None:
                return job
            if self._nothing_left or not self.plan.extend or self.now() >= self.ends():
                return None
            short_fits = self._rung or any(job.stop_after for job in self._running.values())
            if short_fits or not self.chooser.is_ready():  # they decide what comes next
                return None
            chosen = (
                self._try_out()
                or self._add_all(*self.chooser.next_runs())
                or self._add_more_views()
                or self._add_all(*self.chooser.unfinished_runs())
            )
            self.changed()
            if not chosen:
                self._nothing_left = True
                return None

    def _next_of_plan(self) -> Job | None:
        for entry in self.plan.entries:
            if entry.state in ("done", "failed") or (entry.views and not self._can_predict(entry)):
                continue
            finished = self.results.finished_folds(entry.run)
            for fold in [0] if entry.views else [n for n in range(self.num_folds) if n not in finished]:
                key = entry.run, fold
                if key not in self._running:
                    if entry.state != "running":
                        entry.state = "running"
                        self.changed()
                    return self.make_job(entry.run, fold)
        return None

    def _add_all(self, firsts: dict[Group, Planned], why: str) -> bool:
        """Add the run that each group chose; False if none did."""
        for group, planned in sorted(firsts.items(), key=lambda first: first[1].candidate.name):
            self._add(planned, group, why)
        return bool(firsts)

    def _add(self, planned: Planned, group: Group, why: str) -> None:
        candidate = planned.candidate
        self.known[candidate.name] = candidate
        self.plan.choices[self.groups.index(group)].append(candidate.name)
        if (entry := self.plan.find(candidate.name)) is not None:  # the other group chose it, too
            for same in (entry, self.plan.find(candidate.name + TTA)):
                if same is not None:
                    same.by = tuple(sorted({*same.by, *group}))
            return
        entry = entry_of(planned, group, why)
        self.plan.entries.append(entry)
        if self.is_done(entry.run):  # it was trained by hand
            self._finish(entry)

    # Times

    def _seconds(self, candidate: Candidate) -> float:
        """Expected seconds of a job, with its share of the run's views."""
        views = self._views.seconds(candidate) / self.num_folds if self._views.are_cheap(candidate) else 0.0
        return self.times.seconds(candidate) + views

    def _expect(self, run: str, epochs: int | None) -> float:
        """Expected seconds of a job that starts now; 0 for a person's own run."""
        if (candidate := self.known.get(run)) is not None:
            return self.times.seconds(candidate) * (1.0 if epochs is None else epochs / candidate.epochs)
        parent = self.known.get(run.removesuffix(TTA))
        return 0.0 if parent is None else self._views.seconds(parent)

    def _free(self) -> list[float]:
        """Seconds until each slot is free."""
        running = self._running.values()
        left = [max(0.0, job.expected * (1 - job.share) - (self.now() - job.since)) for job in running]
        return [*left, *[0.0] * (self.num_slots - len(left))]

    # Views

    def _add_views(self, entry: Entry) -> None:
        """Plan the views of a finished run next, if they are not planned yet."""
        name = entry.run + TTA
        if self.plan.find(name) is None:
            why = f"{self.num_views} views of each image"
            views = Entry(name, entry.model, "", entry.by, why=why, views=VIEWS)
            views.minutes = self._views.seconds(self.known[entry.run]) / 60
            self.plan.entries.insert(self.plan.entries.index(entry) + 1, views)

    def _add_more_views(self) -> bool:
        """Where no further run ends in time: plan the views of finished runs that do; False if none do."""
        for entry in self.plan.entries:
            candidate = self.known.get(entry.run)
            if entry.state != "done" or candidate is None or self.plan.find(entry.run + TTA) is not None:
                continue
            if (seconds := self._views.seconds(candidate)) and self._fits(seconds):
                self._add_views(entry)
                return True
        return False

    def _can_predict(self, entry: Entry) -> bool:
        """Whether views can be predicted now: their run is finished, and they end in time."""
        candidate = self.known.get(entry.parent)
        seconds = 0.0 if candidate is None else self._views.seconds(candidate)
        return self.is_done(entry.parent) and self._fits(seconds)

    def _fits(self, seconds: float) -> bool:
        return self.now() + MARGIN * seconds <= self.ends()

    # Short fits

    def _try_out(self) -> bool:
        """Begin the next rung of short fits; False: there is none."""
        rung = self.chooser.next_rung()
        if rung is None:
            return False
        epochs, self.plan.trials[rung[0]] = rung
        if rung[1]:
            _log.info("short fits up to epoch %d, to compare: %s", epochs, ", ".join(rung[1]))
        self._begin_rung(epochs)
        return True

    def _begin_rung(self, epochs: int) -> None:
        """Queue the short fits of a rung that are not scored yet."""
        for run, by in self.plan.trials[epochs].items():
            for group in self.groups:  # on a fold of the other group
                fold = other_folds(self.groups, group)[0]
                if run in self.known and group[0] in by and self.results.epochs_scored(run, fold) < epochs:
                    self._rung[run, fold] = epochs
