"""Successive halving: many settings get an epoch on a fold, and the better half of them goes on.

After Jamieson and Talwalkar (2016), over epochs first and over folds last. What differs: the folds are in two
groups. Which settings go on for a group is decided by the labels of the other group, so no fold is
predicted by settings that its own labels chose. A short fit keeps its checkpoint and goes on from there.

Nothing but finished trainings is remembered: the scores on disk decide, so that a killed search goes on, and
one with more trials or time takes over all that is done.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile, zip_longest
from statistics import median

from distracted.compete.groups import Group, other_folds
from distracted.jobs.grid import Ended, Job

#: Settings that each group trains over all folds, if there is time.
FINALISTS = 2
_STARTUP = 10.0  # seconds until a job's process begins its work
_PREDICTION = 0.5  # epochs that the predictions of a fold take
_DISAGREE = 1.5  # finalists of both groups together, as a multiple of one group's
_FAILED = math.inf  # loss of a training that failed

Key = tuple[str, int]  # of a job: run and fold
#: Returns the log loss of some held-out folds together after some epochs (None: of finished folds); None:
#: not all of them are scored.
LossAfter = Callable[[str, Sequence[int], int | None], float | None]


@dataclass(frozen=True)
class Rung:
    """How far settings are trained before they are compared.

    Attributes:
        epochs: Epochs of gradient descent; None: all.
        all_folds: Whether on all folds of the other group, or on its first.
    """

    epochs: int | None
    all_folds: bool = False

    def __str__(self) -> str:
        if self.all_folds:
            return "half of the folds"
        return "one fold" if self.epochs is None else f"epoch {self.epochs} of one fold"


def make_rungs(epochs: int) -> tuple[Rung, ...]:
    """The rungs of trainings with so many epochs: each doubles the work of the one before."""
    short, number = [], 1
    while number < epochs:
        short.append(Rung(number))
        number *= 2
    return (*short, Rung(None), Rung(None, all_folds=True))


@dataclass(eq=False)
class Halving:
    """A search under way.

    Attributes:
        trials: Runs, in the order in which they were drawn.
        epochs: Epochs of gradient descent of each run.
        groups: The folds, in two groups of which each chooses by the labels of the other.
        make_job: The job of a run's fold, with its resources.
        now, ends: Seconds so far, and when all jobs have to be finished.
        failed: Runs that failed, with the reason.
    """

    trials: Sequence[str]
    epochs: Mapping[str, int]
    groups: Sequence[Group]
    loss_after: LossAfter
    make_job: Callable[[str, int], Job]
    num_slots: int
    now: Callable[[], float]
    ends: Callable[[], float]
    finalists: int = FINALISTS
    failed: dict[str, str] = field(default_factory=dict)
    _running: dict[Key, tuple[float, float]] = field(default_factory=dict)  # start, and epochs of its work
    _stops: dict[Key, int | None] = field(default_factory=dict)  # of the jobs that were handed out
    _seconds: list[float] = field(default_factory=list)  # of an epoch
    _entered: dict[tuple[Group, int], list[str]] = field(default_factory=dict)
    _known: dict[tuple[str, Group, int | None], float] = field(default_factory=dict)
    _num_seen: int = 0

    def __post_init__(self) -> None:
        self.rungs = make_rungs(max(self.epochs.values()))
        self.num_folds = sum(map(len, self.groups))

    def next_jobs(self, ended: Sequence[Ended], *, may_start: bool = True) -> list[Job]:
        """Jobs to start now, after some have ended; none once the finalists are trained."""
        for one in ended[self._num_seen :]:
            self._end(one)
        self._num_seen = len(ended)
        jobs = list[Job]()
        while may_start and len(self._running) < self.num_slots and (found := self._next()) is not None:
            key, epochs = found
            self._stops[key] = epochs if epochs is not None and epochs < self.epochs[key[0]] else None
            self._running[key] = self.now(), self._work(key, self._stops[key])
            jobs.append(self.make_job(*key))
        return jobs

    def stop_after(self, job: Job) -> int | None:
        """The epochs after which a job stops; None: it finishes its fold."""
        return self._stops[job.run, job.fold]

    @property
    def running(self) -> list[Key]:
        """Run and fold of the jobs that run now."""
        return list(self._running)

    def loss(self, run: str, group: Group, rung: Rung) -> float | None:
        """What a group knows of a run at a rung: the log loss on the other group's folds."""
        return self._loss(run, self._folds(group, rung), rung.epochs)

    def entered(self, group: Group, number: int) -> list[str] | None:
        """The runs that a group trains to a rung; None: not decided yet.

        After the last rung, or once few are left, these are the finalists.
        """
        known = self._entered.get((group, number))
        if known is None and (known := self._enter(group, number)) is not None:
            self._entered[group, number] = known
        return known

    def finalists_of(self, group: Group) -> list[str] | None:
        """The runs that a group trains over all folds; None: not decided yet."""
        return self.entered(group, len(self.rungs))

    def losses(self, run: str) -> list[float]:
        """A run's log loss at each rung that it reached, mean over the groups that know it; for readers."""
        by_rung = [[self.loss(run, group, rung) for group in self.groups] for rung in self.rungs]
        known = [[loss for loss in losses if loss is not None] for losses in by_rung]
        return [sum(losses) / len(losses) for losses in takewhile(bool, known)]

    def is_begun(self, run: str) -> bool:
        """Whether anything of a run is scored, or it failed."""
        return bool(self.losses(run)) or run in self.failed

    def is_left(self, run: str) -> bool:
        """Whether a group may still choose a run."""
        last = [decided[-1] for group in self.groups if (decided := self._decided(group))]
        return run not in self.failed and (not last or any(run in runs for runs in last))

    def num_left(self) -> list[int]:
        """The number of runs at each rung that is decided, of both groups together."""
        decided = zip_longest(*map(self._decided, self.groups), fillvalue=())
        return [len({run for runs in at for run in runs}) for at in decided]

    def is_complete(self, run: str) -> bool:
        """Whether all folds of a run are finished."""
        return self._loss(run, range(self.num_folds), None) is not None

    def offered(self) -> list[list[str]] | None:
        """For each fold the finished runs that its group chose; None: a group has none."""
        by_fold = dict[int, list[str]]()
        for group in self.groups:
            complete = [run for run in self.finalists_of(group) or () if self.is_complete(run)]
            by_fold |= dict.fromkeys(group, complete)
        offered = [by_fold[fold] for fold in sorted(by_fold)]
        return offered if all(offered) else None

    def seconds_left(self) -> float | None:
        """Expected seconds to the end; None: not known before a job has ended."""
        if not self._seconds:
            return None
        epoch = median(self._seconds)
        work = [_STARTUP + epoch * self._work(key, epochs) for _, key, epochs in self._wanted()]
        left = sum(work) / self.num_slots
        for group in self.groups:
            decided = self._decided(group)
            if 0 < len(decided) <= len(self.rungs):  # about half of the last ones go on
                left += self._expect(self._half(len(decided[-1])), len(decided)) / len(self.groups)
        return left

    # How it goes on

    def _loss(self, run: str, folds: Sequence[int], epochs: int | None) -> float | None:
        """As `loss_after`; what is scored is read once."""
        key = run, tuple(folds), epochs
        if key not in self._known and (loss := self.loss_after(run, folds, epochs)) is not None:
            self._known[key] = loss
        return self._known.get(key)

    def _decided(self, group: Group) -> list[list[str]]:
        """The runs of a group at each rung, as far as they are decided."""
        entered = (self.entered(group, number) for number in range(len(self.rungs) + 1))
        return [runs for runs in entered if runs is not None]

    def _enter(self, group: Group, number: int) -> list[str] | None:
        if number == 0:
            return self._first()
        before = self.entered(group, number - 1)
        if before is None:
            return None
        left = [run for run in before if run not in self.failed]
        if len(left) <= self.finalists:
            return left  # nothing to leave out
        losses = [self.loss(run, group, self.rungs[number - 1]) for run in left]
        scored = [loss for loss in losses if loss is not None]
        if len(scored) < len(left):
            return None
        most = self._half(len(left)) if number < len(self.rungs) else self.finalists
        order = sorted(range(len(left)), key=lambda n: (scored[n], n))
        kept = sorted(order[: self._affordable(most, number)])
        return [left[n] for n in kept]

    def _first(self) -> list[str] | None:
        """The trials that the time allows, which is known once a job has ended; None: not yet."""
        if not self._seconds and math.isfinite(self.ends()):
            return None
        first = self.rungs[0]
        begun = [run for run in self.trials if any(self.loss(run, g, first) is not None for g in self.groups)]
        return list(self.trials[: max(len(begun), self._affordable(len(self.trials), 0))])

    def _affordable(self, most: int, number: int) -> int:
        """How many runs of each group, at most `most`, can go on from a rung and end in time."""
        left = self.ends() - self.now()
        return next((n for n in range(most, 1, -1) if self._expect(n, number) <= left), 1)

    def _half(self, num_runs: int) -> int:
        """How many of so many runs go on to the next rung."""
        return max(self.finalists, math.ceil(num_runs / 2))

    def _expect(self, num_runs: int, number: int) -> float:
        """Expected seconds from a rung to the end, with so many runs of each group there."""
        epoch = median(self._seconds) if self._seconds else 0.0
        whole, jobs, epochs = max(self.epochs.values()), 0.0, 0.0
        done = (self.rungs[number - 1].epochs or whole) if number else 0
        for rung in self.rungs[number:]:
            if num_runs <= self.finalists:
                break
            folds = self.num_folds / 2 if rung.all_folds else 1
            until = whole if rung.epochs is None else rung.epochs
            jobs += 2 * num_runs * folds
            epochs += 2 * num_runs * (folds * (until - done) + (rung.epochs is None) * _PREDICTION)
            done, num_runs = 0 if rung.all_folds else until, self._half(num_runs)
        last = _DISAGREE * min(num_runs, self.finalists) * self.num_folds
        jobs, epochs = jobs + last, epochs + last * (whole + _PREDICTION)
        return (jobs * _STARTUP + epochs * epoch) / self.num_slots

    def _folds(self, group: Group, rung: Rung) -> Group:
        others = other_folds(self.groups, group)
        return others if rung.all_folds else others[:1]

    def _next(self) -> tuple[Key, int | None] | None:
        """The next job, with its epochs (None: all of the fold's), the lowest rung first."""
        free = [one for one in self._wanted() if one[1] not in self._running]
        return min(free, key=lambda one: one[0])[1:] if free else None

    def _wanted(self) -> list[tuple[int, Key, int | None]]:
        """The jobs that are not done, with their rungs and epochs, as far as they are decided."""
        wanted = list[tuple[int, Key, int | None]]()
        for group in self.groups:
            for number, rung in enumerate(self.rungs):
                runs = self.entered(group, number)
                if runs is None and number == 0:  # the first jobs show how long an epoch takes
                    runs = list(self.trials[: self.num_slots])
                elif runs is None or len(runs) <= self.finalists:  # there is nothing to compare
                    continue
                wanted += self._unscored(number, runs, self._folds(group, rung), rung.epochs)
            finalists = self.finalists_of(group) or ()
            wanted += self._unscored(len(self.rungs), finalists, range(self.num_folds), None)
        return wanted

    def _unscored(
        self, number: int, runs: Sequence[str], folds: Sequence[int], epochs: int | None
    ) -> list[tuple[int, Key, int | None]]:
        left = [run for run in runs if run not in self.failed]
        keys = [(run, fold) for run in left for fold in folds if self._loss(run, [fold], epochs) is None]
        return [(number, key, epochs) for key in keys]

    def _end(self, ended: Ended) -> None:
        run, fold = key = ended.job.run, ended.job.fold
        since, work = self._running.pop(key)
        if ended.state == "failed":
            self.failed[run] = ended.reason
        elif self._loss(run, [fold], self._stops[key]) is not None:
            self._seconds.append(max(0.0, self.now() - since - _STARTUP) / work)
        elif ended.state == "done":
            self.failed[run] = "it ended without a score"

    def _work(self, key: Key, epochs: int | None) -> float:
        """Epochs of a job's work, with its predictions."""
        run, fold = key
        whole = self.epochs[run]
        shorter = [rung.epochs for rung in self.rungs if rung.epochs is not None]
        done = [
            n for n in shorter if n < min(epochs or whole, whole) and self._loss(run, [fold], n) is not None
        ]
        until = whole + _PREDICTION if epochs is None else epochs
        return max(_PREDICTION, until - max(done, default=0))
