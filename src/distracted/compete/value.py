"""How good a run will be before it is trained, and how good a blend with it.

The logarithm of a tuned run's log loss is predicted from the probe on its frozen features and from the runs
that are finished or begun: a Gaussian process over candidates, whose covariance says which candidates are
alike. A blend's loss follows the variance of a weighted mean of correlated errors (Markowitz 1952, with
losses as variances): a second seed helps little, another backbone more, a weak run not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distracted.compete.candidates import EPOCHS, Candidate, Input

Floats = NDArray[np.float64]

# In logarithms of the log loss. The means are rough fits to the runs of docs/evidence_transfer.md; the
# spreads are wide, so that the first finished runs decide.
_TUNING = -1.4  # a tuned run of the usual epochs against the probe on its frozen features
_SLOPE = 1.3  # how much of a difference between probes is left, and more, after tuning
_PER_EPOCH = -0.4  # per factor e of epochs
_COMMON, _MODEL, _SIZE, _RECIPE, _LENGTH, _EVEN, _OWN, _SEED = 0.6, 0.25, 0.2, 0.12, 0.12, 0.2, 0.1, 0.08
_UNFINISHED, _FOLD, _TRIAL = 0.5, 0.5, 0.15  # of all trials that stopped early, of all on a fold, of each
_NOISE = 0.05
_FLOOR = 1e-6  # of a log loss

# Correlations of the errors of two runs.
# Scaled by what pairs of finished runs show, beside which the expectation counts as so many pairs' worth.
_PAIRS_EXPECTED, _LEAST_DIFFERENCE = 0.5, 0.05
_OTHER_MODEL, _OTHER_SIZE, _OTHER_SETTING, _OTHER_SEED, _FROZEN_AND_TUNED = 0.55, 0.65, 0.72, 0.8, 0.5


@dataclass(frozen=True)
class Trial:
    """The score of an unfinished run on one held-out fold.

    Attributes:
        epochs: Completed epochs; all of the run's, if the fold is finished.
    """

    run: str
    fold: int
    epochs: int
    loss: float


@dataclass(frozen=True)
class Evidence:
    """Everything that plans are made of; for fold k it is made without that fold's labels.

    Attributes:
        probes: Log loss of the probe by input and by whether classes count equally.
        finished: Log loss of finished runs by name.
        pairs: Log loss of the plain mean of two finished runs.
    """

    probes: Mapping[tuple[Input, bool], float]
    finished: Mapping[str, float] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)


def predict_log_losses(candidates: Sequence[Candidate], evidence: Evidence) -> Floats:
    """Expected logarithm of each candidate's log loss, (num_candidates,)."""
    prior = _prior(candidates, evidence)
    observed, values, extra = list[int](), list[float](), list[tuple[bool, int, float]]()
    by_name = {candidate.name: number for number, candidate in enumerate(candidates)}
    for run, loss in evidence.finished.items():
        if run in by_name:
            observed.append(by_name[run])
            values.append(loss)
            extra.append((False, -1, _NOISE))
    for trial in evidence.trials:
        if trial.run in by_name and trial.run not in evidence.finished:
            number = by_name[trial.run]
            observed.append(number)
            values.append(trial.loss)
            extra.append((trial.epochs < candidates[number].epochs, trial.fold, _TRIAL))
    if not observed:
        return prior
    covariance = _covariance(candidates)
    among = covariance[np.ix_(observed, observed)]
    for i, (early, fold, noise) in enumerate(extra):
        among[i, i] += noise**2
        for j, (early_too, fold_too, _) in enumerate(extra):
            among[i, j] += _UNFINISHED**2 * (early and early_too) + _FOLD**2 * (fold == fold_too >= 0)
    surprise = np.log(np.maximum(values, _FLOOR)) - prior[observed]
    predicted: Floats = prior + covariance[:, observed] @ np.linalg.solve(among, surprise)
    for run, loss in evidence.finished.items():
        if run in by_name:
            predicted[by_name[run]] = np.log(max(loss, _FLOOR))
    return predicted


def _prior(candidates: Sequence[Candidate], evidence: Evidence) -> Floats:
    """Expected logarithm of each candidate's log loss by the probes alone."""
    probes = {key: float(np.log(max(loss, _FLOOR))) for key, loss in evidence.probes.items()}
    best = min(probes.values())
    means = []
    for candidate in candidates:
        probe = probes[candidate.input, candidate.even]
        if candidate.is_frozen:
            means.append(probe)
        else:
            means.append(
                best + _SLOPE * (probe - best) + _TUNING + _PER_EPOCH * np.log(candidate.epochs / EPOCHS)
            )
    return np.array(means)


def _same(values: Sequence[object]) -> NDArray[np.bool_]:
    """Which pairs of values are equal, (num_values, num_values)."""
    numbers: dict[object, int] = {}
    ids = np.array([numbers.setdefault(value, len(numbers)) for value in values])
    same: NDArray[np.bool_] = ids[:, None] == ids
    return same


def _covariance(candidates: Sequence[Candidate]) -> Floats:
    """Covariance of the candidates' log losses, in logarithms, (num_candidates, num_candidates)."""
    frozen = np.array([candidate.is_frozen for candidate in candidates])
    parts = (
        (_MODEL, [candidate.input.model for candidate in candidates]),
        (_SIZE, [candidate.input for candidate in candidates]),
        (_RECIPE, [candidate.recipe for candidate in candidates]),
        (_LENGTH, [candidate.epochs for candidate in candidates]),
        (_EVEN, [candidate.even for candidate in candidates]),
        (_OWN, [candidate.settings for candidate in candidates]),
    )
    covariance: Floats = np.full((len(candidates), len(candidates)), _COMMON**2)
    for sd, values in parts:
        covariance += sd**2 * _same(values)
    covariance[frozen] = covariance[:, frozen] = 0.0
    covariance[np.diag_indices_from(covariance)] += np.where(frozen, _NOISE**2, _SEED**2)
    return covariance


def error_covariance(candidates: Sequence[Candidate], log_losses: Floats, evidence: Evidence) -> Floats:
    """Covariance of the errors of runs, each with its loss as variance, (num_candidates, num_candidates).

    How much runs differ is learned from pairs of finished ones: one factor for all.
    """
    model = _same([candidate.input.model for candidate in candidates])
    size = _same([candidate.input for candidate in candidates])
    settings = _same([candidate.settings for candidate in candidates])
    frozen = np.array([candidate.is_frozen for candidate in candidates])
    correlation = np.select(
        [np.eye(len(candidates), dtype=np.bool_), settings, frozen[:, None] != frozen, size, model],
        [1.0, _OTHER_SEED, _FROZEN_AND_TUNED, _OTHER_SETTING, _OTHER_SIZE],
        default=_OTHER_MODEL,
    )
    correlation = 1 - _difference(candidates, correlation, evidence) * (1 - correlation)
    spread = np.exp(log_losses / 2)
    return np.asarray(correlation * spread[:, None] * spread)


def _difference(candidates: Sequence[Candidate], correlation: Floats, evidence: Evidence) -> float:
    """How much finished runs differ, as a multiple of what is expected."""
    by_name = {candidate.name: number for number, candidate in enumerate(candidates)}
    expected = measured = _PAIRS_EXPECTED
    for (one, other), together in evidence.pairs.items():
        if one in by_name and other in by_name:
            losses = [max(evidence.finished[run], _FLOOR) for run in (one, other)]
            shared = (4 * together - sum(losses)) / (2 * np.sqrt(losses[0] * losses[1]))
            expected += 1 - correlation[by_name[one], by_name[other]]
            measured += 1 - np.clip(shared, 0, 1)
    return float(np.clip(measured / expected, _LEAST_DIFFERENCE, 1.3))


def blend_log_loss(covariance: Floats) -> float:
    """Expected logarithm of the log loss of the best blend of some runs.

    Args:
        covariance: Covariance of their errors, from `error_covariance`, (num_runs, num_runs).
    """
    return float(-np.log(_precision(covariance)[0]))


def blends_with_one_more(covariance: Floats, members: Sequence[int], others: Sequence[int]) -> Floats:
    """As `blend_log_loss` of some members together with each of several others, (num_others,)."""
    rows, columns = np.array(members, dtype=np.int64), np.array(others, dtype=np.int64)
    precision, kept = _precision(covariance[np.ix_(rows, rows)])
    active = rows[kept]
    inverse = np.linalg.inv(covariance[np.ix_(active, active)])
    across = covariance[np.ix_(active, columns)]
    by_members = inverse @ across  # what the members explain of each other run's errors
    left = np.maximum(covariance.diagonal()[columns] - (across * by_members).sum(axis=0), 1e-12)
    weights = (1 - by_members.sum(axis=0)) / left
    blends = -np.log(precision + np.maximum(weights, 0) ** 2 * left)
    unfit = (weights > 0) & ((inverse.sum(axis=1)[:, None] - by_members * weights) < 0).any(axis=0)
    for place in np.flatnonzero(unfit).tolist():  # a member loses its weight
        both = [*members, others[place]]
        blends[place] = blend_log_loss(covariance[np.ix_(both, both)])
    return np.asarray(blends)


def _precision(covariance: Floats) -> tuple[float, NDArray[np.int64]]:
    """One over the least variance of a weighted mean, and the positions that have weight in it."""
    kept = np.arange(len(covariance))
    while True:
        weights = np.linalg.solve(covariance[np.ix_(kept, kept)], np.ones(len(kept)))
        if (weights > 0).all():
            return float(weights.sum()), kept
        kept = kept[weights > 0]
