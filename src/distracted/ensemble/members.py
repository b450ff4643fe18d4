"""Stored runs as sources: what was fitted in them can be fitted again without any given folds."""

from collections.abc import Sequence

import numpy as np

from distracted.data.folds import Folds
from distracted.ensemble.blenders import find_blenders
from distracted.ensemble.sources import ChosenSource, FittedSource, ScoredRows, Source, StoredSource
from distracted.errors import StoreError
from distracted.postprocess.step import STEP_VERSION, Identity, PredictionStep, Subset
from distracted.postprocess.steps import check_version, open_step
from distracted.predictions.lineage import check_parents
from distracted.predictions.run import Run
from distracted.predictions.store import Store

_TOLERANCE = 1e-3  # of a stored probability and the same made again: float32, other threads


def scored_rows(folds: Folds) -> ScoredRows:
    """The rows that some fold holds out."""
    rows = folds.scored
    return ScoredRows(folds.labels[rows], folds.ids[rows], folds.subjects[rows])


def open_sources(
    store: Store, runs: Sequence[Run], scored: ScoredRows, *, from_networks: bool = False
) -> list[Source]:
    """Complete runs as sources: stored predictions, or the step or blend that made them on its parents.

    A run that is an input of several others is opened once.

    Args:
        from_networks: Open fixed steps, too, although nothing was fitted in them: only what networks
            predicted is taken as stored.

    Raises:
        StoreError: an input of a run is gone or has changed, or a run cannot be made again as it is stored.
    """
    opened: dict[str, Source] = {}

    def open_run(run: Run) -> Source:
        if run.name not in opened:
            check_parents(store, run.name)
            opened[run.name] = open_fitted(run) if is_opened(run) else as_stored(run)
        return opened[run.name]

    def is_opened(run: Run) -> bool:
        if from_networks and run.kind == "derived":
            return isinstance(open_step(store, run), PredictionStep)
        return run.fitted

    def as_stored(run: Run) -> Source:
        return StoredSource(run.name, run.oof[store.folds.scored], scored, run.test)

    def open_fitted(run: Run) -> Source:
        names = [parent.run for parent in run.manifests[0].parents]
        parents = [opened[name] if name in opened else open_run(store.read_run(name)) for name in names]
        source = _open_blend(run, parents, scored) if run.kind == "blend" else open_derived(run, parents)
        _check_same(store, run, source)
        return source

    def open_derived(run: Run, parents: Sequence[Source]) -> Source:
        step = open_step(store, run)
        assert isinstance(step, PredictionStep)
        return step_source(run.name, step, parents, scored)

    return [open_run(run) for run in runs]


def step_source(name: str, step: PredictionStep, parents: Sequence[Source], scored: ScoredRows) -> Source:
    """A step on its parents, if need be only where it beats `Identity` on rows it was not fitted on."""
    fitted = FittedSource(name, step, parents, scored)
    if not step.must_beat_identity:
        return fitted
    return ChosenSource(name, [FittedSource("none", Identity(), parents, scored), fitted], scored)


def _open_blend(run: Run, parents: Sequence[Source], scored: ScoredRows) -> Source:
    config = run.manifests[0].config
    check_version(run, config, STEP_VERSION)
    blenders = find_blenders(config["blenders"])
    candidates = [FittedSource(blender.name, blender, parents, scored) for blender in blenders]
    return ChosenSource(run.name, candidates, scored)


def _check_same(store: Store, run: Run, source: Source) -> None:
    """Each fold's held-out rows, and the first fold's test rows, are predicted as they are stored."""
    for fold in run.folds:
        hidden = frozenset({fold})
        pairs = [(source.predict(Subset(fold), hidden), run.oof[store.folds.valid(fold)])]
        if fold == 0:
            pairs.append((source.predict(Subset(fold, test=True), hidden), run.test[0]))
        if any(np.abs(np.exp(made) - np.exp(stored)).max() > _TOLERANCE for made, stored in pairs):
            raise StoreError(
                f"{run.name}: fold {fold} comes out otherwise now than it is stored; FORCE=1 redoes it (a "
                "blend: `make ensemble`)"
            )
