"""`make ensemble`: the stored runs blended into a run like any other."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distracted.ensemble.blenders import ALL_BLENDERS, BLENDERS, Blender
from distracted.ensemble.crossfit import CrossFit, cross_fit_sources
from distracted.ensemble.members import open_sources, scored_rows
from distracted.ensemble.sources import MIN_FOLDS
from distracted.errors import StoreError
from distracted.metrics import (
    Interval,
    log_loss,
    log_losses,
    prior_log_loss,
    scores,
    subject_bootstrap,
)
from distracted.postprocess.step import Part
from distracted.predictions.lineage import ancestors, check_parents
from distracted.predictions.store import Run, Store
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ensemble:
    """A blend that was written.

    Attributes:
        name: Of the run; members: the runs in it.
        scores: Pooled OOF log loss of each member.
        pooled: The blend's cross-fitted scores by name, as `metrics.scores`.
        interval: The cross-fitted log loss with its 95% bootstrap interval over subjects.
        prior: Log loss of the class prior.
    """

    name: str
    members: tuple[str, ...]
    scores: dict[str, float]
    pooled: dict[str, float]
    fit: CrossFit
    interval: Interval
    prior: float

    @property
    def num_candidates(self) -> int:
        """Blenders that were chosen from."""
        return sum(verdict.chosen_from for verdict in self.fit.verdicts)


def blend_runs(
    store: Store,
    *,
    runs: Sequence[str] = (),
    name: str = "ensemble",
    blenders: Sequence[Blender] = BLENDERS,
    leaky: bool = False,
    progress: Progress = silent,
) -> Ensemble:
    """Blend runs and write the blend's folds.

    Fold k of the blend pools the members' fold-k networks, for its valid rows and for the test rows alike,
    by what was fitted and chosen without fold k.

    Args:
        runs: Members; by default all complete runs that no blend is part of.
        blenders: Chosen from, from the simplest to the most flexible; the others are scored for reading.
        leaky: Take runs that watched the folds that they are scored on, too.

    Raises:
        StoreError: no complete run, a named one that is missing, incomplete or leaky, or a name that another
            kind of run or a member has.
    """
    if any(store.manifest(name, fold).kind != "blend" for fold in store.finished_folds(name)):
        raise StoreError(f"NAME={name}: there is a run of that name that is no blend; choose another name")
    if name in runs:
        raise StoreError(f"NAME={name} is among RUNS: no blend is a member of itself; choose another name")
    members = (
        [store.read_run(run) for run in dict.fromkeys(runs)] if runs else _complete_runs(store, leaky=leaky)
    )
    if blends := [run.name for run in members if _holds_a_blend(store, run.name)]:
        raise StoreError(
            f"RUNS: {blends[0]} is a blend, or made of one: its members would count twice; name them instead"
        )
    if not leaky and (watched := [run.name for run in members if run.leaky]):
        raise StoreError(
            f"RUNS: {watched[0]!r} watched the folds that it is scored on: its score is too good, and "
            "a blend would lean on it; leave it out, or LEAKY=1 takes it all the same"
        )
    if len(members) == 1:
        _log.info("one run only: %s passes through with weight 1", members[0].name)
    scored = scored_rows(store.folds)
    if len(members) > 1 and len(blenders) > 1 and scored.num_folds < MIN_FOLDS:
        found = f"{scored.num_folds} folds are" if scored.num_folds > 1 else "a single split is"
        _log.info("%s too few to choose a blender by: the simplest is taken", found)
    sources = open_sources(store, members, scored)
    shown = [blender for blender in ALL_BLENDERS if blender not in blenders]
    if len(members) == 1:
        blenders, shown = BLENDERS[:1], []
    if store.finished_folds(name):
        _log.info("%s: replaces the blend of that name (NAME= keeps both)", name)
    fit = cross_fit_sources(sources, scored, blenders=blenders, shown=shown, progress=progress)
    with store.hold(name):
        _write(store, name, members, fit)
    rows, labels = store.folds.scored, scored.labels
    interval = subject_bootstrap(log_losses(fit.log_probs, labels), scored.subjects)
    of_members = {run.name: log_loss(run.oof[rows], labels) for run in members}
    prior = prior_log_loss(store.folds.labels, store.folds.ids, store.competition.num_classes)
    pooled = scores(fit.log_probs, labels)
    return Ensemble(name, tuple(of_members), of_members, pooled, fit, interval, prior)


def _complete_runs(store: Store, *, leaky: bool) -> list[Run]:
    members = []
    for name in store.runs():
        manifests = store.manifests(name)
        if _holds_a_blend(store, name):
            continue
        if manifests[0].leaky and not leaky:
            _log.warning("%r watched the folds that it is scored on; left out (LEAKY=1 takes it)", name)
            continue
        if len(manifests) < store.folds.num_folds:
            _log.warning("%s: %d of %d folds; left out", name, len(manifests), store.folds.num_folds)
            continue
        try:
            check_parents(store, name)
        except StoreError as error:
            _log.warning("%s; left out", error)
            continue
        members.append(store.read_run(name))
    if not members:
        raise StoreError(
            f"{store.workspace.oof(store.competition.name)}: no complete run to blend; `make cv "
            "MODEL=resnet50` trains one"
        )
    return members


def _holds_a_blend(store: Store, run: str) -> bool:
    return any(store.manifests(name)[0].kind == "blend" for name in ancestors(store, run))


def _write(store: Store, name: str, members: Sequence[Run], fit: CrossFit) -> None:
    parents = [run.as_parent() for run in members]
    config = {
        "members": [parent.model_dump(mode="json") for parent in parents],
        "blenders": [verdict.blender.key for verdict in fit.verdicts if verdict.chosen_from],
        "leaky": any(run.leaky for run in members),
    }
    for fold, (blender, weights) in enumerate(zip(fit.chosen, fit.weights, strict=True)):
        hidden = frozenset({fold})
        valid = fit.source.predict(Part(fold), hidden)
        labels = store.folds.labels[store.folds.valid(fold)]
        store.write_fold(
            name,
            fold,
            kind="blend",
            config=config,
            valid=valid,
            test=fit.source.predict(Part(fold, test=True), hidden),
            parents=parents,
            scores=scores(valid, labels, prefix="valid/"),
            details=_details(members, fit, blender, weights),
        )


def _details(members: Sequence[Run], fit: CrossFit, blender: Blender, weights: Any) -> dict[str, object]:
    names = [run.name for run in members]
    return {
        "blender": blender.name,
        "weights": blender.weights_by_run(weights, names),
        "fitted": weights.tolist(),
        "num_candidates": sum(verdict.chosen_from for verdict in fit.verdicts),
        "on_all_folds": {
            "blender": fit.overall.name,
            "weights": fit.overall.weights_by_run(fit.overall_weights, names),
            "in_sample": {verdict.name: verdict.in_sample for verdict in fit.verdicts},
            "cross_fitted": {verdict.name: verdict.cross_fitted for verdict in fit.verdicts},
        },
    }
