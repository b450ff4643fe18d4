"""The leaderboard: every run with its score, its forecast, and Kaggle's answers."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.contributions import Contribution, read_contributions
from distracted.headline import LOG_LOSS
from distracted.metrics import Interval, log_losses, scores, subject_bootstrap
from distracted.predictions.catalogue import Catalogue, Entry
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.submission.expect import Expected, expect_run
from distracted.submission.submit import is_submitted

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoardRow:
    """A complete run on the leaderboard.

    Attributes:
        oof: Pooled log loss with its 95% bootstrap interval over subjects (cross-fitted for a blend).
        headline: The same of the competition's score.
        pooled: All pooled scores by name, as `metrics.scores`.
        by_fold, by_class: Log loss of each fold's and of each class's rows, in order.
        blenders, weights: For a blend: the blender chosen for each fold, and its weights by member.
        overall: For a blend: the weights over all folds together, for information.
        contributions: For a blend: how much it loses without a member, by name; perhaps not of all.
    """

    entry: Entry
    oof: Interval
    headline: Interval
    pooled: Mapping[str, float]
    expected: Expected
    by_fold: tuple[float, ...]
    by_class: tuple[float, ...]
    blenders: tuple[str, ...] = ()
    weights: tuple[Mapping[str, float], ...] = ()
    overall: Mapping[str, float] | None = None
    contributions: Mapping[str, Contribution] = field(default_factory=dict)


def make_board(catalogue: Catalogue, *, progress: Progress = silent) -> list[BoardRow]:
    """A row for each complete run, best first; leaky runs come last."""
    metric = catalogue.store.competition.metric
    complete = [entry for entry in catalogue.entries() if entry.is_complete]
    rows = []
    with progress("leaderboard", total=len(complete), unit="run") as step:
        for entry in complete:
            rows.append(_row(catalogue.store, entry))
            step()
    return sorted(rows, key=lambda row: (row.entry.leaky, metric.loss_of(row.headline.mean)))


def headline(board: Sequence[BoardRow], meant: str) -> BoardRow | None:
    """The row of the run that is meant; if none is (all are stale), the first."""
    return next((row for row in board if row.entry.name == meant), next(iter(board), None))


def _row(store: Store, entry: Entry) -> BoardRow:
    run = store.read_run(entry.name)
    rows = store.folds.scored
    labels, subjects = store.folds.labels[rows], store.folds.subjects[rows]
    losses, metric = log_losses(run.oof[rows], labels), store.competition.metric
    interval = subject_bootstrap(losses, subjects)
    ids = store.folds.ids[rows]
    details = [manifest.details for manifest in run.manifests] if run.kind == "blend" else []
    return BoardRow(
        entry,
        interval,
        interval if metric is LOG_LOSS else metric.judge(run.oof[rows], labels).interval(subjects),
        scores(run.oof[rows], labels),
        expect_run(store, run),
        tuple(_mean(losses[ids == fold]) for fold in range(store.folds.num_folds)),
        tuple(_mean(losses[labels == label]) for label in range(store.competition.num_classes)),
        blenders=tuple(fold["blender"] for fold in details),
        weights=tuple(fold["weights"] for fold in details),
        overall=details[0]["on_all_folds"]["weights"] if details else None,
        contributions=read_contributions(details[0]) if details else {},
    )


def _mean(losses: NDArray[np.float64]) -> float:
    return float(losses.mean()) if len(losses) else float("nan")  # no scored row has that class


# Keys that a submission's provenance needs to be shown.
_MADE_FROM = ("run", "kind", "folds", "members", "weights", "predictions", "index_hash", "folds_hash")
_WRITTEN = ("written", "sha256", "git_commit", "packages", "answers")
_PROVENANCE = (*_MADE_FROM, *_WRITTEN, "expected_log_loss", "cross_fitted_log_loss")


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
