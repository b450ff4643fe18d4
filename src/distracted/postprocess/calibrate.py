"""Calibration: probabilities are moved to the class prior, softened or sharpened, and get a floor."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distracted.errors import ConfigError
from distracted.metrics import CLIP, as_good, difference_and_error, log_loss, log_losses
from distracted.postprocess.step import (
    Examples,
    Labels,
    LogProbs,
    PredictionStep,
    Rows,
    class_shares,
    normalised,
    target_means,
)

Floats = NDArray[np.float64]

#: In the order in which they are fitted and applied.
CALIBRATIONS = ("prior", "temperature", "clip")
_TEMPERATURES = (-3.0, 3.0)  # natural logarithms: 1/20 to 20
_CLIPS = (-27.0, -3.0)  # natural logarithms: 2e-12 to 0.05
_TOLERANCE = 1e-6  # in mean probabilities
_MAX_STEPS, _LONGEST_STEP, _HALVINGS = 100, 3.0, 30
_MOST_VALUES = 2_000_000  # probabilities in memory at once
_SMALL_SHARE = 0.02  # where every subject has less of the rows, a subject's own rows hardly count


@dataclass(frozen=True)
class Calibration:
    """Fitted parameters; the defaults change nothing.

    Attributes:
        to_prior: Whether the classes' mean probabilities are moved to `prior`.
        prior: Share of each class among the labels of the fit; 0 for a class that none of them shows.
        temperature: Log-probabilities are divided by it.
        clip: Smaller probabilities are raised to it before a row is normalised.
        unmoved: The same two for rows that no bias moves: those of a fold with one subject.
    """

    to_prior: bool = False
    prior: tuple[float, ...] = ()
    temperature: float = 1.0
    clip: float = 0.0
    unmoved: tuple[float, float] = (1.0, 0.0)


@dataclass(frozen=True, eq=False)
class Calibrate(PredictionStep):
    """A bias per class towards the prior, a temperature, and a floor under probabilities, each if in `parts`.

    They are fitted one after another on out-of-fold rows. The bias reads no label of the rows that it moves:
    it makes their mean probabilities the class shares of other folds (10th place of State Farm). It is left
    out where it gains less than a standard error, and in a fold with one subject.
    """

    parts: Sequence[str] = CALIBRATIONS
    name: ClassVar[str] = "calibrate"
    suffix: ClassVar[str] = "calibrated"
    target: ClassVar[str] = "calibrate"

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in CALIBRATIONS]
        if unknown or not self.parts:
            got = f"got {unknown[0]!r}" if unknown else "got none"
            raise ConfigError(f"PARTS: expected some of {', '.join(CALIBRATIONS)}; {got}")

    @classmethod
    def from_text(cls, text: str) -> Self:
        return cls(text.split() if text else CALIBRATIONS)

    def settings(self) -> dict[str, Any]:
        return {"parts": [part for part in CALIBRATIONS if part in self.parts]}

    @classmethod
    def variables(cls, settings: Mapping[str, Any]) -> dict[str, str]:
        parts = settings.get("parts", CALIBRATIONS)
        return {} if tuple(parts) == CALIBRATIONS else {"PARTS": " ".join(parts)}

    @classmethod
    def needs_all_images(cls, settings: Mapping[str, Any]) -> str:
        return "meets the classes' shares" if "prior" in settings.get("parts", ()) else ""

    @property
    def can_sharpen(self) -> bool:
        return True

    @property
    def min_folds(self) -> int:
        return 2 if "prior" in self.parts else 1

    @property
    def num_candidates(self) -> int:
        return 2 if "prior" in self.parts else 1  # with the bias and without

    def fit(self, examples: Examples) -> Calibration:
        log_probs, labels = floored(examples.log_probs[0]), examples.labels
        unmoved = temperature, clip = self._fit_certainty(log_probs, labels)
        prior, to_prior = class_shares(labels, log_probs.shape[1]), False
        if "prior" in self.parts and len(np.unique(examples.folds)) >= self.min_folds:
            biases, can_move = _biases_by_other_folds(log_probs, examples)
            moved, of_moved = normalised(log_probs + biases)[can_move], labels[can_move]
            if can_move.any():
                losses = log_losses(normalised(log_probs[can_move]), of_moved), log_losses(moved, of_moved)
                to_prior = not as_good(*difference_and_error(*losses, examples.subjects[can_move]))
            if to_prior:
                temperature, clip = self._fit_certainty(moved, of_moved)
        return Calibration(to_prior, tuple(prior.tolist()), temperature, clip, unmoved)

    def _fit_certainty(self, log_probs: LogProbs, labels: Labels) -> tuple[float, float]:
        """Temperature and clip, each if it is in `parts`."""
        temperature, clip = 1.0, 0.0
        if "temperature" in self.parts:
            temperature = fit_temperature(log_probs, labels)
            log_probs = soften(log_probs, temperature)
        if "clip" in self.parts:
            clip = fit_clip(log_probs, labels)
        return temperature, clip

    def predict(self, fitted: Calibration, rows: Rows) -> LogProbs:
        log_probs, temperature, clip = floored(rows.log_probs[0]), fitted.temperature, fitted.clip
        if fitted.to_prior and _can_move(rows.subjects):
            log_probs = log_probs + _bias(log_probs, np.array(fitted.prior), rows.subjects)
        elif fitted.to_prior:
            temperature, clip = fitted.unmoved
        return clip_probs(soften(log_probs, temperature), clip)

    def describe(self, fits: Sequence[Calibration], overall: Calibration, runs: Sequence[str]) -> str:
        moved = sum(fitted.to_prior for fitted in fits)
        texts = {
            "prior": f"to the prior in {moved} of {len(fits)} folds",
            "temperature": f"temperature {overall.temperature:.2f}",
            "clip": f"clip {overall.clip:.1g}",
        }
        return ", ".join(text for part, text in texts.items() if part in self.parts)


def _biases_by_other_folds(log_probs: LogProbs, examples: Examples) -> tuple[Floats, NDArray[np.bool_]]:
    """Each row's bias towards the class shares of the other folds, and whether it can have one.

    Returns:
        Shapes (num_images, num_classes) and (num_images,).
    """
    biases, can_move = np.zeros(log_probs.shape), np.zeros(len(log_probs), dtype=np.bool_)
    for positions, rows in examples.by_fold():
        if _can_move(rows.subjects):
            others = examples.labels[examples.folds != rows.subset.fold]
            prior = class_shares(others, log_probs.shape[1])
            biases[positions] = _bias(log_probs[positions], prior, rows.subjects)
            can_move[positions] = True
    return biases, can_move


def _can_move(subjects: NDArray[np.int64] | None) -> bool:
    """Whether a bias can be estimated: a single subject's own error would pass for the networks'."""
    return subjects is None or len(np.unique(subjects)) > 1


def _bias(log_probs: LogProbs, prior: Floats, subjects: NDArray[np.int64] | None) -> Floats:
    """What to add to log-probabilities: (num_classes,) for the test set, else a row each."""
    return prior_bias(log_probs, prior) if subjects is None else subject_biases(log_probs, prior, subjects)


def fit_temperature(log_probs: LogProbs, labels: Labels) -> float:
    """The temperature with the lowest log loss, between 1/20 and 20, after Guo et al. (ICML 2017)."""
    return _minimise(lambda t: log_loss(soften(log_probs, t), labels), _TEMPERATURES, tolerance=1e-5)


def fit_clip(log_probs: LogProbs, labels: Labels) -> float:
    """The floor under probabilities with the lowest log loss, at most 0.05.

    One row that is certain and wrong is added, as in Laplace's rule of succession: after n rows without one
    the next may be the first, and without it no floor would be too low.
    """
    num_images, num_classes = log_probs.shape

    def loss(clip: float) -> float:
        wrong = math.log1p((num_classes - 1) * clip) - math.log(clip)
        total = num_images * log_loss(clip_probs(log_probs, clip), labels) + wrong
        return float(total / (num_images + 1))

    return _minimise(loss, _CLIPS, tolerance=1e-4)


def _minimise(loss: Callable[[float], float], log_bounds: tuple[float, float], *, tolerance: float) -> float:
    """The positive number with the lowest loss, searched on a logarithmic scale."""
    from scipy.optimize import minimize_scalar

    result = minimize_scalar(lambda x: loss(np.exp(x)), bounds=log_bounds, options={"xatol": tolerance})
    return float(np.exp(result.x))


def floored(log_probs: LogProbs) -> Floats:
    """Log-probabilities clipped as the competition clips them: the loss tells no lower ones apart."""
    return np.maximum(np.asarray(log_probs, dtype=np.float64), np.log(CLIP))


def soften(log_probs: LogProbs, temperature: float) -> Floats:
    """Log-probabilities at a temperature, shape (..., num_classes); above 1 they are less certain."""
    return normalised(np.asarray(log_probs, dtype=np.float64) / temperature)


def clip_probs(log_probs: LogProbs, clip: float) -> Floats:
    """Probabilities below `clip` raised to it, normalised again."""
    return normalised(np.maximum(log_probs, np.log(clip)) if clip else log_probs)


def prior_bias(
    log_probs: LogProbs, prior: Floats, *, weights: Floats | None = None, start: Floats | None = None
) -> Floats:
    """What to add to log-probabilities so that their mean probabilities meet the prior, (num_classes,).

    It minimises a convex function whose gradient is the mean probabilities minus the prior.

    Args:
        prior: From `class_shares`; a class with a share of 0 keeps its mean probability.
        weights: Weights of the rows in that mean, (num_images,); equal by default.
        start: A bias near the solution.
    """
    shares = np.ones(len(log_probs)) if weights is None else weights
    first = np.zeros(log_probs.shape[1]) if start is None else start
    bias: Floats = _prior_biases(log_probs, prior, shares[None], first)[0]
    return bias


def _prior_biases(log_probs: LogProbs, prior: Floats, weights: Floats, start: Floats) -> Floats:
    """As `prior_bias` for several weights of the rows, (number, num_images), at once: (number, num_classes).

    By Newton's method. Where probabilities are extreme the function is nearly flat, and a step is limited.
    """
    shares = weights / weights.sum(axis=1, keepdims=True)
    targets = np.broadcast_to(
        target_means(prior, shares @ np.exp(normalised(log_probs))), (len(shares), len(prior))
    )
    biases, left = np.tile(start, (len(shares), 1)), np.arange(len(shares))
    values, means, probs = _excess(log_probs, biases, shares, targets)
    for _ in range(_MAX_STEPS):
        is_open = np.abs(means - targets[left]).max(axis=1) > _TOLERANCE
        left, values, means, probs = left[is_open], values[is_open], means[is_open], probs[is_open]
        if not len(left):
            break
        gradients, weighted = means - targets[left], probs * shares[left, :, None]
        # a constant that is added to a bias changes nothing: without the mean the curvature is singular
        curvatures = means[:, :, None] * np.eye(len(prior)) - weighted.transpose(0, 2, 1) @ probs
        curvatures += 1 / len(prior) + 1e-12 * np.eye(len(prior))
        steps = -np.linalg.solve(curvatures, gradients[:, :, None])[:, :, 0]
        steps *= np.minimum(1.0, _LONGEST_STEP / np.abs(steps).max(axis=1, keepdims=True))
        slopes, before = (gradients * steps).sum(axis=1), biases[left]
        lengths = np.ones(len(left))
        for _ in range(_HALVINGS):
            biases[left] = before + lengths[:, None] * steps
            after, means, probs = _excess(log_probs, biases[left], shares[left], targets[left])
            is_long = after > values + 1e-4 * lengths * slopes + 1e-14
            if not is_long.any():
                break
            lengths[is_long] /= 2
        values = after
    centred: Floats = biases - biases.mean(axis=1, keepdims=True)
    return centred


def _excess(
    log_probs: LogProbs, biases: Floats, shares: Floats, targets: Floats
) -> tuple[Floats, Floats, Floats]:
    """The functions that `_prior_biases` minimises, (number,), mean probabilities, and probabilities."""
    scores = log_probs + biases[:, None]
    tops = scores.max(axis=2)
    probs = np.exp(scores - tops[:, :, None])
    sums = probs.sum(axis=2)
    probs /= sums[:, :, None]
    values = (shares * (tops + np.log(sums))).sum(axis=1) - (targets * biases).sum(axis=1)
    return values, (shares[:, None] @ probs)[:, 0], probs


def subject_biases(log_probs: LogProbs, prior: Floats, subjects: NDArray[np.int64]) -> Floats:
    """Each row's bias towards the prior, shrunk to its strength with many subjects.

    A fold has few subjects, and each subject's rows make up much of the mean. A bias that meets the prior
    therefore corrects a good part of each subject's own error, which it cannot do among the many subjects of
    a test set. So a subject's own rows get less weight, about half. Suppose that a network's error for a
    subject is one common to all plus an independent one of variance v. With n subjects of equally many rows
    the plain bias leaves v (1 - 1/n), one without the subject's own rows v (1 + 1/(n - 1)), and the plain one
    with infinitely many subjects v. With weight a for the own rows (1 - a)^2 v (1 + q) is left, where q is
    the sum of the other subjects' squared shares of their rows, 1/(n - 1) if these are equal. a is chosen to
    leave v.

    Args:
        subjects: Subject of each row, (num_images,).

    Returns:
        Shape (num_images, num_classes).
    """
    common = prior_bias(log_probs, prior)
    _, ids, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    if counts.max() <= _SMALL_SHARE * counts.sum():
        return np.tile(common, (len(log_probs), 1))
    biases = np.zeros(log_probs.shape)
    if len(counts) == 1:  # no other subject shows the common error
        return biases
    others = np.array([np.delete(counts, subject) for subject in range(len(counts))])
    own_share = 1 - 1 / np.sqrt(1 + (others**2).sum(axis=1) / others.sum(axis=1) ** 2)
    at_once = max(1, _MOST_VALUES // log_probs.size)
    for first in range(0, len(counts), at_once):
        some = np.arange(first, min(first + at_once, len(counts)))
        own, share = ids == some[:, None], own_share[some, None]
        weights = np.where(own, share / counts[some, None], (1 - share) / (len(ids) - counts[some, None]))
        of_subject = _prior_biases(log_probs, prior, weights, common)
        for subject in some:
            biases[ids == subject] = of_subject[subject - first]
    return biases
