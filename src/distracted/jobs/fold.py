"""One (run, fold) job: train it unless it is done, and keep what it predicts."""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress

from distracted.data.audit import audit_folds, refuse_errors
from distracted.data.loading import naming_dead_workers
from distracted.errors import LockError, StoreError
from distracted.locks import Lock
from distracted.models.saved import save_network
from distracted.paths import JOB
from distracted.postprocess.pseudo import read_pseudo_labels
from distracted.predictions.job_state import ANY_CONFIG, job_state, mark_redo, redo_of
from distracted.predictions.manifest import Manifest, Parent
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.stopping import Stop
from distracted.tracking.client import forget_run
from distracted.tracking.log import FoldTracker, track_run
from distracted.training.distributed import ALONE, Team, naming_lost_peers
from distracted.training.fold import FoldResult, train_fold
from distracted.training.metrics_log import NoTracker, Tracker
from distracted.training.pseudo import PseudoLabels
from distracted.training.resolve import Settled
from distracted.training.resume import Checkpoints

_log = logging.getLogger(__name__)


def check_split(store: Store) -> None:
    """Say what the audit of the folds finds, and stop at what would make the score dishonest."""
    findings = audit_folds(store.competition, store.folds.table)
    refuse_errors(findings)
    for finding in findings:
        _log.warning("%s", finding.text)


def train_and_store(
    store: Store,
    settled: Settled,
    *,
    run: str,
    fold: int,
    stop: Stop | None = None,
    patience: float = 0.0,
    team: Team = ALONE,
    progress: Progress = silent,
) -> Manifest:
    """Train one fold and write its predictions to oof/, going on from its checkpoint where there is one.

    A finished fold is skipped unless it is to be made anew.

    Args:
        stop: Asked after each step; the state is saved before anything stops.
        patience: Seconds to wait for another process that works on the fold.
        team: The processes that train it together, each in the same call; the lead writes.

    Returns:
        The fold's manifest.

    Raises:
        DistractedError: anything that the user can mend; the fold's earlier predictions stay as they were.
        Stopped: by request; the same call goes on from there.
    """
    store.folds.check_fold(fold)
    config, name, stop = settled.config, store.competition.name, stop or Stop()
    # The lead's word, and first: it marks what is made anew.
    done = team.hear(team.is_lead and is_done(store, run, fold, config.hash))
    refuse_other_config(store, settled, run)
    scratch = store.workspace.scratch(name, run, fold)
    if done:
        _log.info("%s, fold %d: done already (FORCE=1 redoes it)", run, fold)
        left, lock_path = Checkpoints(scratch, {}), store.workspace.lock(name, run, fold)
        killed = left.exist or lock_path.exists()  # after its predictions were written
        if team.is_lead and killed and redo_of(scratch) is None:
            with suppress(LockError, OSError), store.hold(run, [fold]):  # at its last steps now; read-only
                left.remove()
        return store.manifest(run, fold)
    pseudo: PseudoLabels | None = None
    teachers: tuple[Parent, ...] = ()
    if config.pseudo.teachers:
        pseudo, teachers = read_pseudo_labels(store, config.pseudo, fold)

    def train(tracker: Tracker, lock: Lock | None) -> tuple[FoldResult, Checkpoints]:
        team.wait()  # for the lead, which has the lock
        made_for = {
            "fold": fold,
            "config": config.resolved(),
            "data": {"index": store.competition.index_hash, "folds": store.folds.hash},
        }
        every = config.runtime.checkpoint_steps
        checkpoints = Checkpoints(scratch, made_for, every=every, stop=stop, lock=lock, team=team)
        with naming_dead_workers(), naming_lost_peers():
            result = train_fold(
                settled,
                fold,
                pseudo=pseudo,
                competition=store.competition,
                folds=store.folds,
                cache=store.workspace.cache(name),
                tracker=tracker,
                checkpoints=checkpoints,
                team=team,
                label=f"{run}, fold {fold}",
                progress=progress,
            )
        return result, checkpoints

    if not team.is_lead:
        with stop.waiting():
            train(NoTracker(), None)
            team.wait()  # until the lead has written
        return store.manifest(run, fold)
    with store.hold(run, [fold], patience=patience) as [lock]:
        if team.size == 1 and is_done(store, run, fold, config.hash):  # by another that was waited for
            return store.manifest(run, fold)
        if lock.after is not None:
            _log.info("%s, fold %d: taken over from %s, which is no more", run, fold, lock.after)
        with (
            job_state(scratch, config),  # before W&B: who sends recordings is to know
            FoldTracker(store.workspace, config, run=run, fold=fold) as tracker,
            stop.waiting(),
        ):
            result, checkpoints = train(tracker, lock)
            lock.check()
            path = store.workspace.network(name, run, fold)
            save_network(path, result.network, config, store.competition.classes)
            weights = settled.weights
            manifest = store.write_fold(
                run,
                fold,
                kind="model",
                config=config.resolved(),
                valid=result.valid,
                test=result.test,
                weights={"origin": weights.origin, "sha256": weights.sha256, "notes": list(weights.notes)},
                parents=teachers,
                scores=result.scores,
                details=_details(pseudo, result),
                seconds=result.seconds,
                images_per_second=result.images_per_second,
            )
            store.workspace.redo(name, run, fold).unlink(missing_ok=True)
            checkpoints.remove()
            team.wait()
            tracker.show_fold(store, manifest)
    return manifest


def is_done(store: Store, run: str, fold: int, config_hash: str = ANY_CONFIG) -> bool:
    """Whether a fold is there, undamaged, and not to be made anew with this config."""
    if fold not in store.finished_folds(run) or is_to_redo(store, run, fold, config_hash):
        return False
    manifest = store.manifest(run, fold)
    try:
        store.check_files(manifest)
    except StoreError as error:
        _log.warning("%s", error)
        return False
    return True


def begin_anew(
    store: Store, run: str, folds: Collection[int], *, config_hash: str = ANY_CONFIG, stop: Stop
) -> None:
    """Have some folds of a run made anew, whatever is there; until then their predictions stay.

    What was begun is forgotten. The next `train_and_store` of each begins, and the one after an interruption
    goes on. Nobody is interrupted between them.

    Args:
        config_hash: Of the config that they are made anew with; with another one they stay done.

    Raises:
        LockError: another process works on one of them.
    """
    name = store.competition.name
    with stop.waiting(), store.hold(run, folds):
        for fold in folds:
            scratch = store.workspace.scratch(name, run, fold)
            Checkpoints(scratch, {}).remove()
            forget_run(scratch)
            (scratch / JOB).unlink(missing_ok=True)  # which tells of the training before
            mark_redo(scratch, config_hash)


def is_to_redo(store: Store, run: str, fold: int, config_hash: str = ANY_CONFIG) -> bool:
    """Whether a fold is to be made anew with this config, whatever is there."""
    asked = redo_of(store.workspace.scratch(store.competition.name, run, fold))
    return asked is not None and (ANY_CONFIG in (asked, config_hash) or asked == config_hash)


def refuse_other_config(store: Store, settled: Settled, run: str, *, anew: Collection[int] = ()) -> None:
    """Refuse a config beside folds of another, but for those that are to be made anew.

    Args:
        anew: Folds that are about to be begun anew, beside those that were.

    Raises:
        StoreError: says which fold, and the way out.
    """
    config_hash, folds = settled.config.hash, range(store.folds.num_folds)
    begun = {fold for fold in folds if is_to_redo(store, run, fold, config_hash)}
    store.check_config(run, config_hash, redone=begun | {*anew})


def _details(pseudo: PseudoLabels | None, result: FoldResult) -> dict[str, int]:
    counts = {
        "num_pseudo_labels": len(pseudo.probs) if pseudo else 0,
        "num_dropped": result.num_dropped,
        "num_resumed": result.num_resumed,
        "num_parts": result.num_parts if result.num_parts > 1 else 0,
    }
    return {name: count for name, count in counts.items() if count}


def train_folds(
    store: Store,
    settled: Settled,
    *,
    run: str,
    folds: Collection[int],
    force: bool = False,
    after_fold: Callable[[Manifest], None] = lambda manifest: None,
    stop: Stop | None = None,
    patience: float = 0.0,
    team: Team = ALONE,
    progress: Progress = silent,
) -> None:
    """Train some folds of a run, one after another; arguments as in `train_and_store`.

    Args:
        force: Make them anew, whatever is there.
        after_fold: Called with each fold's manifest as soon as it is there.
    """
    stop = stop or Stop()
    if force:
        refuse_other_config(store, settled, run, anew=folds)
    if force and team.is_lead:
        begin_anew(store, run, folds, config_hash=settled.config.hash, stop=stop)
    has_changed = False
    for fold in folds:
        stop.check()
        before = store.find_manifest(run, fold)
        manifest = train_and_store(
            store, settled, run=run, fold=fold, stop=stop, patience=patience, team=team, progress=progress
        )
        after_fold(manifest)
        has_changed = has_changed or manifest != before
    if team.is_lead and has_changed and len(store.finished_folds(run)) == store.folds.num_folds:
        track_run(store, run, settled.config.runtime)
