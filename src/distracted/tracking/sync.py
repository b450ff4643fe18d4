"""`make wandb-sync`: what was recorded offline is sent; what was made of what is told from the manifests."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from distracted.errors import TrackingError, first_line
from distracted.locks import read_owner
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.job_state import read_job_state
from distracted.predictions.manifest import Manifest
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
_SYNCED = ".synced"  # what the client leaves beside a file that it has sent


@dataclass
class Synced:
    """What was sent.

    Attributes:
        recordings: Offline recordings that were sent; told: runs and submissions whose files and lineage the
            server has now; problems: what could not be sent, and why; waiting: what is still being made.
    """

    recordings: int = 0
    told: int = 0
    problems: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def sync(store: Store, runtime: RuntimeConfig, *, progress: Progress = silent) -> Synced:
    """Send a competition's offline recordings to W&B, then its artifacts and what used which.

    What a recording holds of artifacts may be missing or outdated: offline the client records no use of an
    artifact, and refers to files that may have been made anew. The manifests know all of it. Artifacts that
    the server has already are not sent again (it knows them by their contents), so that this may be
    interrupted and repeated.

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
                job.tell(wandb_run)
            if wandb_run.error:
                done.problems.append(f"{job.name}: {wandb_run.error}")
            else:
                done.told += 1
            step()
    return done


def find_recordings(store: Store) -> list[Path]:
    """Folders of recordings that have not been sent whole, the oldest first; none that still grows."""
    found = [
        path
        for path in store.workspace.runs(store.competition.name).rglob("wandb/*run-*")
        if not _was_sent(path) and list(path.glob("*.wandb"))
    ]
    finished = [path for path in found if not _grows(path)]
    return sorted(finished, key=lambda path: path.name.removeprefix("offline-"))


def _was_sent(recording: Path) -> bool:
    if recording.name.startswith("offline-"):
        return bool(list(recording.glob(f"*.wandb{_SYNCED}")))
    return not (recording / UNSENT).exists()


def _grows(recording: Path) -> bool:
    """Whether some process still writes it: it says so itself, or it is of a fold that is being trained."""
    job = read_job_state(recording.parents[1])
    if job is not None and job.is_alive:
        return True
    owner = read_owner(recording / OPEN)
    return owner is not None and not owner.is_gone


def _send(recordings: Sequence[Path]) -> list[str]:
    """Send some recordings by the client's own command; what went wrong with which."""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, recordings)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    problems = []
    for recording in recordings:
        if list(recording.glob(f"*.wandb{_SYNCED}")):
            (recording / UNSENT).unlink(missing_ok=True)
        else:
            problems.append(f"{recording.name}: {said[-1] if said else 'wandb sync said nothing'}")
    return problems


@dataclass(frozen=True)
class _Job:
    """One run on W&B, and what it is to be told."""

    name: str
    open: Callable[[], WandbRun]
    tell: Callable[[WandbRun], None]


def _jobs(store: Store, runtime: RuntimeConfig, done: Synced) -> Iterator[_Job]:
    """The runs, parents first, and the submissions, each with what is sent of it."""
    catalogue = Catalogue(store, partial=True)
    for entry in sorted(catalogue.entries(), key=lambda entry: (catalogue.depth(entry.name), entry.name)):
        name, manifests = entry.name, entry.manifests
        if problem := entry.problem or entry.stale:
            done.problems.append(problem.splitlines()[0])
            continue
        busy = [m.fold for m in manifests if _is_trained_now(store, name, m.fold)]
        if busy:
            done.waiting.append(f"{name}: fold {', '.join(map(str, busy))} is being trained anew")
            continue
        for manifest in manifests if manifests[0].kind == "model" else ():
            fold = manifest.fold
            yield _Job(
                f"{name}, fold {fold}",
                partial(open_fold, store.workspace, manifest.config, run=name, fold=fold, runtime=runtime),
                partial(_tell_fold, store, manifest),
            )
        if len(manifests) == store.folds.num_folds:
            yield _Job(
                name, partial(open_run, store, name, runtime, config={}), partial(_tell_run, store, name)
            )
    for path in sorted(store.workspace.submissions(store.competition.name).glob("*.json")):
        try:
            told = json.loads(path.read_text())
            run = str(told["run"])
            store.manifests(run)
        except (OSError, ValueError, KeyError, TypeError) as error:
            done.problems.append(f"{path.name}: {first_line(error)}")
            continue
        csv = path.with_suffix(".csv")
        yield _Job(
            f"submission {path.stem}",
            partial(open_submission, store, csv, run, runtime, config={}),
            partial(_tell_submission, store, csv, told),
        )


def _is_trained_now(store: Store, run: str, fold: int) -> bool:
    job = read_job_state(store.workspace.scratch(store.competition.name, run, fold))
    return job is not None and job.is_alive


def _tell_fold(store: Store, manifest: Manifest, wandb_run: WandbRun) -> None:
    log_predictions(wandb_run, store, manifest)


def _tell_run(store: Store, name: str, wandb_run: WandbRun) -> None:
    log_lineage(wandb_run, store, name)


def _tell_submission(store: Store, csv: Path, told: Mapping[str, Any], wandb_run: WandbRun) -> None:
    log_submission(wandb_run, store, csv, told)
