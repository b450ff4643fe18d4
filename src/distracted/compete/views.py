"""Test-time augmentation of finished runs: what it costs, and when it is cheap enough to do at once."""

from dataclasses import dataclass

from distracted.compete.candidates import Candidate
from distracted.compete.times import Times

#: Views of each image, as `make tta` takes them, and how many passes these are.
VIEWS, NUM_VIEWS = "scales", 3
_CHEAP = 0.25  # at most this share of a run's training


@dataclass(frozen=True)
class Views:
    """The views of runs; `number` 0: none are predicted."""

    times: Times
    num_folds: int
    number: int

    def seconds(self, candidate: Candidate) -> float:
        """Expected seconds of the job that predicts a run's views; 0 if it has none."""
        if candidate.is_frozen or not self.number:
            return 0.0
        return self.times.views_seconds(candidate, num_folds=self.num_folds, num_views=self.number)

    def are_cheap(self, candidate: Candidate) -> bool:
        """Whether a run has views that cost little beside its training."""
        seconds = self.seconds(candidate)
        return 0 < seconds <= _CHEAP * self.num_folds * self.times.seconds(candidate)
