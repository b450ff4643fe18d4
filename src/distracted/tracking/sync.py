"""`make wandb-sync`: sends offline recordings to W&B, then artifacts and lineage from the manifests."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from distracted.errors import first_line
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.manifest import as_parent
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RuntimeConfig
from distracted.tracking.client import WandbRun, is_refused, refuse_run, run_id
from distracted.tracking.log import (
    log_lineage,
    log_predictions,
    log_submission,
    open_fold,
    open_run,
    open_submission,
)
from distracted.tracking.online import DELETED, require_server, server_answers
from distracted.tracking.recordings import find_aside, find_recordings, is_trained_now
from distracted.tracking.sending import FAILURES, NOT_TRIED, WAY_OUT, Sent, renew, send


@dataclass
class Synced:
    """What was sent.

    Attributes:
        recordings: Number of offline recordings sent.
        updated: Number of runs and submissions whose files and lineage are now on the server.
        problems: What could not be sent, and why.
        waiting: Runs that are being trained now, to be sent later.
        partly: Recordings of which all was sent that can be, and what is missing.
        aside: Number of recordings that were set aside by earlier calls.
    """

    recordings: int = 0
    updated: int = 0
    problems: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    partly: list[str] = field(default_factory=list)
    aside: int = 0


def sync(store: Store, runtime: RuntimeConfig, *, force: bool = False, progress: Progress = silent) -> Synced:
    """Send a competition's offline recordings to W&B, then its artifacts and their lineage.

    Recordings do not suffice: offline, the client records no use of an artifact, and it refers to files that
    may have been replaced since. The manifests state both. The server knows artifacts by their contents and
    is sent each only once, so an interrupted call can be repeated.

    Args:
        force: Try again what was set aside; send runs that were deleted on W&B as new ones.

    Raises:
        TrackingError: no key, no answer, or W&B is switched off.
    """
    require_server(runtime, "nothing was sent")
    done = Synced(aside=0 if force else len(find_aside(store)))
    recordings = find_recordings(store, again=force)
    with progress("sending recordings", total=len(recordings), unit="run") as step:
        _add(done, send(recordings, project=runtime.project, force=force, step=step), store)
    jobs, in_a_row = list(_jobs(store, runtime, done)), 0
    with progress("artifacts and lineage", total=len(jobs), unit="run") as step:
        for position, job in enumerate(jobs, 1):
            problem = _update(job, force)
            if DELETED in problem:
                _add(done, send(renew(job.folder), project=runtime.project, force=force), store)
                problem = _update(job, force)
            step()
            if not problem:
                done.updated, in_a_row = done.updated + 1, 0
                continue
            done.problems.append(f"{job.name}: {problem}")
            in_a_row += problem != WAY_OUT
            if in_a_row == FAILURES or (problem != WAY_OUT and not server_answers()):
                done.problems += [f"{later.name}: {NOT_TRIED}" for later in jobs[position:]]
                break
    return done


def _add(done: Synced, sent: Sent, store: Store) -> None:
    def name(recording: Path) -> str:
        return str(recording.relative_to(store.workspace.root))

    done.recordings += len(sent.whole)
    done.problems += [f"{name(path)}: {problem}" for path, problem in sent.problems.items()]
    done.partly += [f"{name(path)}: {damage}" for path, damage in sent.partly.items()]


@dataclass(frozen=True)
class _Job:
    """One run on W&B, its folder, and how to update it."""

    name: str
    folder: Path
    open: Callable[[], WandbRun]
    update: Callable[[WandbRun], None]


def _update(job: _Job, force: bool) -> str:
    """Send a run's files and lineage; returns the problem, or ""."""
    if is_refused(job.folder) and not force:
        return WAY_OUT
    with job.open() as wandb_run:
        job.update(wandb_run)
    if DELETED in wandb_run.error and not force:
        refuse_run(job.folder, run_id(job.folder))
        return WAY_OUT
    return wandb_run.error


def _jobs(store: Store, runtime: RuntimeConfig, done: Synced) -> Iterator[_Job]:
    """The W&B runs to update: those of all runs, parents first, then those of all submissions."""
    catalogue, workspace, data = Catalogue(store, partial=True), store.workspace, store.competition.name
    online: dict[str, Any] = {"runtime": runtime, "online": True}
    for entry in sorted(catalogue.entries(), key=lambda entry: (catalogue.depth(entry.name), entry.name)):
        name, manifests = entry.name, entry.manifests
        if problem := entry.problem or entry.stale:
            done.problems.append(problem.splitlines()[0])
            continue
        busy = [m.fold for m in manifests if is_trained_now(store.scratch(name, m.fold))]
        if busy:
            done.waiting.append(f"{name}: fold {', '.join(map(str, busy))} is being retrained")
            continue
        for manifest in manifests if manifests[0].kind == "model" else ():
            fold = manifest.fold
            yield _Job(
                f"{name}, fold {fold}",
                store.scratch(name, fold),
                partial(open_fold, workspace, manifest.config, run=name, fold=fold, **online),
                partial(log_predictions, store=store, manifest=manifest),
            )
        if len(manifests) == store.folds.num_folds:
            open_this = partial(open_run, store, name, config={}, **online)
            update = partial(log_lineage, store=store, name=name)
            yield _Job(name, workspace.run_scratch(data, name), open_this, update)
    for path in sorted(workspace.submissions(data).glob("*.json")):
        try:
            provenance = json.loads(path.read_text())
            run = str(provenance["run"])
            is_stale = provenance["predictions"] != as_parent(store.manifests(run)).predictions
        except (OSError, ValueError, KeyError, TypeError) as error:
            done.problems.append(f"{path.name}: {first_line(error)}")
            continue
        if is_stale:
            done.problems.append(
                f"{path.name}: {run} has changed since; make submit NAME={run} writes it again"
            )
            continue
        csv = path.with_suffix(".csv")
        yield _Job(
            f"submission {path.stem}",
            workspace.submission_scratch(data, path.stem),
            partial(open_submission, store, csv, run, config={}, **online),
            partial(log_submission, store=store, csv=csv, provenance=provenance),
        )
