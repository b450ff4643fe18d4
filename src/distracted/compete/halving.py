"""Successive halving: many settings get an epoch on a fold, and the better half of them goes on.

After Jamieson and Talwalkar (2016), over epochs first and over folds last. What differs: the folds are in two
groups, and the labels of one group decide which settings the other group keeps. A short fit keeps its
checkpoint and goes on from there.

Decisions are kept in a file and never taken back. A search that is killed goes on with them; one with more
trials or more time adds to them, and so does a setting that takes the place of a failed one.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile, zip_longest
from pathlib import Path

from pydantic import BaseModel

from distracted.compete.groups import Group, other_folds
from distracted.compete.rungs import PREDICTION, Effort, Rung, make_rungs
from distracted.errors import first_line
from distracted.files import write_json
from distracted.jobs.grid import Ended, Job

_log = logging.getLogger(__name__)

#: Settings that each group trains over all folds, if there is time.
FINALISTS = 2

Key = tuple[str, int]  # of a job: run and fold
#: Returns the log loss of some held-out folds together after some epochs (None: of finished folds); None:
#: not all of them are scored.
LossAfter = Callable[[str, Sequence[int], int | None], float | None]


@dataclass(eq=False)
class Halving:
    """A search under way.

    Attributes:
        trials: Runs, in the order in which they were drawn.
        epochs: Epochs of gradient descent of each run.
        groups: The folds, in two groups of which each chooses by the labels of the other.
        make_job: The job of a run's fold, with its resources.
        startup: Seconds until a job's process begins its work.
        now, ends: Seconds so far, and when all jobs have to be finished.
        path: The file of decisions; None: they are not kept.
        failed: Runs that failed, with the reason.
    """

    trials: Sequence[str]
    epochs: Mapping[str, int]
    groups: Sequence[Group]
    loss_after: LossAfter
    make_job: Callable[[str, int], Job]
    num_slots: int
    startup: float
    now: Callable[[], float]
    ends: Callable[[], float]
    path: Path | None = None
    finalists: int = FINALISTS
    failed: dict[str, str] = field(default_factory=dict)
    _running: dict[Key, tuple[float, float]] = field(default_factory=dict)  # start, and epochs of its work
    _stops: dict[Key, int | None] = field(default_factory=dict)  # of the jobs that were handed out
    _known: dict[tuple[str, Group, int | None], float] = field(default_factory=dict)
    _num_seen: int = 0

    def __post_init__(self) -> None:
        self.rungs = make_rungs(max(self.epochs.values()))
        kept = _read(self.path)
        self._effort = Effort(
            self.rungs,
            max(self.epochs.values()),
            num_folds=sum(map(len, self.groups)),
            num_groups=len(self.groups),
            finalists=self.finalists,
            startup=self.startup,
            epoch_seconds=kept.epoch_seconds,
        )
        decided = kept.decided
        same = len(decided) == len(self.groups) and all(len(one) == len(self.rungs) + 1 for one in decided)
        #: By group and rung: the runs that were decided to go there; None: not decided yet.
        self._decided: list[list[list[str] | None]] = (
            decided if same else [[None] * (len(self.rungs) + 1) for _ in self.groups]
        )
        #: What each decision was made among, in this process: made again if that changes.
        self._among: dict[tuple[Group, int], tuple[str, ...]] = {}
        #: Jobs whose time says nothing: they may go on inside an epoch.
        self._num_odd = self.num_slots if kept.decided else 0

    def next_jobs(self, ended: Sequence[Ended], *, may_start: bool = True) -> list[Job]:
        """Jobs to start now, after some have ended; none once the finalists are trained."""
        for one in ended[self._num_seen :]:
            self._end(one)
        self._num_seen = len(ended)
        jobs = list[Job]()
        while may_start and len(self._running) < self.num_slots and (best := self._next()) is not None:
            key, epochs = best
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

    # What is known, for readers too

    def loss(self, run: str, group: Group, rung: Rung) -> float | None:
        """What a group knows of a run at a rung: the log loss on the other group's folds."""
        return self._loss(run, self._folds(group, rung), rung.epochs)

    def losses(self, run: str) -> list[float]:
        """A run's log loss at each rung that it reached, mean over the groups that know it; for readers."""
        by_rung = [[self.loss(run, group, rung) for group in self.groups] for rung in self.rungs]
        known = [[loss for loss in losses if loss is not None] for losses in by_rung]
        return [sum(losses) / len(losses) for losses in takewhile(bool, known)]

    def is_begun(self, run: str) -> bool:
        """Whether anything of a run is scored, or it failed."""
        return run in self.failed or any(self.loss(run, g, self.rungs[0]) is not None for g in self.groups)

    def is_left(self, run: str) -> bool:
        """Whether a group may still choose a run."""
        last = [decided[-1] for group in self.groups if (decided := self._decisions(group))]
        return run not in self.failed and (not last or any(run in runs for runs in last))

    def dropped(self) -> list[str]:
        """Runs that were begun, and that no group goes on with."""
        return [run for run in self.trials if self.is_begun(run) and not self.is_left(run)]

    def num_left(self) -> list[int]:
        """The number of runs at each rung that is decided, of both groups together."""
        decided = zip_longest(*map(self._decisions, self.groups), fillvalue=())
        return [len({run for runs in at for run in runs}) for at in decided]

    def is_complete(self, run: str) -> bool:
        """Whether all folds of a run are finished."""
        return self._loss(run, range(self._effort.num_folds), None) is not None

    def offered(self) -> list[list[str]] | None:
        """For each fold the finished runs that its group chose; None: a group has none."""
        by_fold = dict[int, list[str]]()
        for group in self.groups:
            complete = [run for run in self.entered(group, len(self.rungs)) or () if self.is_complete(run)]
            by_fold |= dict.fromkeys(group, complete)
        offered = [by_fold[fold] for fold in sorted(by_fold)]
        return offered if all(offered) else None

    def seconds_left(self) -> float | None:
        """Expected seconds to the end; None: not known before a job has ended."""
        if not self._effort.epoch_seconds:
            return None
        wanted = sorted(self._wanted(), key=lambda one: one[0])
        work = {key: self._effort.seconds(self._work(key, epochs)) for _, key, epochs in wanted}
        done = {key: self.now() - since for key, (since, _) in self._running.items()}
        left = sum(max(0.0, seconds - done.get(key, 0.0)) for key, seconds in work.items())
        for group in self.groups:
            decided = self._decisions(group) or [self._begun(self._alive())]
            if len(decided) <= len(self.rungs):  # about half of the last ones go on
                left += self._effort.to_the_end(self._effort.half(len(decided[-1])), len(decided))
        return left / self.num_slots

    # Decisions

    def entered(self, group: Group, number: int) -> list[str] | None:
        """The runs that a group trains to a rung; None: not decided yet.

        After the last rung, or once few are left, these are the finalists.
        """
        place = self.groups.index(group)
        before = self.trials if number == 0 else self.entered(group, number - 1)
        if before is None:
            return None
        alive = tuple(run for run in before if run not in self.failed)
        earlier = self._decided[place][number]
        if earlier is not None and self._among.get((group, number)) == alive:
            return earlier
        chosen = self._first(alive) if number == 0 else self._better(alive, group, number)
        if chosen is None:
            return None
        chosen = [run for run in before if run in chosen or run in (earlier or ())]
        self._decided[place][number], self._among[group, number] = chosen, alive
        self._write()
        return chosen

    def _decisions(self, group: Group) -> list[list[str]]:
        """The runs of a group at each rung, as far as they are decided."""
        entered = (self.entered(group, number) for number in range(len(self.rungs) + 1))
        return [runs for runs in entered if runs is not None]

    def _first(self, alive: Sequence[str]) -> list[str] | None:
        """The trials that the time allows; None while these are not all scored: times may change."""
        begun = self._begun(alive)
        if all(self.loss(run, group, self.rungs[0]) is not None for run in begun for group in self.groups):
            return begun
        return None

    def _alive(self) -> list[str]:
        return [run for run in self.trials if run not in self.failed]

    def _begun(self, alive: Sequence[str]) -> list[str]:
        """The trials that are scored already, or that the time allows besides."""
        if math.isinf(self.ends()):
            return list(alive)
        scored = [n for n, run in enumerate(alive) if self.is_begun(run)]
        number = max(max(scored, default=-1) + 1, self.num_slots)
        if self._effort.epoch_seconds:
            number = max(number, self._affordable(len(alive), 0, len(scored)))
        return list(alive[:number])

    def _better(self, alive: Sequence[str], group: Group, number: int) -> list[str] | None:
        """The better half, as far as time allows; None: not all are scored."""
        if len(alive) <= self.finalists:
            return list(alive)  # nothing to leave out
        losses = [self.loss(run, group, self.rungs[number - 1]) for run in alive]
        scored = [loss for loss in losses if loss is not None]
        if len(scored) < len(alive):
            return None
        most = self._effort.half(len(alive)) if number < len(self.rungs) else self.finalists
        order = sorted(range(len(alive)), key=lambda n: (scored[n], n))
        return [alive[n] for n in order[: self._affordable(most, number)]]

    # Time

    def _affordable(self, most: int, number: int, num_scored: int = 0) -> int:
        """How many runs of each group, at most `most`, can go on from a rung and end in time."""
        left = (self.ends() - self.now()) * self.num_slots / len(self.groups)
        saved = num_scored * self._effort.seconds(1)
        return next((n for n in range(most, 1, -1) if self._effort.to_the_end(n, number) - saved <= left), 1)

    def _work(self, key: Key, epochs: int | None) -> float:
        """Epochs of a job's work, with its predictions."""
        run, fold = key
        whole = self.epochs[run]
        shorter = [rung.epochs for rung in self.rungs if rung.epochs is not None]
        until = whole if epochs is None else min(epochs, whole)
        done = [n for n in shorter if n < until and self._loss(run, [fold], n) is not None]
        return max(PREDICTION, until - max(done, default=0) + (PREDICTION if epochs is None else 0))

    # Jobs

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
                if runs is None and number == 0:
                    runs = self._begun(self._alive())
                elif runs is None or len(runs) <= self.finalists:  # there is nothing to compare
                    continue
                wanted += self._unscored(number, runs, self._folds(group, rung), rung.epochs)
            finalists = self.entered(group, len(self.rungs)) or ()
            wanted += self._unscored(len(self.rungs), finalists, range(self._effort.num_folds), None)
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
            if self._num_odd > 0:
                self._num_odd -= 1
            else:
                self._effort.record(self.now() - since, work)
            self._write()
        elif ended.state == "done":
            self.failed[run] = "it ended without a score"

    def _folds(self, group: Group, rung: Rung) -> Group:
        others = other_folds(self.groups, group)
        return others if rung.all_folds else others[:1]

    def _loss(self, run: str, folds: Sequence[int], epochs: int | None) -> float | None:
        """As `loss_after`; what is scored is read once. A diverged run is the worst."""
        key = run, tuple(folds), epochs
        if key not in self._known and (loss := self.loss_after(run, folds, epochs)) is not None:
            self._known[key] = loss if math.isfinite(loss) else math.inf
        return self._known.get(key)

    def _write(self) -> None:
        if self.path is not None:
            write_json(self.path, {"epoch_seconds": self._effort.epoch_seconds, "decided": self._decided})


class _Kept(BaseModel):
    """What an earlier process noted; `decided` is empty if it noted nothing."""

    epoch_seconds: list[float] = []
    decided: list[list[list[str] | None]] = []


def _read(path: Path | None) -> _Kept:
    """The decisions of an earlier process; none if there are none that can be read."""
    try:
        return _Kept() if path is None else _Kept.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _Kept()
    except (OSError, ValueError) as error:
        _log.warning("%s: not readable (%s); decided again by the scores", path, first_line(error))
        return _Kept()
