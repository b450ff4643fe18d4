"""Cross-fitting a blend: neither the weights nor the choice of the blender for fold k see fold k's labels."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_limits

from distracted.ensemble.blenders import ALL_BLENDERS, BLENDERS, Blender
from distracted.ensemble.sources import NONE, ChosenSource, FittedSource, Source
from distracted.headline import LOG_LOSS, Metric
from distracted.metrics import Interval, as_good
from distracted.postprocess.step import MIN_FOLDS, LogProbs, Rows, Subset
from distracted.progress import Progress, silent


@dataclass(frozen=True)
class Verdict:
    """How one blender compares with the best candidate.

    Attributes:
        in_sample: Score with weights fitted on all folds, scored on the same rows.
        interval: Score with each fold's weights fitted on the others, with its 95% bootstrap interval over
            subjects.
        difference: How much worse the cross-fitted score is than the best candidate's; error: its standard
            error over subjects.
        chosen_from: Whether it was a candidate; the others are only shown.
    """

    blender: Blender
    in_sample: float
    interval: Interval
    difference: float
    error: float
    chosen_from: bool = True

    @property
    def as_good(self) -> bool:
        """Within one standard error of the best."""
        return as_good(self.difference, self.error)


@dataclass(frozen=True)
class FoldFit:
    """A blend for one fold.

    Attributes:
        blender, weights: Chosen and fitted on the other folds.
        source: Predicts any subset.
    """

    blender: Blender
    weights: Any
    source: Source


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

    log_probs: LogProbs
    chosen: tuple[Blender, ...]
    weights: tuple[Any, ...]
    verdicts: tuple[Verdict, ...]
    overall: Blender
    overall_weights: Any
    source: Source

    def of_fold(self, fold: int) -> FoldFit:
        return FoldFit(self.chosen[fold], self.weights[fold], self.source)


def cross_fit(
    members: Sequence[Source],
    *,
    blenders: Sequence[Blender] = BLENDERS,
    shown: Sequence[Blender] = (),
    metric: Metric = LOG_LOSS,
    progress: Progress = silent,
) -> CrossFit:
    """Fit, choose and score blenders so that the score holds for subjects never seen.

    For fold k the blender is chosen by its scores on the other folds, which are cross-fitted among them. Its
    weights, and everything fitted in the members, are then fitted on all of the other folds. With fewer than
    three folds there is nothing to choose by: the first blender is taken; with one fold the mean.

    Args:
        blenders: Candidates, from the simplest to the most flexible.
        shown: Further blenders, only scored.
        metric: The score to choose the blender by; weights are fitted by log loss.
    """
    num_folds = members[0].scored.num_folds
    blenders, can_choose = choosable(blenders, num_folds), num_folds >= MIN_FOLDS
    every = [*blenders, *(shown if can_choose else ())]
    pairs = num_folds * (num_folds - 1) // 2 if can_choose and len(blenders) > 1 else 0
    num_fits = len(every) * (1 + num_folds) + len(blenders) * pairs
    with (
        threadpool_limits(1, user_api="blas"),  # more spend their time on waiting for each other
        progress("fitting blends", total=num_fits, unit="fit") as step,
    ):
        fitted = [FittedSource(blender, members, step) for blender in every]
        blend = ChosenSource(fitted[: len(blenders)], metric)
        hidden = [frozenset({fold}) for fold in range(num_folds)]
        in_sample = _fit_all(fitted, len(blenders) if pairs else 0, metric)
        return CrossFit(
            log_probs=blend.held_out_log_probs(),
            chosen=tuple(blenders[blend.choice(folds)] for folds in hidden),
            weights=tuple(map(blend.fit, hidden)),
            verdicts=_compare(fitted, every, in_sample, len(blenders), metric),
            overall=blenders[blend.choice(NONE)],
            overall_weights=blend.fit(NONE),
            source=blend,
        )


def fit_fold(
    members: Sequence[Source],
    fold: int,
    *,
    blenders: Sequence[Blender] = BLENDERS,
    metric: Metric = LOG_LOSS,
    progress: Progress = silent,
) -> FoldFit:
    """The same as `cross_fit` for one fold, without the fits that only other folds need."""
    num_folds, hidden = members[0].scored.num_folds, frozenset({fold})
    blenders = choosable(blenders, num_folds)
    compared = len(blenders) * (num_folds - 1) if len(blenders) > 1 else 0
    with (
        threadpool_limits(1, user_api="blas"),  # as in `cross_fit`
        progress(f"fitting the blend of fold {fold}", total=compared + 1, unit="fit") as step,
    ):
        blend = ChosenSource([FittedSource(blender, members, step) for blender in blenders], metric)
        return FoldFit(blenders[blend.choice(hidden)], blend.fit(hidden), blend)


def _fit_all(fitted: Sequence[FittedSource], num_candidates: int, metric: Metric) -> list[float]:
    """Fit all blenders on all folds and without each, and candidates without each pair of folds, too.

    What the members predict without the same folds is used by all blenders at once, then dropped: with many
    steps among the members it would fill the memory.

    Returns:
        Score of each blender fitted on all folds, on the same rows.
    """
    num_folds, members = fitted[0].scored.num_folds, fitted[0].inputs
    in_sample = [_in_sample(source, metric) for source in fitted]
    for size, blenders in ((1, fitted), (2, fitted[:num_candidates])):
        for folds in itertools.combinations(range(num_folds), size):
            for member in members:
                member.forget()
            for source in blenders:
                for fold in folds:
                    source.predict(Subset(fold), frozenset(folds))
    for member in members:
        member.forget()
    return in_sample


def _in_sample(source: FittedSource, metric: Metric) -> float:
    examples = source.examples(NONE)
    rows = Rows(Subset(0), examples.log_probs)  # blenders predict each row on its own
    return metric.value(source.predict_rows(rows, NONE), examples.labels)


def choosable(blenders: Sequence[Blender], num_folds: int) -> Sequence[Blender]:
    """The candidates that so many folds can choose among."""
    if num_folds >= MIN_FOLDS:
        return blenders
    return blenders[:1] if num_folds > 1 else ALL_BLENDERS[:1]


def _compare(
    fitted: Sequence[FittedSource],
    blenders: Sequence[Blender],
    in_sample: Sequence[float],
    num_candidates: int,
    metric: Metric,
) -> tuple[Verdict, ...]:
    """Every blender cross-fitted over all folds; the first `num_candidates` can be chosen."""
    judged, subjects = [source.judged(metric) for source in fitted], fitted[0].scored.subjects
    best = min(judged[:num_candidates], key=lambda one: one.loss)
    verdicts = []
    for number, (one, blender) in enumerate(zip(judged, blenders, strict=True)):
        compared = one.interval(subjects), *one.above(best, subjects)
        verdicts.append(Verdict(blender, in_sample[number], *compared, number < num_candidates))
    return tuple(verdicts)
