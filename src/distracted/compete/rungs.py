"""The rungs of a search by successive halving, and how long it takes from one to the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

PREDICTION = 0.5  # epochs that the predictions of a fold take
_DISAGREE = 1.5  # finalists of both groups together, as a multiple of one group's


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


@dataclass
class Effort:
    """How long the jobs of a search take, learned from those that have ended.

    Attributes:
        rungs: As `make_rungs` gives them for `epochs`.
        epochs: The most epochs of a run.
        num_folds: Folds of all groups together.
        finalists: Runs that each group trains over all folds.
        startup: Seconds until a job's process begins its work.
        epoch_seconds: Seconds of an epoch on a fold, by each job that has ended.
    """

    rungs: Sequence[Rung]
    epochs: int
    num_folds: int
    num_groups: int
    finalists: int
    startup: float
    epoch_seconds: list[float] = field(default_factory=list)

    def record(self, seconds: float, epochs: float) -> None:
        """Learn from a job and its work."""
        self.epoch_seconds.append(max(0.0, seconds - self.startup) / epochs)

    def seconds(self, epochs: float, num_jobs: float = 1) -> float:
        """Expected seconds of jobs with so many epochs together; their start alone, before any has ended."""
        return num_jobs * self.startup + epochs * (median(self.epoch_seconds) if self.epoch_seconds else 0.0)

    def half(self, num_runs: int) -> int:
        """How many of so many runs go on to the next rung."""
        return max(self.finalists, math.ceil(num_runs / 2))

    def to_the_end(self, num_runs: int, number: int) -> float:
        """Expected seconds of all jobs of one group from a rung to the end, with so many runs there."""
        jobs = epochs = num_done = 0.0  # the last: folds of a finalist that an earlier rung has trained
        half = self.num_folds / 2
        done = (self.rungs[number - 1].epochs or self.epochs) if number else 0
        for rung in self.rungs[number:]:
            if num_runs <= self.finalists:
                break
            until = self.epochs if rung.epochs is None else rung.epochs
            if rung.all_folds:
                jobs += num_runs * (half - 1)
                epochs += num_runs * (half - 1) * (self.epochs + PREDICTION)
                num_done = half
            else:
                jobs += num_runs
                epochs += num_runs * (until - done + (PREDICTION if rung.epochs is None else 0))
                num_done = float(rung.epochs is None)
            done, num_runs = until, self.half(num_runs)
        num_finalists = min(num_runs, self.finalists) * _DISAGREE / self.num_groups
        last = num_finalists * (self.num_folds - num_done)
        return self.seconds(epochs + last * (self.epochs + PREDICTION), jobs + last)
