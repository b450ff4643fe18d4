"""The choice of a blend's members among many runs, for each fold by the labels of the others."""

from collections.abc import Mapping, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from distracted.ensemble.pools import fit_greedy_selection
from distracted.ensemble.sources import Source


def select_members(sources: Mapping[str, Source], offered: Sequence[Sequence[str]]) -> list[list[str]]:
    """The runs that greedy selection weighs, for each fold without its labels.

    Runs that only weaken a mean are left out, so that a plain mean of the rest is a good blend.

    Args:
        sources: By run.
        offered: The runs to choose from, by fold.

    Returns:
        The members by fold, at least one each, in the order in which they were offered.
    """
    members = []
    with threadpool_limits(1, user_api="blas"):
        for fold, runs in enumerate(offered):
            hidden = frozenset({fold})
            scored = sources[runs[0]].scored
            log_probs = [sources[run].held_out_log_probs(hidden) for run in runs]
            weights = fit_greedy_selection(log_probs, scored.labels[scored.visible(hidden)])
            members.append([run for run, weight in zip(runs, np.asarray(weights), strict=True) if weight > 0])
            for source in sources.values():
                source.forget()
    return members
