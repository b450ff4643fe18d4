"""Calibration: a run's probabilities made as sure as they should be."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from distracted.metrics import CLIP, difference_and_error, log_loss, log_losses, prior_log_probs
from distracted.postprocess.step import Examples, Labels, LogProbs, Part, normalised

#: In the order in which they are fitted and applied.
CALIBRATIONS = ("prior", "temperature", "clip")
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_TEMPERATURES = (-3.0, 3.0)  # natural logarithms: 1/20 to 20
_CLIPS = (-27.0, -3.0)  # 2e-12 to 0.05
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Calibrated:
    """What was fitted; the values here change nothing.

    Attributes:
        strength: How far the classes' mean probabilities are moved to `prior`: 0 not at all, 1 wholly.
        prior: Each class's share of the labels that were fitted on.
        temperature: Log-probabilities are divided by it.
        clip: Probabilities below it are raised to it, before a row is made to sum to 1.
    """

    strength: float = 0.0
    prior: tuple[float, ...] = ()
    temperature: float = 1.0
    clip: float = 0.0


@dataclass(frozen=True)
class Calibrate:
    """A bias per class towards the prior, temperature, and a floor under probabilities: those of them in
    `parts`.

    Each is fitted on the out-of-fold rows after those before it. The bias reads no label of the rows that it
    moves: it makes their mean probabilities the class shares of other folds (10th place of State Farm). How
    much of it is taken is fitted, and none where the gain is within a standard error.
    """

    parts: tuple[str, ...] = CALIBRATIONS
    name: str = "calibrate"

    def learn(self, examples: Examples) -> Calibrated:
        (log_probs,), labels = floored(examples.log_probs), examples.labels
        strength, temperature, clip = 0.0, 1.0, 0.0
        prior = np.exp(prior_log_probs(labels, log_probs.shape[1]))
        if "prior" in self.parts and len(np.unique(examples.folds)) > 1:  # else no other fold has shares
            bias = _bias_by_fold(log_probs, examples)
            strength = _fit_strength(log_probs, bias, examples)
            log_probs = normalised(log_probs + strength * bias)
        if "temperature" in self.parts:
            temperature = fit_temperature(log_probs, labels)
            log_probs = soften(log_probs, temperature)
        if "clip" in self.parts:
            clip = fit_clip(log_probs, labels)
        return Calibrated(strength, tuple(prior.tolist()), temperature, clip)

    def apply(self, fitted: Calibrated, log_probs: LogProbs, part: Part) -> NDArray[np.float64]:
        (found,) = floored(log_probs)
        if fitted.strength:
            found = found + fitted.strength * prior_bias(found, np.array(fitted.prior))
        return clip_probs(soften(found, fitted.temperature), fitted.clip)


def fit_temperature(log_probs: LogProbs, labels: Labels) -> float:
    """The temperature of least log loss, between 1/20 and 20, after Guo et al. (ICML 2017)."""
    return _best(lambda t: log_loss(soften(log_probs, t), labels), _TEMPERATURES, tolerance=1e-5)


def fit_clip(log_probs: LogProbs, labels: Labels) -> float:
    """The floor under probabilities of least log loss, at most 0.05."""
    return _best(lambda clip: log_loss(clip_probs(log_probs, clip), labels), _CLIPS, tolerance=1e-4)


def _best(loss: Callable[[float], float], log_bounds: tuple[float, float], *, tolerance: float) -> float:
    """The positive number of least loss, searched by its logarithm."""
    found = minimize_scalar(
        lambda log: loss(float(np.exp(log))),
        bounds=log_bounds,
        method="bounded",
        options={"xatol": tolerance},
    )
    return float(np.exp(found.x))


def _bias_by_fold(log_probs: LogProbs, examples: Examples) -> NDArray[np.float64]:
    """Of each row its fold's bias towards the class shares of the other folds, (num_images, num_classes)."""
    bias = np.zeros(log_probs.shape)
    for part, rows in examples.parts():
        others = examples.labels[examples.folds != part.fold]
        bias[rows] = prior_bias(log_probs[rows], np.exp(prior_log_probs(others, log_probs.shape[1])))
    return bias


def _fit_strength(log_probs: LogProbs, bias: NDArray[np.float64], examples: Examples) -> float:
    plain = log_losses(log_probs, examples.labels)
    tried = [log_losses(normalised(log_probs + strength * bias), examples.labels) for strength in STRENGTHS]
    best = min(range(len(STRENGTHS)), key=lambda number: float(tried[number].mean()))
    gain, error = difference_and_error(plain, tried[best], examples.subjects)
    return STRENGTHS[best] if gain > error else 0.0


def floored(log_probs: LogProbs) -> NDArray[np.float64]:
    """Log-probabilities no lower than the competition clips them, where a loss can still tell them apart."""
    return np.maximum(np.asarray(log_probs, dtype=np.float64), np.log(CLIP))


def soften(log_probs: LogProbs, temperature: float) -> NDArray[np.float64]:
    """Log-probabilities at a temperature, shape (..., num_classes); above 1 they are less sure."""
    return normalised(np.asarray(log_probs, dtype=np.float64) / temperature)


def clip_probs(log_probs: LogProbs, clip: float) -> NDArray[np.float64]:
    """Probabilities below `clip` raised to it, normalised again."""
    return normalised(np.maximum(log_probs, np.log(clip)) if clip else log_probs)


def prior_bias(log_probs: LogProbs, prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """What to add to log-probabilities so that their mean probabilities meet the prior, (num_classes,).

    Sinkhorn's alternation between rows that sum to 1 and columns that meet the prior.
    """
    bias: NDArray[np.float64] = np.zeros(log_probs.shape[1])
    for _ in range(200):
        means = np.exp(normalised(log_probs + bias)).mean(axis=0)
        step = np.log(prior) - np.log(np.maximum(means, 1e-300))
        bias += step
        if np.abs(step).max() < _TOLERANCE:
            break
    bias -= bias.mean()
    return bias
