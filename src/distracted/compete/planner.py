"""Which runs to train in the time that is left, and in which order: a plan for one group of folds.

The plan is for the lowest expected loss of the blend at the end, and among about equal ones for the lowest on
the way: runs are added one after another by what they take off the loss for each second; the same is tried
from each of the best single runs, since many small runs can fill the time that one large run needs.
"""

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distracted.compete.candidates import EPOCHS, NUM_SEEDS, TUNED, Candidate, further_seeds
from distracted.compete.value import (
    Evidence,
    Floats,
    blend_log_loss,
    blends_with_one_more,
    error_covariance,
    predict_log_losses,
)

#: Returns the seconds that a job, one fold of a candidate, takes.
Seconds = Callable[[Candidate], float]

#: Times are expected to be this much longer.
MARGIN = 1.05

_STARTS = 4  # best single runs that a plan is tried to begin with
_ON_THE_WAY = 0.15  # weight of the mean loss on the way against that at the end
_EQUAL_RATES, _EQUAL_COSTS = 0.15, 0.03  # differences that count as none
_EARLY = 0.35  # share of the time in which the default run should end
_QUICK = 0.03  # share of the time in which the first run may end, if it can
_SLOWNESS = 0.25  # what a slower backbone is worth, against as many times the epochs
_LEAST = 0.003  # fall of the blend's loss, as a share, for which a run is worth training


@dataclass(frozen=True)
class Planned:
    """A run of a plan.

    Attributes:
        loss: Its expected log loss.
        blend: Expected log loss of the blend with it and all runs before it.
        seconds: Seconds of all its jobs, one after another.
        ends: Seconds from now at which it ends.
    """

    candidate: Candidate
    loss: float
    blend: float
    seconds: float
    ends: float


class Slots:
    """The places in which jobs run, and the seconds from now until each is free."""

    def __init__(self, free: Sequence[float]) -> None:
        self._free = list(free)
        heapq.heapify(self._free)

    @property
    def free(self) -> list[float]:
        """Seconds until each is free."""
        return list(self._free)

    def copy(self) -> "Slots":
        return Slots(self._free)

    def add(self, num_jobs: int, seconds: float) -> float:
        """Run some jobs as soon as there is room; returns when the last one ends."""
        return max(heapq.heapreplace(self._free, self._free[0] + seconds) + seconds for _ in range(num_jobs))


@dataclass(frozen=True)
class Situation:
    """What a plan starts from.

    Attributes:
        candidates: With the first seed each.
        chosen: Runs that are finished or will be without this plan.
        failed: Settings, with the first seed each, of which a run failed: no further seed is chosen.
        seconds: Returns the seconds that a job, one fold of a candidate, takes.
        free: Seconds until each slot is free.
        left: Seconds until all runs have to be finished.
        num_folds: Jobs of a run.
        most: Runs of a plan at most.
        num_seeds: Seeds of one setting at most.
    """

    candidates: Sequence[Candidate]
    evidence: Evidence
    chosen: Sequence[Candidate]
    seconds: Seconds
    free: Sequence[float]
    left: float
    num_folds: int
    most: int = 30
    num_seeds: int = NUM_SEEDS
    failed: Collection[Candidate] = ()


def make_plan(now: Situation) -> list[Planned]:
    """The runs that fit into the time, in their order; none if nothing fits that is worth it."""
    pool = _Pool(now)
    firsts = sorted(pool.fitting(Slots(now.free), pool.counts), key=lambda n: pool.log_losses[n])[:_STARTS]
    plans = [plan for first in (None, *sorted(firsts)) if (plan := pool.extend(first))]
    if not plans:
        return []
    costs = np.array([pool.cost(plan) for plan in plans])
    return plans[int(np.argmax(costs <= costs.min() + _EQUAL_COSTS))]


def _first_of_best(rates: Floats) -> int:
    """The first of those that are about as good as the best.

    The groups of folds plan by different labels. Where several choices are about equal, an order that no
    label has a say in lets them agree, so that fewer runs are trained for one group alone.
    """
    return int(np.argmax(rates >= (1 - _EQUAL_RATES) * rates.max()))


def quickest_run(now: Situation) -> Planned | None:
    """A head on frozen features, of the slowest backbone of those that cost next to nothing.

    No score has a say in it. None if there is no candidate.
    """
    frozen = [one for one in now.candidates if one.is_frozen and one not in now.failed]
    ends = {one: Slots(now.free).add(now.num_folds, now.seconds(one)) for one in frozen}
    enough = max(_QUICK * now.left, (1 + _EQUAL_RATES) * min(ends.values(), default=0.0))
    quick = [one for one in frozen if ends[one] <= enough]
    if not quick:
        return None
    best = max(quick, key=lambda one: now.seconds(replace(one, recipe=TUNED[0], epochs=EPOCHS)))
    loss = now.evidence.probes[best.input, False]
    return Planned(best, loss, loss, now.seconds(best) * now.num_folds, ends[best])


def default_run(now: Situation) -> Planned | None:
    """The usual fine-tuning that fits into the time; None if none fits.

    No score has a say in it.

    Larger images, more epochs up to the recipe's own and slower backbones count as better. It has to end well
    before the time is up, if one of them does.
    """
    usual = [c for c in now.candidates if c.recipe == TUNED[0] and 0 < c.epochs <= EPOCHS]
    usual = [c for c in usual if c not in now.failed]
    ends = {c: Slots(now.free).add(now.num_folds, now.seconds(c)) for c in usual}
    fitting = [c for c in usual if ends[c] <= _EARLY * now.left]
    fitting = fitting or [c for c in usual if MARGIN * ends[c] <= now.left]
    if not fitting:
        return None

    def worth(candidate: Candidate) -> float:
        sizes = [c.input.size for c in usual if c.input.model == candidate.input.model and c.input.own]
        relative = candidate.input.size / sizes[0] if sizes else 1.0
        slow = now.seconds(candidate) / (candidate.epochs * relative**2)
        return float(np.log(candidate.epochs) + np.log(relative) + _SLOWNESS * np.log(slow))

    best = max(fitting, key=worth)
    loss = float(np.exp(predict_log_losses([best], now.evidence)[0]))
    return Planned(best, loss, loss, now.seconds(best) * now.num_folds, ends[best])


class _Pool:
    """The chosen runs and all that could be chosen, by number, with what is expected of them.

    Attributes:
        place: Place of each among those of its settings: the chosen ones first, then further seeds in their
            order, (num_candidates,).
        family: Number of each one's settings, (num_candidates,).
        counts: Number of chosen runs of each settings: the next to be chosen has that place.
    """

    def __init__(self, now: Situation) -> None:
        self.now = now
        known = [one for one in now.candidates if (one.input, one.even) in now.evidence.probes]
        numbers = {candidate: number for number, candidate in enumerate(known)}
        taken: list[list[Candidate]] = [[] for _ in numbers]
        chosen = [candidate for candidate in now.chosen if candidate.family in numbers]
        for candidate in chosen:
            taken[numbers[candidate.family]].append(candidate)
        self.every, family, place = list[Candidate](), list[int](), list[int]()
        for candidate, number in numbers.items():
            members = [*taken[number]]
            if candidate not in now.failed:
                members += further_seeds(candidate, taken[number], now.num_seeds)
            self.every += members
            family += [number] * len(members)
            place += range(len(members))
        self.family, self.place = np.array(family), np.array(place)
        self.counts = np.array([len(of_family) for of_family in taken])
        at = {candidate: number for number, candidate in enumerate(self.every)}
        self.chosen = [at[candidate] for candidate in chosen]
        self.log_losses = predict_log_losses(self.every, now.evidence)
        self.covariance = error_covariance(self.every, self.log_losses, now.evidence)
        self.seconds = np.array([now.seconds(candidate) for candidate in numbers])[self.family]
        self._blends: dict[frozenset[int], float] = {}

    def fitting(self, slots: Slots, counts: NDArray[np.int64]) -> list[int]:
        """Candidates that may be chosen next and end in time."""
        numbers = np.flatnonzero(self.place == counts[self.family])
        ends = {s: slots.copy().add(self.now.num_folds, s) for s in np.unique(self.seconds[numbers])}
        return [int(n) for n in numbers if MARGIN * ends[self.seconds[n]] <= self.now.left]

    def blend(self, numbers: Sequence[int]) -> float:
        """Expected logarithm of the loss of a blend; of no run, a little worse than the worst candidate."""
        if not numbers:
            return float(self.log_losses.max()) + 0.5
        key = frozenset(numbers)
        if key not in self._blends:
            rows = sorted(key)
            self._blends[key] = blend_log_loss(self.covariance[np.ix_(rows, rows)])
        return self._blends[key]

    def with_one_more(self, numbers: Sequence[int], others: Sequence[int]) -> Floats:
        """As `blend` with each of several others added."""
        if not numbers:
            return self.log_losses[list(others)]
        return blends_with_one_more(self.covariance, numbers, others)

    def extend(self, first: int | None) -> list[Planned]:
        """Choose runs while one fits and is worth its time; `first` is taken in any case."""
        slots, numbers, counts = Slots(self.now.free), list(self.chosen), self.counts.copy()
        added = list[int]()
        while len(added) < self.now.most:
            best = self._best(slots, numbers, counts) if first is None else first
            if best is None:
                break
            first = None
            numbers.append(best)
            added.append(best)
            counts[self.family[best]] += 1
            slots.add(self.now.num_folds, self.seconds[best])
        ordered = self._as_plan(self._in_order(sorted(added)))
        in_time = all(MARGIN * planned.ends <= self.now.left for planned in ordered)
        return ordered if in_time else self._as_plan(added)

    def _best(self, slots: Slots, numbers: list[int], counts: NDArray[np.int64]) -> int | None:
        """The run that takes most off the blend's loss for each second, of those that end in time."""
        fitting = self.fitting(slots, counts)
        if not fitting:
            return None
        gains = self.blend(numbers) - self.with_one_more(numbers, fitting)
        if gains.max() <= _LEAST:
            return None
        return fitting[_first_of_best(np.where(gains > _LEAST, gains / self.seconds[fitting], 0.0))]

    def _in_order(self, left: list[int]) -> list[int]:
        """Runs in the order of what they take off the loss for each second."""
        ordered, left = list[int](), list(left)
        while left:
            numbers = [*self.chosen, *ordered]
            gains = self.blend(numbers) - self.with_one_more(numbers, left)
            ordered.append(left.pop(_first_of_best(gains / self.seconds[left])))
        return ordered

    def _as_plan(self, added: list[int]) -> list[Planned]:
        """What is expected of runs that are trained in this order."""
        slots, numbers, plan = Slots(self.now.free), list(self.chosen), list[Planned]()
        for number in added:
            numbers.append(number)
            loss, blend = float(np.exp(self.log_losses[number])), float(np.exp(self.blend(numbers)))
            ends = slots.add(self.now.num_folds, self.seconds[number])
            seconds = self.seconds[number] * self.now.num_folds
            plan.append(Planned(self.every[number], loss, blend, seconds, ends))
        return plan

    def cost(self, plan: list[Planned]) -> float:
        """What a plan is judged by: the logarithm of the loss at the end, and a little of that on the way."""
        at, level, area = 0.0, self.blend(self.chosen), 0.0
        for one in plan:
            ends = min(one.ends, self.now.left)
            area, at, level = area + level * max(0.0, ends - at), max(at, ends), float(np.log(one.blend))
        area += level * (self.now.left - at)
        return level + _ON_THE_WAY * area / max(self.now.left, 1e-9)
