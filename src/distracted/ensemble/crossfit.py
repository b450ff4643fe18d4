"""Cross-fitting a blend: neither the weights nor the choice of the blender for fold k see fold k's labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.blenders import ALL_BLENDERS, BLENDERS, Blender
from distracted.ensemble.sources import (
    ChosenSource,
    FittedSource,
    ScoredRows,
    Source,
    StoredSource,
    as_good,
    held_out_log_probs,
    held_out_losses,
)
from distracted.metrics import Interval, difference_and_error, log_loss, subject_bootstrap
from distracted.postprocess.step import MIN_FOLDS, LogProbs
from distracted.progress import Progress, silent

_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """How one blender compares with the best candidate.

    Attributes:
        in_sample: Log loss with weights fitted on all folds, scored on the same rows.
        interval: Log loss with each fold's weights fitted on the others, with its 95% bootstrap interval over
            subjects.
        difference: Cross-fitted loss minus the best candidate's; error: its standard error over subjects.
        chosen_from: Whether it was a candidate; the others are only shown.
    """

    blender: Blender
    in_sample: float
    interval: Interval
    difference: float
    error: float
    chosen_from: bool = True

    @property
    def name(self) -> str:
        return self.blender.name

    @property
    def cross_fitted(self) -> float:
        return self.interval.mean

    @property
    def as_good(self) -> bool:
        """Within one standard error of the best."""
        return as_good(self.difference, self.error)


@dataclass(frozen=True)
class CrossFit:
    """A cross-fitted blend.

    Attributes:
        log_probs: Blended out-of-fold predictions, each fold's fitted and chosen on the others,
            (num_images, num_classes).
        chosen: Blender of each fold; weights: its fitted weights.
        verdicts: All blenders compared over all rows, from the simplest on; no fold's choice uses this.
        overall: The blender that all folds together would choose; overall_weights: fitted on all of them.
        source: Predicts any subset.
    """

    log_probs: NDArray[np.float64]
    chosen: tuple[Blender, ...]
    weights: tuple[Any, ...]
    verdicts: tuple[Verdict, ...]
    overall: Blender
    overall_weights: Any
    source: Source


def cross_fit(
    log_probs: LogProbs,
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    subjects: NDArray[np.int64],
    *,
    blenders: Sequence[Blender] = BLENDERS,
    shown: Sequence[Blender] = (),
    progress: Progress = silent,
) -> CrossFit:
    """As `cross_fit_sources`, for predictions in which nothing was fitted on out-of-fold rows.

    Args:
        log_probs: Members' out-of-fold predictions, shape (num_runs, num_images, num_classes).
        labels: Class ids, shape (num_images,).
        folds: 0-based fold of each row, never -1, shape (num_images,).
        subjects: Subject ids, some of which may not occur, shape (num_images,).
    """
    scored = ScoredRows(labels, folds, subjects)
    members = [StoredSource(f"run {number}", oof, scored) for number, oof in enumerate(log_probs)]
    return cross_fit_sources(members, scored, blenders=blenders, shown=shown, progress=progress)


def cross_fit_sources(
    members: Sequence[Source],
    scored: ScoredRows,
    *,
    blenders: Sequence[Blender] = BLENDERS,
    shown: Sequence[Blender] = (),
    progress: Progress = silent,
) -> CrossFit:
    """Fit, choose and score blenders so that the score holds for subjects never seen.

    For fold k the blender is chosen by its scores on the other folds, which are cross-fitted among them. Its
    weights, and everything fitted in the members, are then fitted on all of the other folds. With fewer than
    three folds there is nothing to choose by: the first blender is taken; with one fold the mean.

    Args:
        blenders: Candidates, from the simplest to the most flexible.
        shown: Further blenders, only scored.
    """
    num_folds = scored.num_folds
    blenders = choosable(blenders, num_folds)
    if num_folds < MIN_FOLDS:
        shown = ()
    pairs = num_folds * (num_folds - 1) // 2 if num_folds >= MIN_FOLDS and len(blenders) > 1 else 0
    num_fits = len(blenders) * (1 + num_folds + pairs) + len(shown) * (1 + num_folds)
    with progress("fitting blends", total=num_fits, unit="fit") as step:

        def fitted(blender: Blender) -> FittedSource:
            return FittedSource(blender.name, blender, members, scored, step)

        candidates = [fitted(blender) for blender in blenders]
        blend = ChosenSource("blend", candidates, scored)
        chosen, weights = [], []
        for fold in range(num_folds):
            hidden = frozenset({fold})
            taken = blend.choice(hidden)
            chosen.append(blenders[taken])
            weights.append(candidates[taken].fit(hidden))
        verdicts = _compare([*candidates, *map(fitted, shown)], [*blenders, *shown], len(blenders), scored)
        overall = blend.choice(_NONE)
        overall_weights = candidates[overall].fit(_NONE)
        return CrossFit(
            log_probs=held_out_log_probs(blend, scored),
            chosen=tuple(chosen),
            weights=tuple(weights),
            verdicts=verdicts,
            overall=blenders[overall],
            overall_weights=overall_weights,
            source=blend,
        )


def choosable(blenders: Sequence[Blender], num_folds: int) -> Sequence[Blender]:
    """The candidates that so many folds can choose among."""
    if num_folds >= MIN_FOLDS:
        return blenders
    return blenders[:1] if num_folds > 1 else ALL_BLENDERS[:1]


def _compare(
    candidates: Sequence[FittedSource], blenders: Sequence[Blender], num_chosen_from: int, scored: ScoredRows
) -> tuple[Verdict, ...]:
    """Every candidate cross-fitted over all folds."""
    losses = [held_out_losses(candidate, scored, _NONE) for candidate in candidates]
    best = min(losses[:num_chosen_from], key=lambda values: float(values.mean()))
    verdicts = []
    for number, (candidate, blender) in enumerate(zip(candidates, blenders, strict=True)):
        difference, error = difference_and_error(losses[number], best, scored.subjects)
        interval = subject_bootstrap(losses[number], scored.subjects)
        chosen_from = number < num_chosen_from
        verdicts.append(Verdict(blender, _in_sample(candidate), interval, difference, error, chosen_from))
    return tuple(verdicts)


def _in_sample(candidate: FittedSource) -> float:
    examples, fitted = candidate.examples(_NONE), candidate.fit(_NONE)
    predicted = np.empty(examples.log_probs.shape[1:])
    for subset, rows in examples.subsets():
        predicted[rows] = candidate.estimator.predict(fitted, examples.log_probs[:, rows], subset)
    return log_loss(predicted, examples.labels)
