"""Simulated competitions: `make compete`'s own planning, on made-up backbones, machines and clocks.

    PYTHONPATH=scripts python bench/simulated_competitions.py --number 200

A world draws backbones (how good, how slow), what each setting really scores, how the errors of runs hang
together, and a machine whose speed doubles and halves. Campaign, planner, clock and reserve are the real
ones; training, the engine and the time are simulated, and a blend is fitted and scored on simulated
predictions. The draws follow other laws than the planner's: its value model is not used to make them.

Compared at the same time, with the same screening: the best backbone by its probe with one seed after
another; each backbone once, the best probe first; and an oracle that knows every score and speed before it
starts.
"""

import heapq
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated
from zlib import crc32

import numpy as np
import typer
from numpy.typing import NDArray

from distracted.compete.campaign import Campaign
from distracted.compete.candidates import EPOCHS, NUM_SEEDS, Candidate, Input, all_candidates
from distracted.compete.clock import Clock
from distracted.compete.entries import TTA, Plan
from distracted.compete.groups import two_groups
from distracted.compete.run import Competing, Reserve
from distracted.compete.times import Speed, Times
from distracted.compete.value import Evidence, Trial
from distracted.jobs.grid import Command, Ended, Job, Log, Watch
from distracted.stopping import Stop

NUM_FOLDS = 5
_ROWS = 400
_STARTUP = 10.0
_TICKS = 400  # looks of an engine at its jobs, in the time of a competition
_LAST = 60.0  # seconds at the end, in which it looks every half second
_TRAIN, _VALID, _TEST = 1000, 250, 450  # images
_RECIPES = {"full": 1.0, "fine_tune": 0.6, "freeze_first_k": 0.8}  # seconds of a step, as shares

Floats = NDArray[np.float64]


class World:
    """One competition: what is true, and what screening measures."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([2411, seed])
        self.seed, self.num_models = seed, int(rng.integers(2, 7))
        self.jitter = 0.1  # of a job's seconds, as a logarithm
        self.tuning = rng.normal(-1.3, 0.6)  # of a tuned run against its frozen features
        self.slope = rng.uniform(0.6, 1.8)
        self.epochs = rng.normal(-0.3, 0.2)
        self.even = rng.normal(0.0, 0.3)
        self.level = rng.normal(-0.2, 0.7)  # of the best frozen features
        self.shares = rng.dirichlet([5, 2, 1.5, 1.5])  # of a run's errors: all, backbone, settings, its own
        self.spread = rng.uniform(1.5, 3.0)
        self.fold_effects = rng.normal(0, 0.4, NUM_FOLDS)
        self.folds = np.arange(_ROWS) % NUM_FOLDS
        self.inputs, self.probes, self.speeds = list[Input](), dict[Input, float](), dict[Input, Speed]()
        self.slowness = dict[str, float]()  # true seconds as a multiple of the measured ones
        for number in range(self.num_models):
            model, own = f"net{number}", int(rng.choice([160, 224, 256, 320]))
            quality, seconds = abs(rng.normal(0, 0.35)) * (number > 0), 0.02 * math.exp(rng.normal(0, 0.7))
            self.slowness[model] = math.exp(rng.normal(0.1, 0.25))
            for share in (1.0, 0.57, 1.43):
                size = 32 * round(share * own / 32)
                one = Input(model, size, size == own)
                by_size = rng.normal(0.35, 0.2) * math.log(own / size)
                self.inputs.append(one)
                self.probes[one] = self.level + quality + by_size
                cost = seconds * (size / own) ** 2
                train = {recipe: 3 * cost * share for recipe, share in _RECIPES.items()}
                self.speeds[one] = Speed(train, cost, 1.0)
        self.candidates = all_candidates(self.inputs, uneven=True)
        self.changes = np.cumsum(rng.exponential(1.0, 200))  # of the machine's speed, in quarters of the time
        self.paces = 2.0 ** rng.integers(-1, 2, 201)
        self._true: dict[str, Floats] = {}

    def _draw(self, *what: object) -> np.random.Generator:
        """Random numbers that depend on their subject alone, not on the order of questions."""
        return np.random.default_rng([2412, self.seed, crc32(repr(what).encode())])

    def log_loss(self, candidate: Candidate) -> float:
        """The logarithm of a run's expected log loss."""
        probe = self.probes[candidate.input]
        if candidate.is_frozen:
            return probe
        best = min(self.probes.values())
        own = 0.12 * self._draw(candidate.recipe).normal() + 0.15 * self._draw(candidate.family).normal()
        own += 0.06 * self._draw(candidate).normal()
        length = self.epochs * math.log(candidate.epochs / EPOCHS)
        return best + self.slope * (probe - best) + self.tuning + length + self.even * candidate.even + own

    def true_probs(self, candidate: Candidate) -> Floats:
        """The probability that a run gives the true class of each held-out row, (num_rows,)."""
        if candidate.name not in self._true:
            parts = ["all", candidate.input.model, candidate.family, candidate]
            kinds = ["row" if part == "all" else part for part in parts]
            errors = [
                math.sqrt(share) * self._draw("error", kind).normal(size=_ROWS)
                for share, kind in zip(self.shares, kinds, strict=True)
            ]
            margin = self.spread * np.sum(errors, axis=0) - self.fold_effects[self.folds]
            target, low, high = math.exp(self.log_loss(candidate)), -30.0, 60.0
            for _ in range(60):  # bisect the level at which the mean loss is the run's
                middle = (low + high) / 2
                low, high = (
                    (middle, high) if np.logaddexp(0, -margin - middle).mean() > target else (low, middle)
                )
            self._true[candidate.name] = np.exp(-np.logaddexp(0, -margin - low))
        return self._true[candidate.name]

    def seconds(self, candidate: Candidate) -> float:
        """Seconds of a job at the machine's usual speed."""
        return self.times().estimate(candidate) * self.slowness[candidate.input.model]

    def times(self) -> Times:
        """Expected times by the measured speeds, before any job has ended."""
        return Times(self.speeds, _TRAIN, _VALID, _TEST, _STARTUP)

    def pace(self, share: float) -> float:
        """The machine's speed when a share of the time is over."""
        return float(self.paces[np.searchsorted(self.changes, 4 * share)])

    def blend(self, members: Sequence[Sequence[Candidate]]) -> float:
        """The cross-fitted log loss of a blend; the members and weights of each fold are its own."""
        losses = np.empty(_ROWS)
        for fold, of_fold in enumerate(members):
            probs, held_out = np.array([self.true_probs(one) for one in of_fold]), self.folds == fold
            weights = _fit(probs[:, ~held_out])
            losses[held_out] = -np.log(weights @ probs[:, held_out])
        return float(losses.mean())


def _fit(probs: Floats) -> Floats:
    """Weights of a linear pool by expectation maximisation, (num_runs,)."""
    weights = np.full(len(probs), 1 / len(probs))
    for _ in range(60):
        shares = weights[:, None] * probs
        weights = (shares / shares.sum(axis=0)).mean(axis=1)
    return weights


@dataclass(eq=False)
class Machine:
    """An engine with a clock of its own, on which jobs take as long as the world says."""

    world: World
    num_slots: int
    hours: float  # seconds, of the whole competition
    begun: float  # when screening is over
    at: float = 0.0
    work: dict[tuple[str, int], float] = field(default_factory=dict)  # seconds done, of unfinished jobs
    finished: dict[str, set[int]] = field(default_factory=dict)
    scored: dict[tuple[str, int], int] = field(default_factory=dict)  # epochs of short fits
    num_cpus: int = 1
    num_gpus: int = 0
    at_once: int = 1
    grows: bool = False
    startup: float = _STARTUP
    campaign: Campaign | None = None

    def now(self) -> float:
        return self.at

    def check(self, jobs: Sequence[Job]) -> None:
        pass

    def run(
        self, jobs: Sequence[Job], *, command: Command, log: Log, stop: Stop, watch: Watch
    ) -> list[Ended]:
        assert self.campaign is not None
        waiting, running, ended = list(jobs), list[tuple[Job, float]](), list[Ended]()
        while running or waiting:
            while waiting and len(running) < self.num_slots and not stop.reason:
                job = waiting.pop(0)
                running.append((job, self._needed(job)))
            if stop.reason:
                self.at += 3.0  # jobs save their state
                return [*ended, *(Ended(job, "stopped") for job, _ in running)]
            pace, step = self.world.pace(self.at / self.hours), self.hours / _TICKS
            step = step if self.at + step < self.hours - _LAST else 0.5
            step = min([step, *(max(0.01, (needed - self._done(job)) / pace) for job, needed in running)])
            self.at += step
            still = list[tuple[Job, float]]()
            for job, needed in running:
                self.work[job.run, job.fold] = self._done(job) + step * pace
                if self._done(job) < needed - 1e-6:
                    still.append((job, needed))
                    continue
                epochs = self.campaign.stop_after(job)
                if job.run.endswith(TTA):
                    self.finished[job.run] = set(range(NUM_FOLDS))
                elif epochs is None:
                    self.finished.setdefault(job.run, set()).add(job.fold)
                else:
                    self.scored[job.run, job.fold] = epochs
                ended.append(Ended(job, "done" if epochs is None else "stopped"))
            running = still
            waiting += watch(ended)
            if waiting:  # the next look, at which it blends, comes before the next job ends
                waiting += watch(ended)
        return ended

    def _done(self, job: Job) -> float:
        return self.work.get((job.run, job.fold), 0.0)

    def _needed(self, job: Job) -> float:
        """Seconds at which the job ends, work done before included."""
        assert self.campaign is not None
        candidate = candidate_of(self.campaign, job.run)
        whole, epochs = self.world.seconds(candidate), self.campaign.stop_after(job)
        if job.run.endswith(TTA):
            num_views = self.campaign.num_views
            whole = self.world.times().views_seconds(candidate, num_folds=NUM_FOLDS, num_views=num_views)
            whole *= self.world.slowness[candidate.input.model]
        whole *= math.exp(self.world.jitter * self.world._draw("time", job.run, job.fold).normal())
        return max(self._done(job) + 1.0, whole if epochs is None else whole * epochs / candidate.epochs)

    # Results

    def evidence(
        self, hidden: Collection[int], chosen: Sequence[Candidate], tried: Mapping[Candidate, int]
    ) -> Evidence:
        world, probes = self.world, dict[tuple[Input, bool], float]()
        rows = ~np.isin(world.folds, list(hidden))
        for one in world.inputs:
            loss = float(-np.log(world.true_probs(Candidate(one, "features"))[rows]).mean())
            even = world.even * (0.5 + world._draw("even", one).normal(0, 0.3))
            probes[one, False], probes[one, True] = loss, loss * math.exp(even)
        done = [run for run in chosen if len(self.finished.get(run.name, ())) == NUM_FOLDS]
        finished = {run.name: float(-np.log(world.true_probs(run)[rows]).mean()) for run in done}
        trials = [
            Trial(run.name, fold, run.epochs, self._loss(run, fold))
            for run in chosen
            for fold in self.finished.get(run.name, ())
            if fold not in hidden
        ]
        for run, epochs in tried.items():
            for fold in range(NUM_FOLDS):
                if fold not in hidden and self.scored.get((run.name, fold), 0) >= epochs:
                    early = world._draw("early", run.name, fold).normal(0.4, 0.2) / epochs
                    trials.append(Trial(run.name, fold, epochs, self._loss(run, fold) * math.exp(early)))
        tuned = [run.name for run in done if not run.is_frozen][-10:]
        probs = {run.name: world.true_probs(run)[rows] for run in done}
        pairs = {
            (one, other): float(-np.log((probs[one] + probs[other]) / 2).mean())
            for one, other in combinations(tuned, 2)
        }
        return Evidence(probes, finished, tuple(trials), pairs)

    def _loss(self, run: Candidate, fold: int) -> float:
        return float(-np.log(self.world.true_probs(run)[self.world.folds == fold]).mean())

    def finished_folds(self, run: str) -> Sequence[int]:
        return sorted(self.finished.get(run, set()))

    def share(self, run: str, fold: int) -> float:
        assert self.campaign is not None
        candidate = self.campaign.known.get(run)
        if candidate is None or not candidate.epochs or fold in self.finished.get(run, set()):
            return 0.0
        return min(1.0, self.work.get((run, fold), 0.0) / self.world.seconds(candidate))

    def epochs_scored(self, run: str, fold: int) -> int:
        return self.scored.get((run, fold), 0)

    def loss(self, run: str) -> float:
        assert self.campaign is not None
        return float(-np.log(self.world.true_probs(candidate_of(self.campaign, run))).mean())

    def seconds(self, run: str) -> float:
        return sum(self.work.get((run, fold), 0.0) for fold in range(NUM_FOLDS))


def candidate_of(campaign: Campaign, run: str) -> Candidate:
    """The candidate of a run; views of a run predict what it does, in these worlds."""
    return campaign.known[run.removesuffix(TTA)]


@dataclass(frozen=True)
class Played:
    """How a competition ended.

    Attributes:
        used: Seconds, of `hours`.
        blends: Seconds and cross-fitted log loss of each blend.
        agreed: Share of the chosen runs that all folds chose.
    """

    hours: float
    used: float
    blends: tuple[tuple[float, float], ...]
    agreed: float
    num_runs: int

    @property
    def loss(self) -> float:
        return self.blends[-1][1] if self.blends else math.nan


def set_up(
    machine: Machine,
    *,
    plan: Plan | None = None,
    num_seeds: int = NUM_SEEDS,
    num_views: int = 0,
    blends: list[tuple[float, float]] | None = None,
) -> Competing:
    """The real campaign on a simulated machine; time and loss of each blend are added to `blends`."""
    world, reserve, rng = machine.world, Reserve(), machine.world._draw("blend")
    clock = Clock(None, machine.hours, began=0.0, now=machine.now)
    campaign = Campaign(
        world.candidates,
        Plan() if plan is None else plan,
        machine,
        world.times(),
        groups=two_groups([_ROWS // NUM_FOLDS] * NUM_FOLDS),
        num_slots=machine.num_slots,
        make_job=Job,
        now=machine.now,
        ends=lambda: machine.hours - reserve.seconds,
        num_seeds=num_seeds,
        num_views=num_views,
    )
    machine.campaign = campaign

    def blend(members: Sequence[Sequence[str]]) -> float:
        seconds = float(rng.uniform(4, 9))
        machine.at += seconds
        loss = world.blend([[candidate_of(campaign, run) for run in of_fold] for of_fold in members])
        if blends is not None:
            blends.append((machine.at, loss))
        return seconds

    return Competing(campaign, clock, reserve, blend, Stop())


def play(world: World, *, hours: float, num_slots: int, screening: float) -> Played:
    """Run one competition with the real campaign.

    Args:
        hours, screening: Seconds of all, and of screening at its start.
    """
    machine, blends = Machine(world, num_slots, hours, screening, at=screening), list[tuple[float, float]]()
    competing = set_up(machine, blends=blends)
    competing.run(machine, command=lambda job, device: [], log=lambda job: Path())
    done = [entry for entry in competing.campaign.plan.entries if entry.state == "done"]
    agreed = float(np.mean([len(entry.by) == NUM_FOLDS for entry in done])) if done else math.nan
    return Played(hours, machine.at, tuple(blends), agreed, len(done))


def by_rule(
    world: World, order: Sequence[Candidate], *, hours: float, num_slots: int, screening: float
) -> float:
    """The loss of the blend of the runs, in this order, that end in time."""
    slots = [screening] * num_slots
    done = list[Candidate]()
    for candidate in order:
        ends = 0.0
        for fold in range(NUM_FOLDS):
            at = heapq.heappop(slots)
            work = world.seconds(candidate) * math.exp(
                0.1 * world._draw("time", candidate.name, fold).normal()
            )
            while work > 0:  # through the machine's changes of speed
                step = hours / _TICKS
                work, at = work - step * world.pace(at / hours), at + step
            heapq.heappush(slots, at)
            ends = max(ends, at)
        if ends > hours - 20:
            break
        done.append(candidate)
    return world.blend([done] * NUM_FOLDS) if done else math.nan


def own_size(world: World) -> list[Candidate]:
    """Each backbone's usual run at its own size, the best probe first."""
    inputs = sorted((one for one in world.inputs if one.own), key=lambda one: world.probes[one])
    return [Candidate(one, "full", EPOCHS) for one in inputs]


def oracle(world: World, *, hours: float, num_slots: int, screening: float) -> float:
    """The best of several greedy plans made with true scores and times, at the machine's mean speed."""
    mean = float(np.mean([world.pace(share) for share in np.linspace(screening / hours, 1, 200)]))
    budget = (hours - 20 - screening) * num_slots * mean
    pool = [c for c in world.candidates if NUM_FOLDS * world.seconds(c) <= budget]
    seeds = [
        Candidate(c.input, c.recipe, c.epochs, c.even, seed) for c in pool if c.epochs for seed in (1, 2)
    ]
    pool = sorted([*pool, *seeds], key=world.log_loss)[:30]
    best = math.inf
    for first in pool[:6]:
        chosen, left = [first], budget - NUM_FOLDS * world.seconds(first)
        loss = world.blend([chosen] * NUM_FOLDS)
        while True:
            fitting = [c for c in pool if c not in chosen and NUM_FOLDS * world.seconds(c) <= left]
            tried = [(world.blend([[*chosen, c]] * NUM_FOLDS), c) for c in fitting]
            gains = [((loss - after) / world.seconds(c), after, c) for after, c in tried if after < loss]
            if not gains:
                break
            _, loss, candidate = max(gains, key=lambda gain: gain[0])
            chosen.append(candidate)
            left -= NUM_FOLDS * world.seconds(candidate)
        best = min(best, loss)
    return best


def main(
    number: Annotated[int, typer.Option(help="Competitions.")] = 200,
    first: Annotated[int, typer.Option(help="Number of the first.")] = 0,
    out: Annotated[Path, typer.Option(help="A line of JSON for each; those there are kept.")] = Path(
        "cache/simulated_competitions.jsonl"
    ),
) -> None:
    """Play competitions and print how far each way of planning is from the oracle."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    known = {line["seed"] for line in lines}
    with out.open("a") as file:
        for seed in range(first, first + number):
            if seed not in known:
                lines.append(_compare(seed))
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
    _show(lines)


def _compare(seed: int) -> dict[str, float]:
    world, rng = World(seed), np.random.default_rng([2413, seed])
    usual = float(np.median([world.seconds(candidate) for candidate in own_size(world)])) * NUM_FOLDS
    num_slots = int(rng.choice([1, 2, 4, 8]))
    hours = usual * math.exp(rng.uniform(math.log(0.7), math.log(20))) / num_slots + 90
    given = {"hours": hours, "num_slots": num_slots, "screening": 0.1 * hours}
    played, single = play(world, **given), own_size(world)[0]  # type: ignore[arg-type]
    seeds = [Candidate(single.input, "full", EPOCHS, seed=n) for n in range(30)]
    rules: dict[str, Callable[[], float]] = {
        "oracle": lambda: oracle(world, **given),  # type: ignore[arg-type]
        "bagged": lambda: by_rule(world, seeds, **given),  # type: ignore[arg-type]
        "once": lambda: by_rule(world, own_size(world), **given),  # type: ignore[arg-type]
    }
    line = {"seed": seed, **given, "usual": usual, "used": played.used, "compete": played.loss}
    line |= {"agreed": played.agreed, "num_runs": played.num_runs, "num_models": world.num_models}
    line["first"] = played.blends[0][0] if played.blends else math.nan
    return line | {name: rule() for name, rule in rules.items()}


def _show(lines: Sequence[dict[str, float]]) -> None:
    over = sum(line["used"] > line["hours"] for line in lines)
    shares = np.array([line["used"] / line["hours"] for line in lines])
    first = np.nanmedian([line["first"] / line["hours"] for line in lines])
    agreed = np.nanmean([line["agreed"] for line in lines])
    print(f"{len(lines)} competitions, {over} over the budget; used {shares.min():.1%} to {shares.max():.1%}")
    print(f"at least 95% used in {np.mean(shares > 0.95):.0%}; first blend after {first:.0%} (median)")
    print(f"{agreed:.0%} of the runs were chosen by both groups of folds")
    for name in ("compete", "bagged", "once"):
        regrets = np.array([math.log(line[name] / line["oracle"]) for line in lines])
        done = regrets[np.isfinite(regrets)]
        quantiles = [math.exp(value) - 1 for value in np.quantile(done, [0.25, 0.5, 0.75, 0.95])]
        shown = ", ".join(f"{value:+.0%}" for value in quantiles)
        none = f"; no run in time in {len(lines) - len(done)}"
        print(f"{name}: loss above the oracle's at 25, 50, 75 and 95%: {shown}{none}")
    for name in ("bagged", "once"):
        gains = np.array([math.log(line[name] / line["compete"]) for line in lines])
        gains = gains[np.isfinite(gains)]
        times, better = math.exp(np.median(gains)), np.mean(gains > 0)
        print(f"{name}: {times:.2f} times the loss of compete (median); compete is better in {better:.0%}")


if __name__ == "__main__":
    typer.run(main)
