"""How long jobs take: estimates from measured speeds, corrected by the jobs that have ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from distracted.compete.candidates import Candidate, Input

_RECENT = 6  # ended jobs that say how fast the machine is now


@dataclass(frozen=True)
class Speed:
    """What one input costs on this machine, measured with the threads that a job has.

    Attributes:
        train: Seconds of training for an image, augmentation included, by recipe.
        predict: Seconds of prediction for an image.
        fit: Seconds to fit a head on the features of all training images.
    """

    train: Mapping[str, float]
    predict: float
    fit: float


@dataclass
class Times:
    """Expected seconds of a job: one fold of a candidate.

    Attributes:
        speeds: By input.
        num_train: Training images of a fold; num_predicted: its held-out and test images.
        startup: Seconds until a job's process begins its work.
    """

    speeds: Mapping[Input, Speed]
    num_train: int
    num_predicted: int
    startup: float
    _ratios: list[float] = field(default_factory=list)  # of actual to estimated seconds, in order
    _own: dict[Candidate, list[float]] = field(default_factory=dict)

    def estimate(self, candidate: Candidate) -> float:
        """Seconds by the measured speeds alone."""
        speed = self.speeds[candidate.input]
        steps = candidate.epochs * self.num_train * speed.train.get(candidate.recipe, 0.0)
        predicted = 0.0 if candidate.is_frozen else self.num_predicted * speed.predict
        return self.startup + speed.fit + steps + predicted

    def least(self, num_folds: int, num_slots: int) -> float:
        """Seconds of the cheapest run, a head on frozen features: the images' features, then all folds."""
        num_images = self.num_train * num_folds / max(1, num_folds - 1) + self.num_predicted
        rounds = -(-num_folds // num_slots)
        return min(
            num_images * one.predict + rounds * (self.startup + one.fit) for one in self.speeds.values()
        )

    def record(self, candidate: Candidate, seconds: float) -> None:
        """Learn from a job that was trained from its start to its end."""
        ratio = seconds / self.estimate(candidate)
        self._ratios.append(ratio)
        self._own.setdefault(candidate.family, []).append(ratio)

    @property
    def pace(self) -> float:
        """Recent jobs' seconds as a multiple of the estimates."""
        return median(self._ratios[-_RECENT:]) if self._ratios else 1.0

    def seconds(self, candidate: Candidate) -> float:
        """Expected seconds of a job: by the last jobs of these settings, else by the pace of all."""
        own = self._own.get(candidate.family, [])[-_RECENT:]
        return self.estimate(candidate) * (median(own) if own else self.pace)

    def left(self, candidate: Candidate, done: float) -> float:
        """Expected seconds of the rest of a job of which a share is done."""
        whole = self.seconds(candidate)
        return max(whole * (1 - done), min(whole, self.startup))
