"""Stored runs as sources: what was fitted in them can be fitted again without any given folds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distracted.ensemble.blenders import find_blenders
from distracted.ensemble.sources import (
    ChosenSource,
    FittedSource,
    ScoredRows,
    Source,
    SourceByFold,
    StoredSource,
)
from distracted.errors import StoreError
from distracted.headline import LOG_LOSS, METRICS
from distracted.postprocess.step import STEP_VERSION, Identity, LogProbs, PredictionStep, Subset
from distracted.postprocess.steps import check_version, open_step
from distracted.predictions.lineage import check_parents
from distracted.predictions.run import StoredRun
from distracted.predictions.store import Store

_TOLERANCE = 1e-3  # of a stored probability and the same made again: float32, other threads


def scored_rows(store: Store) -> ScoredRows:
    """The rows that some fold holds out."""
    folds, rows = store.folds, store.folds.scored
    return ScoredRows(folds.labels[rows], folds.ids[rows], folds.subjects[rows])


@dataclass(frozen=True)
class _StoredTest:
    """A run's predictions of the test set by fold, read whenever they are asked for."""

    store: Store
    run: StoredRun

    def __getitem__(self, fold: int) -> LogProbs:
        return self.store.test_of(self.run, fold)


def open_sources(store: Store, runs: Sequence[StoredRun], *, from_networks: bool = False) -> list[Source]:
    """Complete runs as sources: stored predictions, or the step or blend that made them on its parents.

    A run that is an input of several others is opened once.

    Args:
        from_networks: Open fixed steps, too, although nothing was fitted in them: only what networks
            predicted is taken as stored.

    Raises:
        StoreError: an input of a run is gone or has changed, or a run cannot be made again as it is stored.
    """
    scored, opened = scored_rows(store), dict[str, Source]()

    def open_run(run: StoredRun) -> Source:
        if run.name in opened:
            return opened[run.name]
        check_parents(store, run.name)
        names = [parent.run for parent in run.manifests[0].parents]
        step = open_step(store, run) if run.kind == "derived" and (run.fitted or from_networks) else None
        stored = StoredSource(run.name, _scored_oof(store, run), scored, _StoredTest(store, run))
        source: Source = stored
        if isinstance(step, PredictionStep):
            source = step_source(step, open_all(names))
        elif run.kind == "blend":
            source = _open_blend(run, open_all(names))
        if source is not stored:
            _check_same(run, source, stored)
        opened[run.name] = source
        return source

    def open_all(names: Sequence[str]) -> list[Source]:
        return [opened[name] if name in opened else open_run(store.find_run(name)) for name in names]

    return [open_run(run) for run in runs]


def step_source(
    step: PredictionStep, parents: Sequence[Source]
) -> FittedSource | ChosenSource | SourceByFold:
    """A step on its parents, if need be only where it beats `Identity` on rows it was not fitted on."""
    if step.varies_by_fold:
        folds = range(len(parents[0].scored.by_fold))
        return SourceByFold([FittedSource(step.for_fold(fold), parents) for fold in folds])
    fitted = FittedSource(step, parents)
    if not step.must_beat_identity:
        return fitted
    return ChosenSource([FittedSource(Identity(), parents), fitted])


def _open_blend(run: StoredRun, parents: Sequence[Source]) -> Source:
    config = run.manifests[0].config
    check_version(run, config, STEP_VERSION)
    blenders, metric = find_blenders(config["blenders"]), METRICS[config.get("metric", LOG_LOSS.name)]
    opened = dict(zip((parent.run for parent in run.manifests[0].parents), parents, strict=True))

    def of(members: tuple[str, ...]) -> ChosenSource:
        candidates = [FittedSource(blender, [opened[name] for name in members]) for blender in blenders]
        return ChosenSource(candidates, metric)

    by_fold = [tuple(members) for members in config.get("by_fold", [])]
    if not by_fold:
        return of(tuple(opened))
    blends = {members: of(members) for members in dict.fromkeys(by_fold)}
    return SourceByFold([blends[members] for members in by_fold])


def _scored_oof(store: Store, run: StoredRun) -> LogProbs:
    """The predictions of the scored rows; not a copy, if those are all."""
    oof, rows = store.oof(run), store.folds.scored
    return oof if len(rows) == len(oof) else oof[rows]


def _check_same(run: StoredRun, source: Source, stored: StoredSource) -> None:
    """Each fold's held-out rows, and the first fold's test rows, are predicted as they are stored."""
    for fold in run.folds:
        hidden = frozenset({fold})
        subsets = [Subset(fold), Subset(fold, test=True)] if fold == 0 else [Subset(fold)]
        pairs = [(one.predict(subset, hidden) for one in (source, stored)) for subset in subsets]
        if any(np.abs(np.exp(made) - np.exp(kept)).max() > _TOLERANCE for made, kept in pairs):
            raise StoreError(
                f"{run.name}: fold {fold} comes out otherwise now than it is stored; FORCE=1 added to its "
                "command redoes it (`make status` names the command)"
            )
