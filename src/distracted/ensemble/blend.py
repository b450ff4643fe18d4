"""`make ensemble`: blends stored runs and stores the blend as a run."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distracted.ensemble.blenders import ALL_BLENDERS, BLENDERS, Blender
from distracted.ensemble.contributions import (
    Contribution,
    measure_contributions,
    read_contributions,
    store_contributions,
)
from distracted.ensemble.crossfit import CrossFit, FoldFit, choosable, cross_fit, fit_fold
from distracted.ensemble.members import open_sources
from distracted.ensemble.sources import Source
from distracted.errors import StoreError
from distracted.headline import LOG_LOSS, Metric
from distracted.metrics import Interval, scores
from distracted.postprocess.step import MIN_FOLDS, STEP_VERSION, LogProbs, Subset
from distracted.predictions.catalogue import Catalogue, score_run
from distracted.predictions.lineage import check_parents
from distracted.predictions.run import StoredRun
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import hash_config

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ensemble:
    """A blend in the store.

    Attributes:
        members: Names of the blended runs.
        metric: The score that the blender was chosen by; weights are fitted by log loss.
        scores: Pooled OOF score of each member.
        pooled: The blend's cross-fitted scores by name, as `Competition.scores`.
        fit: How it was fitted; None if it was done already.
        interval: The cross-fitted score with its 95% bootstrap interval over subjects.
        prior: Score of the class prior.
        num_candidates: Number of blenders to choose from.
        blender, weights: The choice over all folds together, for information; one weight a member.
        contributions: How much the cross-fitted score loses without a member, by name; of the members with
            most weight. Empty for one member, and for a blend of a version that did not measure them.
        best_member: The member with the best score.
        above_best: How much worse the blend scores than that member, and the standard error over subjects.
            It is chosen by the same scores, so its own is a little too good.
    """

    name: str
    metric: Metric
    members: tuple[str, ...]
    scores: dict[str, float]
    pooled: dict[str, float]
    fit: CrossFit | None
    interval: Interval
    prior: float
    num_candidates: int
    blender: str
    weights: dict[str, float]
    contributions: dict[str, Contribution]
    best_member: str
    above_best: tuple[float, float]


def blend_runs(
    store: Store,
    *,
    runs: Sequence[str] = (),
    by_fold: Sequence[Sequence[str]] = (),
    name: str = "ensemble",
    blenders: Sequence[Blender] = BLENDERS,
    search: Mapping[str, Any] | None = None,
    opened: Mapping[str, Source] | None = None,
    show_others: bool = True,
    leaky: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Ensemble:
    """Blend runs and write the blend's folds, unless the same blend is stored under that name.

    Fold k of the blend pools the members' fold-k networks, on its valid rows and on the test rows, with a
    blender and weights that were chosen and fitted without fold k.

    Args:
        runs: Members; by default all complete, current runs that no blend is part of.
        by_fold: Instead of `runs`: the members of each fold, which were chosen without its labels.
        search: How the members were chosen, for the manifests.
        opened: The members' sources, if they are open already; what was fitted in them is not fitted again.
        blenders: Candidates, from the simplest to the most flexible.
        show_others: Whether the other blenders are scored, too, for information.
        leaky: Also take runs that watched the folds that they are scored on.
        force: Blend again, even if it is done.

    Raises:
        StoreError: there is no complete run; a named run is missing, incomplete or leaky; or the name belongs
            to a member or to a run of another kind.
    """
    store.check_new(name)
    if store.kinds(name) - {"blend"}:
        raise StoreError(f"NAME={name}: there is a run of that name that is no blend; choose another name")
    if name in runs:
        raise StoreError(f"NAME={name} is among RUNS: no blend is a member of itself; choose another name")
    catalogue = Catalogue(store)
    runs = list(dict.fromkeys(run for of_fold in by_fold for run in of_fold)) if by_fold else runs
    if runs:
        members = [store.find_run(run) for run in dict.fromkeys(runs)]
    else:
        members = _complete_runs(catalogue, but=name, leaky=leaky)
    if blends := [run.name for run in members if catalogue.entry(run.name).holds_a_blend]:
        raise StoreError(
            f"RUNS: {blends[0]} is a blend, or made from one: its members would count twice; name these"
        )
    if not leaky and (watched := [run.name for run in members if run.leaky]):
        raise StoreError(
            f"RUNS: {watched[0]!r} watched the folds that it is scored on: its score is too good, and "
            "a blend would lean on it; leave it out, or LEAKY=1 takes it all the same"
        )
    if len(members) == 1:
        _log.info("one run only: %s passes through with weight 1", members[0].name)
    num_folds = store.folds.num_folds
    if len(members) > 1 and len(blenders) > 1 and num_folds < MIN_FOLDS:
        folds = f"{num_folds} folds are" if num_folds > 1 else "a single split is"
        _log.info("%s too few to choose a blender by: the simplest is taken", folds)
    shown = [blender for blender in ALL_BLENDERS if show_others and blender not in blenders]
    if len(members) == 1:
        blenders, shown = BLENDERS[:1], []
    config = {
        "version": STEP_VERSION,
        "members": [run.as_parent().model_dump(mode="json") for run in members],
        "blenders": [blender.key for blender in choosable(blenders, num_folds)],
        "leaky": any(run.leaky for run in members),
    }
    if (metric := store.competition.metric) is not LOG_LOSS:
        config["metric"] = metric.name
    names = [run.name for run in members]
    member_sets = [tuple(of_fold) for of_fold in by_fold] or [tuple(names)] * num_folds
    if len(set(member_sets)) > 1:
        config["by_fold"] = [list(of_fold) for of_fold in member_sets]
    if search is not None:  # the same members, chosen among more, are another blend
        config["search"] = dict(search)
    alone = {run.name: score_run(store, run)[metric.name] for run in members}
    fit, blend = None, None if force else _stored_blend(store, name, members, config)
    if blend is not None:
        check_parents(store, name)
        _log.info("%s: done already (FORCE=1 redoes it)", name)
    else:
        sources = opened or dict(zip(names, open_sources(store, members), strict=True))
        if store.finished_folds(name):
            _log.info("%s: replaces the blend of that name (NAME= keeps both)", name)
        how: dict[str, Any] = {"blenders": blenders, "metric": metric, "progress": progress}
        usual = max(dict.fromkeys(member_sets), key=member_sets.count)  # all folds' members, as a rule
        of_usual = [sources[run] for run in usual]
        fit = cross_fit(of_usual, shown=shown, **how)
        blended = list[_BlendedFold]()
        for fold, own in enumerate(member_sets):
            own_fit = (
                fit.of_fold(fold) if own == usual else fit_fold([sources[run] for run in own], fold, **how)
            )
            blended.append(_BlendedFold.of(own_fit, own, fold))
        worth = measure_contributions(fit, usual, of_usual, metric=metric, progress=progress)
        on_all_folds = {
            "blender": fit.overall.name,
            "weights": dict.fromkeys(names, 0.0) | fit.overall.weights_by_run(fit.overall_weights, usual),
            "in_sample": {verdict.blender.name: verdict.in_sample for verdict in fit.verdicts},
            "cross_fitted": {verdict.blender.name: verdict.interval.mean for verdict in fit.verdicts},
        }
        shared = {
            "num_candidates": sum(verdict.chosen_from for verdict in fit.verdicts),
            "on_all_folds": on_all_folds,
            "contributions": store_contributions(worth),
        }
        with store.hold(name):
            _write(store, name, members, config, blended, shared)
        blend = store.find_run(name)
    return _look(store, blend, members, alone, fit)


def blend_command(store: Store, blend: str) -> str:
    """The command that makes a stored blend again, of the same members with the same choice of blenders."""
    manifest = store.manifests(blend)[0]
    if "search" in manifest.config:
        return "make compete"
    members, keys = manifest.parents, manifest.config["blenders"]
    command = f'make ensemble RUNS="{" ".join(parent.run for parent in members)}" NAME={blend}'
    default = choosable(BLENDERS, store.folds.num_folds) if len(members) > 1 else BLENDERS[:1]
    if keys != [blender.key for blender in default]:
        command += f' BLENDERS="{" ".join(keys)}"'
    return command + " LEAKY=1" * manifest.leaky


def _look(
    store: Store,
    blend: StoredRun,
    members: Sequence[StoredRun],
    alone: dict[str, float],
    fit: CrossFit | None,
) -> Ensemble:
    rows, labels = store.folds.scored, store.folds.labels[store.folds.scored]
    oof, details = store.oof(blend)[rows], blend.manifests[0].details
    metric, subjects = store.competition.metric, store.folds.subjects[rows]
    best = min(members, key=lambda run: metric.loss_of(alone[run.name]))
    judged, of_best = metric.judge(oof, labels), metric.judge(store.oof(best)[rows], labels)
    return Ensemble(
        name=blend.name,
        metric=metric,
        members=tuple(alone),
        scores=alone,
        pooled=store.competition.scores(oof, labels),
        fit=fit,
        interval=judged.interval(subjects),
        prior=metric.prior(store.folds.labels, store.folds.ids, store.competition.num_classes),
        num_candidates=details["num_candidates"],
        blender=details["on_all_folds"]["blender"],
        weights=details["on_all_folds"]["weights"],
        contributions=read_contributions(details),
        best_member=best.name,
        above_best=judged.above(of_best, subjects),
    )


def _complete_runs(catalogue: Catalogue, *, but: str, leaky: bool) -> list[StoredRun]:
    """The complete, current runs that no blend is part of; logs why others are left out."""
    store, members = catalogue.store, []
    for entry in catalogue.entries():
        if entry.name == but:  # it may be damaged
            continue
        if not entry.manifests:
            raise StoreError(entry.problem)
        if but in entry.parents or entry.holds_a_blend:
            continue
        if entry.leaky and not leaky:
            text = "%s: leaky, it watched the folds that it is scored on; left out (LEAKY=1 takes it)"
            _log.warning(text, entry.name)
        elif entry.tried_by:
            text = "%s: tried by `%s`, and chosen by labels that it is scored on; left out (RUNS= takes it)"
            _log.info(text, entry.name, entry.tried_by)
        elif not entry.has_all_folds:
            _log.warning("%s: %s; left out", entry.name, entry.missing)
        elif entry.stale:
            _log.warning("%s; left out", entry.stale)
        else:
            members.append(store.find_run(entry.name))
    if not members:
        raise StoreError(
            f"{store.workspace.oof(store.competition.name)}: no complete run to blend; `make cv "
            "MODEL=resnet50` trains one"
        )
    return members


def _stored_blend(
    store: Store, name: str, members: Sequence[StoredRun], config: Mapping[str, Any]
) -> StoredRun | None:
    """The blend of that name, if it is undamaged and the one that these members and settings make."""
    try:
        blend = store.find_run(name)
    except StoreError:
        return None
    made_from = hash_config(config), tuple(run.as_parent() for run in members)
    same = all((manifest.config_hash, manifest.parents) == made_from for manifest in blend.manifests)
    return blend if same else None


@dataclass(frozen=True)
class _BlendedFold:
    """The blend's predictions of a fold's held-out rows and of the test set, and what made them."""

    valid: LogProbs
    test: LogProbs
    details: Mapping[str, Any]

    @classmethod
    def of(cls, fit: FoldFit, members: Sequence[str], fold: int) -> "_BlendedFold":
        hidden, by_run = frozenset({fold}), fit.blender.weights_by_run(fit.weights, members)
        details = {"blender": fit.blender.name, "weights": by_run, "fitted": fit.weights.tolist()}
        valid, test = (fit.source.predict(Subset(fold, test=test), hidden) for test in (False, True))
        return cls(valid, test, details)


def _write(
    store: Store,
    name: str,
    members: Sequence[StoredRun],
    config: dict[str, Any],
    folds: Sequence[_BlendedFold],
    shared: Mapping[str, Any],
) -> None:
    """Write all folds; `shared` are details that all of them have."""
    parents = [run.as_parent() for run in members]
    for fold, blended in enumerate(folds):
        weights = dict.fromkeys((run.name for run in members), 0.0) | blended.details["weights"]
        details = {**blended.details, "weights": weights, **shared}
        valid_scores = scores(blended.valid, store.folds.labels[store.folds.valid(fold)], prefix="valid/")
        facts: dict[str, Any] = {"parents": parents, "scores": valid_scores, "details": details}
        store.write_fold(
            name, fold, kind="blend", config=config, valid=blended.valid, test=blended.test, **facts
        )
