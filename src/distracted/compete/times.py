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
        num_train: Training images of a fold; num_valid: its held-out images; num_test: the test images.
        startup: Seconds until a job's process begins its work; learned from jobs on frozen features.
        waits: Share of the time for the test images' features that a job on frozen features pays: they are
            computed once, while the jobs that run beside it wait.
    """

    speeds: Mapping[Input, Speed]
    num_train: int
    num_valid: int
    num_test: int
    startup: float
    waits: float = 1.0
    _startups: list[float] = field(default_factory=list)
    _ratios: list[float] = field(default_factory=list)  # of actual to estimated seconds, in order
    _views: list[float] = field(default_factory=list)  # the same of predicted views
    _own: dict[Candidate, list[float]] = field(default_factory=dict)

    def estimate(self, candidate: Candidate) -> float:
        """Seconds by the measured speeds alone."""
        return self.startup + self._work(candidate)

    def _work(self, candidate: Candidate) -> float:
        """Seconds after the startup."""
        speed = self.speeds[candidate.input]
        if candidate.is_frozen:  # the training images' features are there already
            return speed.fit + self.waits * self.num_test * speed.predict
        steps = candidate.epochs * self.num_train * speed.train.get(candidate.recipe, 0.0)
        return speed.fit + steps + (self.num_valid + self.num_test) * speed.predict

    def views_seconds(self, candidate: Candidate, *, num_folds: int, num_views: int) -> float:
        """Expected seconds until all networks of a run have predicted some views of each image."""
        num_images = num_folds * (self.num_valid + self.num_test)
        ratio = median(self._views[-_RECENT:]) if self._views else self.pace
        return self.startup + num_images * num_views * self.speeds[candidate.input].predict * ratio

    def record_views(self, seconds: float, expected: float) -> None:
        """Learn from a job that predicted views."""
        before = median(self._views[-_RECENT:]) if self._views else self.pace
        self._views.append(before * seconds / expected)

    def least(self, num_folds: int, num_slots: int) -> float:
        """Seconds of the cheapest run, a head on frozen features: the images' features, then all folds."""
        num_images = self.num_train + self.num_valid + self.num_test
        rounds = -(-num_folds // num_slots)
        return min(
            num_images * one.predict + rounds * (self.startup + one.fit) for one in self.speeds.values()
        )

    def record(self, candidate: Candidate, seconds: float) -> None:
        """Learn from a job that was trained from its start to its end."""
        if candidate.is_frozen:
            if self._work(candidate) <= self.startup:  # else it waited for features more or less long
                self._startups.append(max(1.0, seconds - self._work(candidate)))
                self.startup = median(self._startups[-_RECENT:])
            return
        ratio = seconds / self.estimate(candidate)
        self._ratios.append(ratio)
        self._own.setdefault(candidate.family, []).append(ratio)

    @property
    def pace(self) -> float:
        """Recent trainings' seconds as a multiple of the estimates."""
        return median(self._ratios[-_RECENT:]) if self._ratios else 1.0

    def seconds(self, candidate: Candidate) -> float:
        """Expected seconds of a job: by the last jobs of these settings, else by the pace of all."""
        own = self._own.get(candidate.family, [])[-_RECENT:]
        return self.estimate(candidate) * (median(own) if own else self.pace)
