"""Cross-fitting a blend: neither the weights nor the choice of the blender for fold k see fold k's labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distracted.ensemble.blenders import ALL_BLENDERS, BLENDERS, Blender
from distracted.ensemble.sources import NONE, ChosenSource, FittedSource, Source, as_good
from distracted.headline import LOG_LOSS, Metric
from distracted.metrics import Interval
from distracted.postprocess.step import MIN_FOLDS, LogProbs
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
    with progress("fitting blends", total=num_fits, unit="fit") as step:
        fitted = [FittedSource(blender, members, step) for blender in every]
        blend = ChosenSource(fitted[: len(blenders)], metric)
        hidden = [frozenset({fold}) for fold in range(num_folds)]
        return CrossFit(
            log_probs=blend.held_out_log_probs(),
            chosen=tuple(blenders[blend.choice(folds)] for folds in hidden),
            weights=tuple(map(blend.fit, hidden)),
            verdicts=_compare(fitted, every, len(blenders), metric),
            overall=blenders[blend.choice(NONE)],
            overall_weights=blend.fit(NONE),
            source=blend,
        )


def choosable(blenders: Sequence[Blender], num_folds: int) -> Sequence[Blender]:
    """The candidates that so many folds can choose among."""
    if num_folds >= MIN_FOLDS:
        return blenders
    return blenders[:1] if num_folds > 1 else ALL_BLENDERS[:1]


def _compare(
    fitted: Sequence[FittedSource], blenders: Sequence[Blender], num_candidates: int, metric: Metric
) -> tuple[Verdict, ...]:
    """Every blender cross-fitted over all folds; the first `num_candidates` can be chosen."""
    judged, subjects = [source.judged(metric) for source in fitted], fitted[0].scored.subjects
    best = min(judged[:num_candidates], key=lambda one: one.loss)
    verdicts = []
    for number, (source, blender) in enumerate(zip(fitted, blenders, strict=True)):
        difference, error = judged[number].above(best, subjects)
        interval, in_sample = judged[number].interval(subjects), _in_sample(source, metric)
        verdicts.append(Verdict(blender, in_sample, interval, difference, error, number < num_candidates))
    return tuple(verdicts)


def _in_sample(source: FittedSource, metric: Metric) -> float:
    examples, fitted = source.examples(NONE), source.fit(NONE)
    predicted = np.empty(examples.log_probs.shape[1:])
    for positions, rows in examples.by_fold():
        predicted[positions] = source.estimator.predict(fitted, rows)
    return metric.value(predicted, examples.labels)
