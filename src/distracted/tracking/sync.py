"""`make wandb-sync`: sends offline recordings to W&B, then artifacts and lineage from the manifests."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from distracted.errors import TrackingError, first_line
from distracted.locks import read_owner
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.job_state import read_job_state
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RuntimeConfig
from distracted.tracking.client import OPEN, UNSENT, WandbRun, find_wandb_mode
from distracted.tracking.log import (
    log_lineage,
    log_predictions,
    log_submission,
    open_fold,
    open_run,
    open_submission,
)

_log = logging.getLogger(__name__)

_AT_ONCE = 8  # recordings in one call of the client's command
_SYNCED = ".synced"  # suffix of the file that the client leaves next to a sent one


@dataclass
class Synced:
    """What was sent.

    Attributes:
        recordings: Number of offline recordings sent.
        updated: Number of runs and submissions whose files and lineage are now on the server.
        problems: What could not be sent, and why.
        waiting: Runs that are being trained now, to be sent later.
    """

    recordings: int = 0
    updated: int = 0
    problems: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def sync(store: Store, runtime: RuntimeConfig, *, progress: Progress = silent) -> Synced:
    """Send a competition's offline recordings to W&B, then its artifacts and their lineage.

    Recordings do not suffice: offline, the client records no use of an artifact, and it refers to files that
    may have been replaced since. The manifests state both. The server knows artifacts by their contents and
    is sent each only once, so an interrupted call can be repeated.

    Raises:
        TrackingError: no key, no answer, or W&B is switched off.
    """
    if find_wandb_mode() != "online":
        raise TrackingError(
            "W&B is unavailable: no key (`wandb login`), WANDB_MODE=offline, or its server does not "
            "answer; nothing was sent"
        )
    done = Synced()
    recordings = find_recordings(store)
    with progress("sending recordings", total=len(recordings), unit="run") as step:
        for first in range(0, len(recordings), _AT_ONCE):
            batch = recordings[first : first + _AT_ONCE]
            problems = _send(batch)
            done.problems += problems
            done.recordings += len(batch) - len(problems)
            step(len(batch))
    jobs = list(_jobs(store, runtime, done))
    with progress("artifacts and lineage", total=len(jobs), unit="run") as step:
        for job in jobs:
            with job.open() as wandb_run:
                job.update(wandb_run)
            if wandb_run.error:
                done.problems.append(f"{job.name}: {wandb_run.error}")
            else:
                done.updated += 1
            step()
    return done


def find_recordings(store: Store) -> list[Path]:
    """Folders of complete recordings that are not, or not wholly, sent yet; oldest first."""
    paths = store.workspace.runs(store.competition.name).rglob("wandb/*run-*")
    unsent = [path for path in paths if not _was_sent(path) and list(path.glob("*.wandb"))]
    finished = [path for path in unsent if not _grows(path)]
    return sorted(finished, key=lambda path: path.name.removeprefix("offline-"))


def _was_sent(recording: Path) -> bool:
    if recording.name.startswith("offline-"):
        return bool(list(recording.glob(f"*.wandb{_SYNCED}")))
    return not (recording / UNSENT).exists()


def _grows(recording: Path) -> bool:
    """Whether a process still writes it: its owner is alive, or its fold is being trained."""
    owner = read_owner(recording / OPEN)
    return _is_trained_now(recording.parents[1]) or (owner is not None and not owner.is_gone)


def _send(recordings: Sequence[Path]) -> list[str]:
    """Send recordings with the client's own command; returns one message per recording that failed."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, recordings)]
    done = subprocess.run(command, capture_output=True, text=True)
    output = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    problems = []
    for recording in recordings:
        if list(recording.glob(f"*.wandb{_SYNCED}")):
            (recording / UNSENT).unlink(missing_ok=True)
        else:
            problems.append(f"{recording.name}: {output[-1] if output else 'wandb sync printed nothing'}")
    return problems


@dataclass(frozen=True)
class _Job:
    """One run on W&B, and how to update it."""

    name: str
    open: Callable[[], WandbRun]
    update: Callable[[WandbRun], None]


def _jobs(store: Store, runtime: RuntimeConfig, done: Synced) -> Iterator[_Job]:
    """The W&B runs to update: those of all runs, parents first, then those of all submissions."""
    catalogue = Catalogue(store, partial=True)
    for entry in sorted(catalogue.entries(), key=lambda entry: (catalogue.depth(entry.name), entry.name)):
        name, manifests = entry.name, entry.manifests
        if problem := entry.problem or entry.stale:
            done.problems.append(problem.splitlines()[0])
            continue
        busy = [m.fold for m in manifests if _is_trained_now(store.scratch(name, m.fold))]
        if busy:
            done.waiting.append(f"{name}: fold {', '.join(map(str, busy))} is being retrained")
            continue
        for manifest in manifests if manifests[0].kind == "model" else ():
            fold = manifest.fold
            yield _Job(
                f"{name}, fold {fold}",
                partial(open_fold, store.workspace, manifest.config, run=name, fold=fold, runtime=runtime),
                partial(log_predictions, store=store, manifest=manifest),
            )
        if len(manifests) == store.folds.num_folds:
            open_this = partial(open_run, store, name, runtime, config={})
            yield _Job(name, open_this, partial(log_lineage, store=store, name=name))
    for path in sorted(store.workspace.submissions(store.competition.name).glob("*.json")):
        try:
            provenance = json.loads(path.read_text())
            run = str(provenance["run"])
            store.manifests(run)
        except (OSError, ValueError, KeyError, TypeError) as error:
            done.problems.append(f"{path.name}: {first_line(error)}")
            continue
        csv = path.with_suffix(".csv")
        yield _Job(
            f"submission {path.stem}",
            partial(open_submission, store, csv, run, runtime, config={}),
            partial(log_submission, store=store, csv=csv, provenance=provenance),
        )


def _is_trained_now(scratch: Path) -> bool:
    job = read_job_state(scratch)
    return job is not None and job.is_alive
