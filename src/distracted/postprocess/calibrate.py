"""Calibration: a run's probabilities made as sure as they should be."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from distracted.metrics import CLIP, difference_and_error, log_loss, log_losses, prior_log_probs
from distracted.postprocess.step import Examples, Labels, LogProbs, Subset, normalised

#: In the order in which they are fitted and applied.
CALIBRATIONS = ("prior", "temperature", "clip")
_TEMPERATURES = (-3.0, 3.0)  # natural logarithms: 1/20 to 20
_CLIPS = (-27.0, -3.0)  # 2e-12 to 0.05
_TOLERANCE = 1e-6  # of mean probabilities
_MOST_STEPS = 100
_LITTLE = 0.02  # where no subject has a larger share of the rows, each one's own do next to nothing


@dataclass(frozen=True)
class Calibrated:
    """What was fitted; the values here change nothing.

    Attributes:
        to_prior: Whether the classes' mean probabilities are moved to `prior`.
        prior: Each class's share of the labels that were fitted on.
        temperature: Log-probabilities are divided by it.
        clip: Probabilities below it are raised to it, before a row is made to sum to 1.
    """

    to_prior: bool = False
    prior: tuple[float, ...] = ()
    temperature: float = 1.0
    clip: float = 0.0


@dataclass(frozen=True, eq=False)
class Calibrate:
    """A bias per class towards the prior, temperature, and a floor under probabilities: those of them in
    `parts`.

    Each is fitted on the out-of-fold rows after those before it. The bias reads no label of the rows that it
    moves: it makes their mean probabilities the class shares of other folds (10th place of State Farm). It is
    left out where its gain is within a standard error.

    Attributes:
        subjects: Of each fold's held-out rows; `prior` needs them (`subject_biases`).
    """

    parts: tuple[str, ...] = CALIBRATIONS
    subjects: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    name: str = "calibrate"

    @property
    def min_folds(self) -> int:
        return 2 if "prior" in self.parts else 1

    def learn(self, examples: Examples) -> Calibrated:
        (log_probs,), labels = floored(examples.log_probs), examples.labels
        to_prior, temperature, clip = False, 1.0, 0.0
        prior = np.exp(prior_log_probs(labels, log_probs.shape[1]))
        if "prior" in self.parts and len(np.unique(examples.folds)) >= self.min_folds:  # for others' shares
            moved = normalised(log_probs + self._towards_other_folds(log_probs, examples))
            losses = log_losses(log_probs, labels), log_losses(moved, labels)
            gain, error = difference_and_error(*losses, examples.subjects)
            to_prior = gain > error
            log_probs = moved if to_prior else log_probs
        if "temperature" in self.parts:
            temperature = fit_temperature(log_probs, labels)
            log_probs = soften(log_probs, temperature)
        if "clip" in self.parts:
            clip = fit_clip(log_probs, labels)
        return Calibrated(to_prior, tuple(prior.tolist()), temperature, clip)

    def apply(self, fitted: Calibrated, log_probs: LogProbs, part: Subset) -> NDArray[np.float64]:
        (found,) = floored(log_probs)
        if fitted.to_prior:
            found = found + self._bias(found, np.array(fitted.prior), part)
        return clip_probs(soften(found, fitted.temperature), fitted.clip)

    def _towards_other_folds(self, log_probs: LogProbs, examples: Examples) -> NDArray[np.float64]:
        """Of each row the bias towards the class shares of the other folds, (num_images, num_classes)."""
        biases = np.zeros(log_probs.shape)
        for part, rows in examples.parts():
            others = examples.labels[examples.folds != part.fold]
            prior = np.exp(prior_log_probs(others, log_probs.shape[1]))
            biases[rows] = self._bias(log_probs[rows], prior, part)
        return biases

    def _bias(self, log_probs: LogProbs, prior: NDArray[np.float64], part: Subset) -> NDArray[np.float64]:
        """What is added to a part's log-probabilities, of a shape that fits them."""
        if part.test:
            return prior_bias(log_probs, prior)
        assert part.fold in self.subjects, "the prior needs the subjects of the rows"
        return subject_biases(log_probs, prior, self.subjects[part.fold])


def fit_temperature(log_probs: LogProbs, labels: Labels) -> float:
    """The temperature of least log loss, between 1/20 and 20, after Guo et al. (ICML 2017)."""
    return _best(lambda t: log_loss(soften(log_probs, t), labels), _TEMPERATURES, tolerance=1e-5)


def fit_clip(log_probs: LogProbs, labels: Labels) -> float:
    """The floor under probabilities of least log loss, at most 0.05.

    One more row counts that is sure and wrong, as in Laplace's rule of succession: where none was seen among
    n, the next may be one, and without it no floor would be too low.
    """
    num_images, num_classes = log_probs.shape

    def loss(clip: float) -> float:
        wrong = math.log1p((num_classes - 1) * clip) - math.log(clip)
        total = num_images * log_loss(clip_probs(log_probs, clip), labels) + wrong
        return float(total / (num_images + 1))

    return _best(loss, _CLIPS, tolerance=1e-4)


def _best(loss: Callable[[float], float], log_bounds: tuple[float, float], *, tolerance: float) -> float:
    """The positive number of least loss, searched by its logarithm."""
    found = minimize_scalar(
        lambda log: loss(float(np.exp(log))),
        bounds=log_bounds,
        method="bounded",
        options={"xatol": tolerance},
    )
    return float(np.exp(found.x))


def floored(log_probs: LogProbs) -> NDArray[np.float64]:
    """Log-probabilities no lower than the competition clips them, where a loss can still tell them apart."""
    return np.maximum(np.asarray(log_probs, dtype=np.float64), np.log(CLIP))


def soften(log_probs: LogProbs, temperature: float) -> NDArray[np.float64]:
    """Log-probabilities at a temperature, shape (..., num_classes); above 1 they are less sure."""
    return normalised(np.asarray(log_probs, dtype=np.float64) / temperature)


def clip_probs(log_probs: LogProbs, clip: float) -> NDArray[np.float64]:
    """Probabilities below `clip` raised to it, normalised again."""
    return normalised(np.maximum(log_probs, np.log(clip)) if clip else log_probs)


def prior_bias(
    log_probs: LogProbs,
    prior: NDArray[np.float64],
    *,
    weights: NDArray[np.float64] | None = None,
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """What to add to log-probabilities so that their mean probabilities meet the prior, (num_classes,).

    It is where a convex function is least whose gradient is the mean probabilities less the prior.

    Args:
        weights: Of the rows in that mean, (num_images,); by default all the same.
        start: A bias near the one that is looked for.
    """
    shares = np.ones(len(log_probs)) if weights is None else weights
    shares = shares / shares.sum()

    def excess(bias: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = log_probs + bias
        tops = scores.max(axis=1)
        odds = np.exp(scores - tops[:, None])
        sums = odds.sum(axis=1)
        return float(shares @ (tops + np.log(sums)) - prior @ bias), (shares / sums) @ odds - prior

    first = np.zeros(log_probs.shape[1]) if start is None else start
    found = minimize(
        excess,
        first,
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 0.0, "gtol": _TOLERANCE, "maxiter": _MOST_STEPS},
    )
    bias: NDArray[np.float64] = found.x - found.x.mean()
    return bias


def subject_biases(
    log_probs: LogProbs, prior: NDArray[np.float64], subjects: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of each row its subject's bias towards the prior, so strong as it would be among many subjects.

    A fold has few subjects, and a subject's own rows make up much of its mean: a bias that meets the prior
    mends a good part of what is wrong for each of them alone, which among the many of a test set it cannot.
    So a subject's own rows count for less, about half of what they are. Let what a network gets wrong for a
    subject be what it gets wrong for all plus something independent of the same variance v for each. Among
    n subjects of as many rows the plain bias leaves v (1 - 1/n), one without the subject's own rows
    v (1 + 1/(n - 1)), and the plain one among infinitely many v. With a share a for the own rows
    (1 - a)^2 v (1 + q) is left, where q is the sum of the other subjects' squared shares among themselves,
    1/(n - 1) where they have as many rows; a is set so that it is v.

    Args:
        subjects: Of the rows, (num_images,).

    Returns:
        Shape (num_images, num_classes).
    """
    common = prior_bias(log_probs, prior)
    _, ids, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    if counts.max() <= _LITTLE * counts.sum():
        return np.tile(common, (len(log_probs), 1))
    biases = np.zeros(log_probs.shape)
    if len(counts) == 1:  # nobody else knows what is wrong for all
        return biases
    for subject in range(len(counts)):
        own, others = ids == subject, np.delete(counts, subject)
        share = 1 - 1 / np.sqrt(1 + (others**2).sum() / others.sum() ** 2)
        weights = np.where(own, share / counts[subject], (1 - share) / (len(ids) - counts[subject]))
        biases[own] = prior_bias(log_probs, prior, weights=weights, start=common)
    return biases
