"""Trains one (run, fold), unless it is done, and stores its predictions in oof/."""

import logging
from collections.abc import Callable, Collection
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from distracted.errors import LockError, StoreError
from distracted.files import sha256_file
from distracted.locks import Lock
from distracted.models.saved import save_network
from distracted.paths import JOB, LOCK, REDO
from distracted.postprocess.pseudo import read_pseudo_labels
from distracted.predictions.job_state import ANY_CONFIG, job_state, mark_redo, redo_of
from distracted.predictions.manifest import Manifest, Parent
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.stopping import Stop
from distracted.tracking.client import forget_run
from distracted.tracking.log import FoldTracker, track_run
from distracted.training.checkpoints import Checkpoints
from distracted.training.context import FoldContext
from distracted.training.distributed import ALONE, Team
from distracted.training.loop import FoldResult, train_fold
from distracted.training.metrics_log import Tracker
from distracted.training.resolve import Resolved

_log = logging.getLogger(__name__)


def train_folds(
    store: Store,
    resolved: Resolved,
    *,
    run: str,
    folds: Collection[int],
    force: bool = False,
    after_fold: Callable[[Manifest], None] = lambda manifest: None,
    stop: Stop | None = None,
    patience: float = 0.0,
    stop_after: int | None = None,
    team: Team = ALONE,
    progress: Progress = silent,
) -> None:
    """Train some folds of a run, one after another; arguments as in `train_and_store`.

    Args:
        force: Retrain finished folds.
        after_fold: Called with each fold's manifest once it is written.
    """
    stop = stop or Stop()
    if force:
        refuse_other_config(store, resolved, run, retrained=folds)
        if team.is_lead:
            begin_again(store, run, folds, config_hash=resolved.config.hash, stop=stop)
    shared: dict[str, Any] = {"stop": stop, "patience": patience, "stop_after": stop_after}
    train = partial(train_and_store, store, resolved, run=run, **shared, team=team, progress=progress)
    has_changed = False
    with stop.waiting() if team.size > 1 else nullcontext():  # they stop only where they agree to
        for fold in folds:
            team.check(stop)
            before = store.find_manifest(run, fold)
            manifest = train(fold=fold)
            after_fold(manifest)
            has_changed = has_changed or manifest != before
    if team.is_lead and has_changed and len(store.finished_folds(run)) == store.folds.num_folds:
        track_run(store, run, resolved.config.runtime)


def train_and_store(
    store: Store,
    resolved: Resolved,
    *,
    run: str,
    fold: int,
    stop: Stop | None = None,
    patience: float = 0.0,
    stop_after: int | None = None,
    team: Team = ALONE,
    progress: Progress = silent,
) -> Manifest:
    """Train one fold, from its checkpoint if there is one, and write its predictions to oof/.

    A finished fold is skipped unless it is marked to be retrained.

    Args:
        stop: Asked after each step; the state is saved before anything stops.
        patience: Seconds to wait for another process that works on the fold.
        stop_after: Epochs of gradient descent after which it stops as if by request, unless it is done.
        team: The processes that train it together, each in the same call; the lead writes.

    Returns:
        The fold's manifest.

    Raises:
        DistractedError: anything that the user can fix; the fold's earlier predictions stay as they were.
        Stopped: by request; the same call resumes the training.
    """
    store.folds.check_fold(fold)
    config, stop = resolved.config, stop or Stop()
    # The lead decides for all, before it can remove the mark of a fold to retrain.
    done = team.hear(team.is_lead and is_done(store, run, fold, config.hash))
    refuse_other_config(store, resolved, run)
    if done:
        _log.info("%s, fold %d: done already (FORCE=1 redoes it)", run, fold)
        if team.is_lead:
            _remove_leftovers(store, run, fold)
        return store.manifest(run, fold)
    pseudo, teachers = None, tuple[Parent, ...]()
    if config.pseudo.teachers:
        pseudo, teachers = read_pseudo_labels(store, config.pseudo, fold)
    context = FoldContext(
        resolved,
        fold,
        competition=store.competition,
        folds=store.folds,
        cache=store.workspace.cache(store.competition.name),
        tracker=Tracker(),
        pseudo=pseudo,
        stop_after=stop_after,
        team=team,
        label=f"{run}, fold {fold}",
        progress=progress,
    )
    if not team.is_lead:
        with stop.waiting():
            train_fold(replace(context, checkpoints=_checkpoints(store, context, run, stop, lock=None)))
            team.wait()  # until the lead has written
        return store.manifest(run, fold)
    with store.hold(run, [fold], patience=patience) as [lock]:
        if team.size == 1 and is_done(store, run, fold, config.hash):  # by the process that held the lock
            return store.manifest(run, fold)
        if lock.after is not None:
            _log.info("%s, fold %d: taken over from %s, which has ended", run, fold, lock.after)
        checkpoints = _checkpoints(store, context, run, stop, lock)
        with (
            job_state(store.scratch(run, fold), config),  # before W&B: `wandb-sync` reads it
            FoldTracker(store.workspace, config, run=run, fold=fold) as tracker,
            stop.waiting(),
        ):
            _log.info("%s: %s", context.label, resolved.describe(team.size))
            result = train_fold(replace(context, tracker=tracker, checkpoints=checkpoints))
            lock.check()
            manifest = _write(store, context, run, result, teachers)
            (store.scratch(run, fold) / REDO).unlink(missing_ok=True)
            checkpoints.remove()
            team.wait()
            tracker.show_fold(store, manifest)
    return manifest


def _checkpoints(store: Store, context: FoldContext, run: str, stop: Stop, lock: Lock | None) -> Checkpoints:
    made_for = {
        "fold": context.fold,
        "config": context.config.resolved(),
        "data": {"index": store.competition.index_hash, "folds": store.folds.hash},
    }
    scratch, every = store.scratch(run, context.fold), context.config.runtime.checkpoint_steps
    return Checkpoints(scratch, made_for, every=every, stop=stop, lock=lock, team=context.team)


def _write(
    store: Store, context: FoldContext, run: str, result: FoldResult, teachers: tuple[Parent, ...]
) -> Manifest:
    """Save the fold's network, then its predictions and manifest."""
    config, fold, weights = context.config, context.fold, context.resolved.weights
    path = store.workspace.network(store.competition.name, run, fold)
    save_network(path, result.network, config, store.competition.classes)
    counts = {
        "num_pseudo_labels": len(context.pseudo.probs) if context.pseudo else 0,
        "num_dropped": result.num_dropped,
        "num_resumed": result.num_resumed,
        "micro_batches": result.micro_batches if result.micro_batches > 1 else 0,
    }
    return store.write_fold(
        run,
        fold,
        kind="model",
        config=config.resolved(),
        valid=result.valid,
        test=result.test,
        weights={"origin": weights.origin, "sha256": weights.sha256, "notes": list(weights.notes)},
        network_sha256=sha256_file(path),
        parents=teachers,
        scores=result.scores,
        details={name: count for name, count in counts.items() if count},
        seconds=result.seconds,
        images_per_second=result.images_per_second,
    )


def _remove_leftovers(store: Store, run: str, fold: int) -> None:
    """Remove the checkpoints and lock of a process that was killed after it wrote the predictions."""
    scratch = store.scratch(run, fold)
    checkpoints = Checkpoints(scratch, {})
    killed = checkpoints.exist or (scratch / LOCK).exists()
    if killed and redo_of(scratch) is None:
        with suppress(LockError, OSError), store.hold(run, [fold]):  # held: at its last steps; or read-only
            checkpoints.remove()


def is_done(store: Store, run: str, fold: int, config_hash: str = ANY_CONFIG) -> bool:
    """Whether a fold is stored, undamaged, and not marked to be retrained with this config."""
    if fold not in store.finished_folds(run) or is_to_redo(store, run, fold, config_hash):
        return False
    try:
        store.check_files(store.manifest(run, fold))
    except StoreError as error:
        _log.warning("%s", error)
        return False
    return True


def begin_again(
    store: Store, run: str, folds: Collection[int], *, config_hash: str = ANY_CONFIG, stop: Stop
) -> None:
    """Mark finished folds of a run to be retrained; their predictions stay until then.

    Their checkpoints are removed, so that the next `train_and_store` of each starts over. All folds are
    marked or none.

    Args:
        config_hash: Hash of the config that they are retrained with; for another one they stay done.

    Raises:
        LockError: another process works on one of them.
    """
    with stop.waiting(), store.hold(run, folds):
        for fold in folds:
            scratch = store.scratch(run, fold)
            Checkpoints(scratch, {}).remove()
            forget_run(scratch)
            (scratch / JOB).unlink(missing_ok=True)  # it describes the earlier training
            mark_redo(scratch, config_hash)


def is_to_redo(store: Store, run: str, fold: int, config_hash: str = ANY_CONFIG) -> bool:
    """Whether a fold is marked to be retrained with this config."""
    marked = redo_of(store.scratch(run, fold))
    return marked is not None and (ANY_CONFIG in (marked, config_hash) or marked == config_hash)


def refuse_other_config(store: Store, resolved: Resolved, run: str, retrained: Collection[int] = ()) -> None:
    """Refuse to train a run whose stored folds have another config, apart from those that are retrained.

    Args:
        retrained: Folds about to be retrained, in addition to those marked.

    Raises:
        StoreError: says which fold, and the way out.
    """
    config, config_hash = resolved.config.resolved(), resolved.config.hash
    marked = {n for n in range(store.folds.num_folds) if is_to_redo(store, run, n, config_hash)}
    store.check_config(run, config_hash, config=config, redone=marked | {*retrained})
