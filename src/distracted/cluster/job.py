"""One (run, fold) job: train it unless it is done, and keep what it predicts."""

import logging
from collections.abc import Callable, Collection

from distracted.data.audit import audit_folds, refuse_errors
from distracted.errors import DistractedError
from distracted.postprocess.pseudo import read_pseudo_labels
from distracted.predictions.manifest import Manifest, Parent
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.tracking.log import FoldTracker, track_run
from distracted.training.checkpoint import save_network
from distracted.training.fold import FoldResult, train_fold
from distracted.training.pseudo import PseudoLabels
from distracted.training.resolve import Settled
from distracted.training.state import job_state

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
    force: bool = False,
    redone: Collection[int] = (),
    progress: Progress = silent,
) -> Manifest:
    """Train one fold and write its predictions to oof/; a finished fold is skipped unless forced.

    Args:
        redone: Folds of the run that will be made anew by the same command, whatever their config is.

    Returns:
        The fold's manifest.

    Raises:
        DistractedError: anything that the user can mend; the fold's earlier predictions stay as they were.
    """
    store.folds.check_fold(fold)
    config = settled.config
    store.check_config(run, config.hash, redone={*redone, fold} if force else ())
    if fold in store.finished_folds(run) and not force:
        _log.info("%s, fold %d: done already (FORCE=1 redoes it)", run, fold)
        return store.manifest(run, fold)
    pseudo: PseudoLabels | None = None
    teachers: tuple[Parent, ...] = ()
    if config.pseudo.teachers:
        pseudo, teachers = read_pseudo_labels(store, config.pseudo, fold)
    scratch = store.workspace.scratch(store.competition.name, run, fold)
    with (
        job_state(scratch, config),  # first: who looks on, or sends recordings, is to know
        FoldTracker(store.workspace, config, run=run, fold=fold, again=force) as tracker,
    ):
        result = train_fold(
            settled,
            fold,
            pseudo=pseudo,
            competition=store.competition,
            folds=store.folds,
            cache=store.workspace.cache(store.competition.name),
            tracker=tracker,
            label=f"{run}, fold {fold}",
            progress=progress,
        )
        path = store.workspace.network(store.competition.name, run, fold)
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
        tracker.show_fold(store, manifest)
    return manifest


def _details(pseudo: PseudoLabels | None, result: FoldResult) -> dict[str, int]:
    counts = {"num_pseudo_labels": len(pseudo.probs) if pseudo else 0, "num_dropped": result.num_dropped}
    return {name: count for name, count in counts.items() if count}


def train_folds(
    store: Store,
    settled: Settled,
    *,
    run: str,
    folds: Collection[int],
    force: bool = False,
    keep_going: bool = False,
    after_fold: Callable[[Manifest], None] = lambda manifest: None,
    progress: Progress = silent,
) -> list[str]:
    """Train some folds of a run, one after another.

    Args:
        keep_going: One failed fold does not stop the others.
        after_fold: Called with each fold's manifest as soon as it is there.

    Returns:
        The message of each fold that failed.
    """
    failures = []
    before = set() if force else set(store.finished_folds(run))
    for fold in folds:
        try:
            after_fold(
                train_and_store(
                    store, settled, run=run, fold=fold, force=force, redone=folds, progress=progress
                )
            )
        except DistractedError as error:
            if not keep_going:
                raise
            failures.append(f"{run}, fold {fold}: {error}")
    finished = store.finished_folds(run)
    if len(finished) == store.folds.num_folds and set(finished) != before:
        track_run(store, run, settled.config.runtime)
    return failures
