"""A competition under way: hands out jobs as slots become free, and plans again as results come in.

The folds are in two groups. The runs of a group's blends are chosen by the labels of the other group: by
probes, by short fits and by the scores of the runs that it chose before. So the labels of a fold decide
nothing that predicts it: neither which settings go on after short fits, nor which runs are blended; its
weights come from all other folds. Both groups choose in rounds. A run that either has chosen is trained over
all folds, once, and one that both have chosen costs no more. Only the clock is shared: how far the rounds are
at a given time depends on the machine, and on how often the groups agree.
"""

import logging
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distracted.compete.candidates import NUM_SEEDS, Candidate
from distracted.compete.entries import Entry, Plan
from distracted.compete.groups import Group, other_folds
from distracted.compete.planner import Planned, Situation, default_run, make_plan, quickest_run
from distracted.compete.results import Results
from distracted.compete.times import Times
from distracted.compete.value import predict_log_losses
from distracted.jobs.grid import Ended, Job

_log = logging.getLogger(__name__)

#: Share of the time that short fits may take.
TRIAL_SHARE = 0.1
_MOST_TRIALS = 8
#: Rungs of successive halving: each goes on with the better half.
TRIAL_EPOCHS = (1, 2)

_LEAST_SECONDS = 30.0  # in which it is worth while to begin a run
_FOREVER = 1e8

#: The runs that no score chooses, with the reason that the plan gives.
_FIRST = (quickest_run, "the quickest way to a submission"), (default_run, "the usual fine-tuning")

Key = tuple[str, int]  # of a job: run and fold


@dataclass(frozen=True)
class _Running:
    """A running job.

    Attributes:
        since: When it was started.
        share: Share of its epochs that was done by then.
        stop_after: Epochs after which it stops: it is a short fit.
    """

    since: float
    share: float
    stop_after: int | None


@dataclass(eq=False)
class Campaign:
    """The state of a competition; nothing in it is lost with the process that the plan file lacks.

    Attributes:
        candidates: All runs that may be chosen, with the first seed each.
        groups: The folds, in two groups of which each chooses by the labels of the other.
        plan: Its entries are the chosen runs, in the order in which they were; kept up to date.
        outlook: What each group would choose next; it changes freely.
        make_job: The job of a run's fold, with its resources.
        num_seeds: Seeds of one setting at most.
        changed: Called when the plan has changed.
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
    changed: Callable[[], None] = lambda: None
    outlook: dict[Group, list[Planned]] = field(default_factory=dict)
    known: dict[str, Candidate] = field(default_factory=dict)  # by run
    _running: dict[Key, _Running] = field(default_factory=dict)
    _failed: set[Key] = field(default_factory=set)
    _rung: dict[Key, int] = field(default_factory=dict)  # short fits that wait for a slot, with their epochs
    _num_seen: int = 0

    def __post_init__(self) -> None:
        self.known |= {candidate.name: candidate for candidate in self.candidates}
        for entry in self.plan.entries:
            if (candidate := _with_seed(self.candidates, entry.run)) is not None:
                self.known[entry.run] = candidate
        for entry in self.plan.entries:  # a killed command may not have noted the last ends
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
        self._num_seen = len(ended)
        jobs = list[Job]()
        while may_start and len(self._running) < self.num_slots and (job := self._next()) is not None:
            key = job.run, job.fold
            share, epochs = self.results.share(*key), self._rung.pop(key, None)
            self._running[key] = _Running(self.now(), share, epochs)
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
        runs = [entry for entry in self.plan.entries if entry.state == "done"]
        return {"num_candidates": len(self.candidates), "num_trials": len(tried), "num_runs": len(runs)}

    def as_written(self) -> Plan:
        """The plan with what would come next."""
        further: dict[str, Entry] = {}
        for group, plan in self.outlook.items():
            for planned in plan:
                if self.plan.find(planned.candidate.name) is None:
                    entry = self._entry(planned, group, "planned; it may change")
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
        if ended.state == "done" and candidate is not None and not ran.share:
            self.times.record(candidate, self.now() - ran.since)
        if ended.state == "failed":
            self._failed.add(key)
        entry = self.plan.find(ended.job.run)
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

    # What comes next

    def _next(self) -> Job | None:
        """The next job, in the order of the plan; None if nothing is left that is worth its time."""
        while True:
            if waiting := [key for key in self._rung if key not in self._running]:
                return self.make_job(*waiting[0])
            if (job := self._next_of_plan()) is not None:
                return job
            if not self.plan.extend or self.now() >= self.ends():
                return None
            short_fits = self._rung or any(job.stop_after for job in self._running.values())
            if short_fits or not all(map(self._are_finished, self.groups)):  # they decide what comes next
                return None
            if not (self._try_out() or self._choose()):
                return None

    def _next_of_plan(self) -> Job | None:
        for entry in self.plan.entries:
            if entry.state in ("done", "failed"):
                continue
            finished = self.results.finished_folds(entry.run)
            for fold in range(self.num_folds):
                key = entry.run, fold
                if fold not in finished and key not in self._running and key not in self._failed:
                    if entry.state != "running":
                        entry.state = "running"
                        self.changed()
                    return self.make_job(entry.run, fold)
        return None

    def _choose(self) -> bool:
        """One round: each group chooses its next run; False if none does.

        The first two runs are chosen by the counts of classes alone, by both groups alike: a submission
        is there early, and a good one soon after.
        """
        situations = {group: self._situation(group) for group in self.groups}
        firsts, number = dict[Group, Planned](), len(self.plan.choices[0])
        if number < len(_FIRST):
            usual, why = _FIRST[number]
            firsts = {group: one for group, now in situations.items() if (one := usual(now))}
        if not firsts:
            why = "takes most off the blend's expected loss for its time"
            plans = {group: make_plan(now) for group, now in situations.items()}
            firsts = {group: plan[0] for group, plan in plans.items() if plan}
            self.outlook = {group: plan[1:] for group, plan in plans.items()}
        if not firsts:
            why = "begun in the time that is left; more HOURS finish it"
            firsts = {group: one for group in self.groups if (one := self._begin_anyway(group))}
        for group, planned in sorted(firsts.items(), key=lambda first: first[1].candidate.name):
            self._add(planned, group, why)
        self.changed()
        return bool(firsts)

    def _add(self, planned: Planned, group: Group, why: str) -> None:
        candidate = planned.candidate
        self.known[candidate.name] = candidate
        self.plan.choices[self.groups.index(group)].append(candidate.name)
        if (entry := self.plan.find(candidate.name)) is not None:  # the other group chose it, too
            entry.by = tuple(sorted({*entry.by, *group}))
            return
        entry = self._entry(planned, group, why)
        if self.is_done(entry.run):  # it was trained by hand
            self._finish(entry)
        self.plan.entries.append(entry)

    @staticmethod
    def _entry(planned: Planned, folds: Group, why: str) -> Entry:
        candidate, minutes = planned.candidate, planned.seconds / 60
        settings = shlex.join(candidate.overrides)
        entry = Entry(candidate.name, candidate.input.model, settings, folds, why=why)
        entry.minutes, entry.loss, entry.blend = minutes, planned.loss, planned.blend
        return entry

    def _situation(self, group: Group) -> Situation:
        """What a group's plan starts from: scores of the runs that it chose, without its own labels.

        The other group's runs are left out, since it may have chosen them by labels of this one; so are the
        last ones chosen, finished or not, since that may depend on how many runs the other group chose.
        """
        return Situation(
            [candidate for candidate in self.candidates if not self._has_failed(candidate)],
            self.results.evidence(group, self._known_to(group), self._tried_by(group)),
            self._chosen_by(group),
            self.times.seconds,
            self._free(),
            self.ends() - self.now(),
            self.num_folds,
            num_seeds=self.num_seeds,
        )

    def _chosen_by(self, group: Group) -> list[Candidate]:
        """The runs that a group chose, in order, without those that failed."""
        chosen = self.plan.choices[self.groups.index(group)]
        entries = [entry for run in chosen if (entry := self.plan.find(run)) is not None]
        runs = [entry.run for entry in entries if entry.state != "failed"]
        return [self.known[run] for run in runs if run in self.known]

    def _known_to(self, group: Group) -> list[Candidate]:
        """The runs that a group chose, without the last ones: they may run when the next is chosen."""
        chosen = self._chosen_by(group)
        lag = 1 + self.num_slots // self.num_folds
        return chosen[: max(0, len(chosen) - lag)]

    def _are_finished(self, group: Group) -> bool:
        """Whether the runs that count for a group's next choice are finished."""
        return all(self.is_done(candidate.name) for candidate in self._known_to(group))

    def _tried_by(self, group: Group) -> dict[Candidate, int]:
        """The short fits that a group asked for, and the epochs up to which it did."""
        return {
            self.known[run]: epochs
            for epochs, runs in sorted(self.plan.trials.items())
            for run, by in runs.items()
            if group[0] in by and run in self.known
        }

    def _free(self) -> list[float]:
        """Seconds until each slot is free."""
        left = []
        for (run, _), job in self._running.items():
            candidate = self.known.get(run)
            whole = 0.0 if candidate is None else self.times.seconds(candidate)
            if candidate is not None and job.stop_after is not None:
                whole *= job.stop_after / candidate.epochs
            left.append(max(0.0, whole * (1 - job.share) - (self.now() - job.since)))
        return [*left, *[0.0] * (self.num_slots - len(left))]

    def _has_failed(self, candidate: Candidate) -> bool:
        return any(run == candidate.name for run, _ in self._failed)

    def _begin_anyway(self, group: Group) -> Planned | None:
        """The run that is worth most for its time, although it will not be finished in time."""
        if self.ends() - self.now() < _LEAST_SECONDS:
            return None
        plan = make_plan(replace(self._situation(group), left=_FOREVER, most=1))
        return plan[0] if plan else None

    # Short fits

    def _try_out(self) -> bool:
        """Begin the next rung of short fits, before the first tuned run is chosen; False: there is none.

        Each group tries what its own plan holds, and keeps the better half of that for the next rung.
        """
        left = [epochs for epochs in TRIAL_EPOCHS if epochs > max(self.plan.trials, default=0)]
        if not left:
            return False
        plans = {group: make_plan(self._situation(group)) for group in self.groups}
        if len(self.plan.choices[0]) < len(_FIRST) or not any(plans.values()):
            return False  # the runs that no score chooses come first
        epochs, runs = left[0], dict[str, list[int]]()
        for group, plan in plans.items():
            chosen = {one.family for one in self._chosen_by(group)}
            proposed = [one for one in _different(plan) if one not in chosen]
            wanted = self._better_half(group) if self.plan.trials else proposed
            for candidate in self._affordable(wanted, epochs):
                runs.setdefault(candidate.name, []).extend(group)
        self.plan.trials[epochs] = runs
        if runs:
            _log.info("short fits up to epoch %d, to compare: %s", epochs, ", ".join(runs))
        self._begin_rung(epochs)
        self.changed()
        return True

    def _begin_rung(self, epochs: int) -> None:
        """Queue the short fits of a rung that are not scored yet."""
        for run, by in self.plan.trials[epochs].items():
            for group in self.groups:  # on a fold of the other group
                fold = other_folds(self.groups, group)[0]
                if run in self.known and group[0] in by and self.results.epochs_scored(run, fold) < epochs:
                    self._rung[run, fold] = epochs

    def _better_half(self, group: Group) -> list[Candidate]:
        """The better half of the candidates that a group tried in the last rung."""
        tried = self._tried_by(group)
        expected = predict_log_losses([*tried], self.results.evidence(group, [], tried))
        return [[*tried][n] for n in sorted(np.argsort(expected)[: (len(tried) + 1) // 2])]

    def _affordable(self, candidates: Sequence[Candidate], epochs: int) -> list[Candidate]:
        """As many of a group's candidates as the time for a rung allows; none if only one is left."""
        share = TRIAL_SHARE / len(TRIAL_EPOCHS) / len(self.groups)
        left = share * self.num_slots * (self.ends() - self.now())
        affordable = list[Candidate]()
        for candidate in candidates:
            if candidate.epochs > epochs and len(affordable) < _MOST_TRIALS:
                left -= self.times.seconds(candidate) * epochs / candidate.epochs
                affordable += [candidate] if left >= 0 else []
        return affordable if len(affordable) > 1 else []


def _different(plan: Sequence[Planned]) -> list[Candidate]:
    """The tuned candidates of a plan; of those that differ in seed or length alone, the first."""
    tuned = [one.candidate.family for one in plan if not one.candidate.is_frozen]
    firsts = {(one.input, one.recipe, one.even): one for one in reversed(tuned)}
    return [one for one in dict.fromkeys(tuned) if one in firsts.values()]


def _with_seed(candidates: Collection[Candidate], run: str) -> Candidate | None:
    """The candidate of that name, with any seed."""
    for candidate in candidates:
        if candidate.name == run:
            return candidate
        prefix = f"{candidate.name}_seed"
        if run.startswith(prefix) and run.removeprefix(prefix).isdecimal():
            return replace(candidate, seed=int(run.removeprefix(prefix)))
    return None
