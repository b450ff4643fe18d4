"""Neighbour smoothing: an image's prediction becomes the weighted mean of its own and its neighbours'."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from distracted.metrics import difference_and_error, log_losses
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.step import Examples, LogProbs, Part, normalised

NUM_NEIGHBOURS = (1, 2, 5, 10, 20, 50)
BANDWIDTHS = (0.15, 0.3, 0.6, None)
MEANS = ("arithmetic", "geometric")
_ROWS = 4096  # smoothed at a time


@dataclass(frozen=True)
class Smoothing:
    """How predictions are smoothed.

    Attributes:
        space: Where neighbours are looked for; k: how many.
        bandwidth: In the space's distances: at d a neighbour counts exp(-(d / bandwidth)^2 / 2) times as much
            as the image itself; None: as much, however far it is.
        mean: Of probabilities (arithmetic) or of their logarithms (geometric).
    """

    space: str
    k: int
    bandwidth: float | None
    mean: str


@dataclass(frozen=True, eq=False)
class Smooth:
    """The smoothing that was best on the out-of-fold rows, or none.

    Neighbours are images of the same part: of an out-of-fold row they are rows of its fold, of a test image
    test images, as in the solutions of the 1st and 3rd place of State Farm. Labels and subjects of the rows
    that are smoothed are never read. Nothing is smoothed where the best gain is within a standard error.

    Attributes:
        spaces: Of each feature space by name the neighbours in a part.
        candidates: What is chosen from.
        fixed: The first candidate it is, whatever the labels say.
    """

    spaces: Mapping[str, Callable[[Part], Neighbours]]
    candidates: Sequence[Smoothing]
    fixed: bool = False
    name: str = "smooth"

    def learn(self, examples: Examples) -> Smoothing | None:
        if self.fixed:
            return self.candidates[0]
        (log_probs,), labels = examples.log_probs, examples.labels
        losses = {candidate: np.empty(len(labels)) for candidate in self.candidates}
        for part, rows in examples.parts():
            for candidate, values in self._losses(log_probs[rows], labels[rows], part):
                losses[candidate][rows] = values
        best = min(losses, key=lambda candidate: float(losses[candidate].mean()))
        plain = log_losses(log_probs, labels)
        gain, error = difference_and_error(plain, losses[best], examples.subjects)
        return best if gain > error else None

    def apply(self, fitted: Smoothing | None, log_probs: LogProbs, part: Part) -> NDArray[np.float64]:
        (plain,) = log_probs
        if fitted is None:
            return normalised(plain)
        return smooth(plain, self.spaces[fitted.space](part), fitted)

    def _losses(
        self, log_probs: LogProbs, labels: NDArray[np.integer], part: Part
    ) -> Iterator[tuple[Smoothing, NDArray[np.float64]]]:
        """Each candidate's loss of a part's rows; those that differ in k alone share the work."""
        families = {(c.space, c.bandwidth, c.mean) for c in self.candidates}
        for space, bandwidth, mean in sorted(families):
            family = [
                c for c in self.candidates if (c.space, c.bandwidth, c.mean) == (space, bandwidth, mean)
            ]
            neighbours = self.spaces[space](part)
            counts = [candidate.k for candidate in family]
            found = smoothed_by_count(log_probs, neighbours, bandwidth, mean, counts)
            for candidate, smoothed in zip(family, found, strict=True):
                yield candidate, log_losses(smoothed, labels)


def grid(spaces: Sequence[str], *, most: int) -> list[Smoothing]:
    """All smoothings in some spaces with at most so many neighbours."""
    counts = [k for k in NUM_NEIGHBOURS if k <= most]
    return [Smoothing(*values) for values in product(spaces, counts, BANDWIDTHS, MEANS)]


def smooth(log_probs: LogProbs, neighbours: Neighbours, how: Smoothing) -> NDArray[np.float64]:
    """Smoothed log-probabilities of a set's images, (num_images, num_classes)."""
    (found,) = smoothed_by_count(log_probs, neighbours, how.bandwidth, how.mean, [how.k])
    return found


def smoothed_by_count(
    log_probs: LogProbs, neighbours: Neighbours, bandwidth: float, mean: str, counts: Sequence[int]
) -> list[NDArray[np.float64]]:
    """As `smooth`, for several numbers of neighbours at once."""
    values = np.exp(log_probs) if mean == "arithmetic" else np.asarray(log_probs, dtype=np.float64)
    found = [np.empty(log_probs.shape) for _ in counts]
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        indices = neighbours.indices[rows, : max(counts)]
        distances = neighbours.distances[rows, : max(counts)].astype(np.float64)
        weights = np.exp(-((distances / bandwidth) ** 2) / 2)
        total, weight = values[rows].copy(), np.ones((len(indices), 1))  # the image itself
        done = 0
        for number in sorted(set(counts)):
            chunk = slice(done, number)
            total += np.einsum("nk,nkc->nc", weights[:, chunk], values[indices[:, chunk]])
            weight += weights[:, chunk].sum(axis=1, keepdims=True)
            done = number
            smoothed = total / weight
            if mean == "arithmetic":
                smoothed = np.log(np.maximum(smoothed, np.finfo(np.float64).tiny))
            for place, count in enumerate(counts):
                if count == number:
                    found[place][rows] = normalised(smoothed)
    return found
