"""What each member is worth to a blend: how much worse the blend is that is fitted without it.

A weight does not say so. In a log-linear pool a run that predicts little more than the class prior may get
the largest weight, and of two runs that err alike either may get all of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from distracted.ensemble.crossfit import CrossFit
from distracted.ensemble.sources import FittedSource, Source
from distracted.headline import LOG_LOSS, Metric
from distracted.postprocess.step import Subset
from distracted.progress import Progress, silent

#: Members that are left out in turn, those with most weight first. Of more than 50 members it is fewer, since
#: each fit takes longer: this bounds the time.
MAX_MEASURED = 20
_FEWEST, _MEMBERS_FITTED = 5, 1000


@dataclass(frozen=True)
class Contribution:
    """How much a blend's cross-fitted loss rises without a member.

    Attributes:
        loss: The rise; negative if the blend is better without it. For a metric where higher is better: the
            fall of the score.
        error: Its standard error over subjects, None if it is undefined on these rows.
    """

    loss: float
    error: float | None


def measure_contributions(
    fit: CrossFit,
    names: Sequence[str],
    members: Sequence[Source],
    *,
    metric: Metric = LOG_LOSS,
    progress: Progress = silent,
) -> dict[str, Contribution]:
    """Leave out one member at a time, fit the others again, and compare cross-fitted scores.

    Each fold keeps its blender, whose weights are fitted on the other folds without the member. A member
    without weight in a fold needs no fit there, since its absence changes nothing (in a greedy selection:
    little).

    Args:
        names: The members' names, in the order of `members`.

    Returns:
        By name; of the members with weight at most `MAX_MEASURED`, and none in a blend of one. A member is
        also missing if the metric is undefined without it.
    """
    if len(members) < 2:
        return {}
    scored = members[0].scored
    by_fold = [
        blender.weights_by_run(fitted, names) for blender, fitted in zip(fit.chosen, fit.weights, strict=True)
    ]
    weights = np.array([[*of_fold.values()] for of_fold in by_fold])  # (num_folds, num_members)
    num_measured = min(MAX_MEASURED, max(_FEWEST, _MEMBERS_FITTED // len(members)))
    heaviest = np.argsort(-weights.mean(axis=0), kind="stable")[:num_measured]
    without = {number: fit.log_probs.copy() for number in heaviest if weights[:, number].any()}
    num_fits = sum(int((weights[:, number] > 0).sum()) for number in without)
    with (
        threadpool_limits(1, user_api="blas"),  # as in `cross_fit`
        progress("fitting blends without one member", total=num_fits, unit="fit") as step,
    ):
        for fold, blender in enumerate(fit.chosen):
            for number, log_probs in without.items():
                if weights[fold, number] > 0:
                    rest = FittedSource(blender, [*members[:number], *members[number + 1 :]], step)
                    log_probs[scored.by_fold[fold]] = rest.predict(Subset(fold), frozenset({fold}))
            for member in members:  # what it predicts without this fold is not needed again
                member.forget()
    whole, contributions = metric.judge(fit.log_probs, scored.labels), {}
    for number, name in enumerate(names):
        if number in without:
            loss, error = metric.judge(without[number], scored.labels).above(whole, scored.subjects)
            if np.isfinite(loss):
                contributions[name] = Contribution(loss, error if np.isfinite(error) else None)
        elif not weights[:, number].any():
            contributions[name] = Contribution(0.0, 0.0)
    return contributions


def store_contributions(contributions: Mapping[str, Contribution]) -> dict[str, Any]:
    """Contributions as plain values for a blend's manifest."""
    return {name: asdict(contribution) for name, contribution in contributions.items()}


def read_contributions(details: Mapping[str, Any]) -> dict[str, Contribution]:
    """The contributions in a blend's manifest; empty for a blend of a version that did not measure them."""
    stored = details.get("contributions", {})
    return {name: Contribution(**contribution) for name, contribution in stored.items()}
