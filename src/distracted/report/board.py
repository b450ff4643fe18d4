"""The leaderboard: every run with its score, its forecast, and Kaggle's answers."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distracted.metrics import Interval, log_losses, scores, subject_bootstrap
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.report.status import RunStatus
from distracted.submission.expect import Expected, expect_run
from distracted.submission.submit import is_submitted

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A complete run on the leaderboard.

    Attributes:
        oof: Pooled log loss with its 95% bootstrap interval over subjects (cross-fitted for a blend).
        pooled: All pooled scores by name, as `metrics.scores`.
        by_fold, by_class: Log loss of each fold's and of each class's rows, in order.
        blenders: For a blend: the blender chosen for each fold.
        weights: For a blend: each fold's weights by member.
        overall: For a blend: the weights over all folds together, for information.
    """

    status: RunStatus
    oof: Interval
    pooled: Mapping[str, float]
    expected: Expected
    by_fold: tuple[float, ...]
    by_class: tuple[float, ...]
    blenders: tuple[str, ...] = ()
    weights: tuple[Mapping[str, float], ...] = ()
    overall: Mapping[str, float] | None = None


def make_board(store: Store, statuses: Sequence[RunStatus], *, progress: Progress = silent) -> list[Entry]:
    """Entries of all complete runs, best first; leaky runs come last."""
    complete = [status for status in statuses if status.is_complete]
    entries = []
    with progress("leaderboard", total=len(complete), unit="run") as step:
        for status in complete:
            entries.append(_entry(store, status))
            step()
    return sorted(entries, key=lambda entry: (entry.status.leaky, entry.oof.mean))


def headline(entries: Sequence[Entry], meant: str) -> Entry | None:
    """The entry of the run that is meant; if none is (all are stale), the best honest one."""
    named = [entry for entry in entries if entry.status.run == meant]
    return min(named or entries, key=lambda entry: (entry.status.leaky, entry.oof.mean), default=None)


def _entry(store: Store, status: RunStatus) -> Entry:
    run = store.read_run(status.run)
    rows = store.folds.scored
    labels, subjects = store.folds.labels[rows], store.folds.subjects[rows]
    losses = log_losses(run.oof[rows], labels)
    ids = store.folds.ids[rows]
    by_fold = [losses[ids == fold] for fold in range(store.folds.num_folds)]
    by_class = [losses[labels == label] for label in range(store.competition.num_classes)]
    details = [manifest.details for manifest in run.manifests]
    return Entry(
        status,
        subject_bootstrap(losses, subjects),
        scores(run.oof[rows], labels),
        expect_run(store, run),
        tuple(map(_mean, by_fold)),
        tuple(map(_mean, by_class)),
        blenders=tuple(d["blender"] for d in details) if run.kind == "blend" else (),
        weights=tuple(d["weights"] for d in details) if run.kind == "blend" else (),
        overall=details[0]["on_all_folds"]["weights"] if run.kind == "blend" else None,
    )


def _mean(losses: NDArray[np.float64]) -> float:
    return float(losses.mean()) if len(losses) else float("nan")  # no scored row has that class


#: Keys that a submission's provenance needs to be shown.
_PROVENANCE = (
    "written",
    "run",
    "kind",
    "folds",
    "members",
    "weights",
    "expected_log_loss",
    "cross_fitted_log_loss",
    "predictions",
    "answers",
    "sha256",
    "index_hash",
    "folds_hash",
    "git_commit",
    "packages",
)


@dataclass(frozen=True)
class Sent:
    """A written submission.

    Attributes:
        provenance: The contents of its JSON file.
        is_current: Whether the run has the same predictions as when it was submitted.
    """

    name: str
    provenance: Mapping[str, Any]
    is_current: bool


def read_submissions(store: Store) -> list[Sent]:
    """All submissions with a readable provenance, newest first."""
    submissions = []
    for path in store.workspace.submissions(store.competition.name).glob("*.json"):
        try:
            provenance = json.loads(path.read_text())
            lacking = [key for key in _PROVENANCE if key not in provenance]
            lacking += ["answers"] * (not all(isinstance(answer, dict) for answer in provenance["answers"]))
        except (OSError, ValueError, TypeError, KeyError):
            provenance, lacking = {}, ["JSON"]
        if lacking:
            _log.warning("%s: no provenance of this version (%s); left out", path, lacking[0])
            continue
        submissions.append(Sent(path.stem, provenance, is_submitted(store, path.stem)))
    return sorted(submissions, key=lambda sent: str(sent.provenance["written"]), reverse=True)
