"""Runs made by a step from other runs: each fold by what was fitted on the other folds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_limits

from distracted.ensemble.members import open_sources, step_source
from distracted.ensemble.sources import NONE, FittedSource
from distracted.errors import ConfigError, StoreError
from distracted.postprocess.derived import Derivation, Gain, measure_gain
from distracted.postprocess.step import PredictionStep, Subset
from distracted.predictions.lineage import check_parents
from distracted.predictions.store import Store


@dataclass(frozen=True)
class Derived:
    """A run that a step made.

    Attributes:
        gain: Its cross-fitted score and its best parent's.
        fits: What was fitted for each fold, None for unchanged predictions; empty if it was done already.
        how: The fits in a few words.
    """

    name: str
    gain: Gain
    fits: tuple[Any, ...] = ()
    how: str = "done already"


def derive_run(
    store: Store, step: PredictionStep, runs: Sequence[str], *, name: str = "", force: bool = False
) -> Derived:
    """Write the run that a step makes of others, unless it is there and its inputs are unchanged.

    Args:
        runs: One complete run, or several for a step that takes several.
        name: By default <run>_<the step's suffix>.

    Raises:
        ConfigError: a name is missing, or the runs are too few or too many.
        StoreError: a run is missing or incomplete, there are too few folds, or the name is taken.
    """
    start, step = time.perf_counter() - step.seconds, step.for_metric(store.competition.metric)
    parents = [store.find_run(run) for run in dict.fromkeys(runs)]
    names = [parent.name for parent in parents]
    if not name and (not step.suffix or len(names) != 1):
        raise ConfigError(f"NAME= is missing: the name of the run that {step.name} makes")
    name = name or f"{names[0]}_{step.suffix}"
    store.check_new(name)
    _check_enough(store, step, len(names))
    num_folds = store.folds.num_folds
    with store.hold(name):
        derivation = Derivation(store, parents, name, step, whole=True, force=force)
        if not derivation.folds:
            check_parents(store, name)
            return Derived(name, measure_gain(store, parents, name))
        opened = open_sources(store, parents)
        source = step_source(step, opened)
        with threadpool_limits(1, user_api="blas"):  # as in `cross_fit`
            fits = tuple(source.fit(frozenset({fold})) for fold in range(num_folds))
        for fold, fitted in enumerate(fits):
            hidden = frozenset({fold})
            derivation.write(
                fold,
                valid=source.predict(Subset(fold), hidden),
                test=source.predict(Subset(fold, test=True), hidden),
                origin=step.origin(fitted),
                seconds=(time.perf_counter() - start) / num_folds,
                details=step.for_fold(fold).details(fitted, names),
            )
    overall = FittedSource(step, opened) if step.varies_by_fold else source
    how = step.describe(fits, overall.fit(NONE), names)
    return Derived(name, measure_gain(store, parents, name), fits, how)


def _check_enough(store: Store, step: PredictionStep, num_runs: int) -> None:
    if num_runs < step.min_runs or (num_runs > 1 and not step.takes_several):
        expected = "two runs or more" if step.takes_several else "one run"
        raise ConfigError(f"RUNS: {step.name} takes {expected}; got {num_runs}")
    if step.reads_labels and store.folds.num_folds < 2:
        raise StoreError(
            f"{store.competition.name}: a single split has no other fold to fit {step.name} on; expected two "
            "folds or more"
        )
