"""`make submit`: a run's test predictions as the competition's CSV, with where they come from beside it."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distracted.errors import StoreError, SubmissionError
from distracted.files import atomic_path, sha256_file, write_json
from distracted.metrics import Interval, log_losses, subject_bootstrap
from distracted.predictions.provenance import git_commit, package_versions
from distracted.predictions.store import Run, Store
from distracted.submission.doctor import check_submission

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """A checked submission file.

    Attributes:
        score: The run's pooled OOF log loss (cross-fitted for a blend), with its 95% interval over subjects.
    """

    path: Path
    run: str
    score: Interval


def write_submission(store: Store, *, name: str = "", partial: bool = False) -> Submission:
    """Check and write submissions/<data>/<run>.csv and its provenance, <run>.json.

    Args:
        name: A run; by default the newest blend whose parents are as they were when it was made.
        partial: Submit also where folds of the run or of a member are missing.

    Raises:
        StoreError, SubmissionError: nothing fit to submit; says what is missing. Nothing is written then.
    """
    if name:
        run = store.read_run(name, partial=partial)
        _check_parents(store, run, partial)
    else:
        run = _newest_blend(store, partial)
    if run.leaky:
        _log.warning(
            "%s watched the folds that it is scored on (LEAKY=1): its expected score is too good", run.name
        )
    classes = list(store.competition.classes)
    probs = np.exp(run.test_log_probs)
    table = pd.DataFrame(probs / probs.sum(axis=1, keepdims=True), columns=classes)
    key = store.competition.config.columns.img
    table.insert(0, key, store.competition.test["img"].to_numpy())
    folder = store.workspace.submissions(store.competition.name)
    path = folder / f"{run.name}.csv"
    sample = store.competition.config.folder / store.competition.config.sample_submission
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.8g", lineterminator="\n")
        check_submission(temporary, sample, name=path)
    score = _score(store, run)
    write_json(path.with_suffix(".json"), _provenance(store, run, path, score))
    return Submission(path, run.name, score)


def _newest_blend(store: Store, partial: bool) -> Run:
    stale, blends = [], []
    for name in store.runs():
        try:
            manifest = store.manifest(name, store.finished_folds(name)[0])
        except StoreError as error:
            stale.append(str(error))
            continue
        if manifest.kind == "blend":
            blends.append((manifest.written, name))
    for _, name in sorted(blends, reverse=True):
        try:
            run = store.read_run(name, partial=partial)
            _check_parents(store, run, partial)
        except StoreError as error:
            stale.append(str(error))
            continue
        for reason in stale:
            _log.warning("%s: passed over for %s", reason, name)
        return run
    reason = "; ".join(stale) if stale else "there is no blend yet; `make ensemble` makes one"
    raise SubmissionError(f"{reason}; NAME=<run> submits a single run")


def _check_parents(store: Store, run: Run, partial: bool) -> None:
    """Refuse a run whose members or parents are not as they were; theirs are checked in turn."""
    member, anew = (
        ("member", "blend anew (`make ensemble`)") if run.kind == "blend" else ("parent", "make it anew")
    )
    parents = [parent for manifest in run.manifests for parent in manifest.parents]
    for number, parent in enumerate(parents):
        if parent in parents[:number]:
            continue
        if parent.run not in store.runs():
            raise StoreError(f"{run.name}: its {member} {parent.run} is gone; restore it, or {anew}")
        read = store.read_run(parent.run, partial=True)
        now = read.as_parent()
        missing = sorted(set(parent.predictions) - set(now.predictions))
        if missing and not partial:
            raise StoreError(
                f"{run.name}: fold {', '.join(missing)} of its {member} {parent.run} is missing (PARTIAL=1 "
                "submits all the same)"
            )
        if any(
            parent.predictions[fold] != value
            for fold, value in now.predictions.items()
            if fold in parent.predictions
        ):
            raise StoreError(f"{run.name}: its {member} {parent.run} has changed since it was made; {anew}")
        _check_parents(store, read, partial)


def _score(store: Store, run: Run) -> Interval:
    rows = np.flatnonzero(np.isin(store.folds.ids, run.folds))
    losses = log_losses(run.oof[rows], store.folds.labels[rows])
    return subject_bootstrap(losses, store.folds.subjects[rows])


def _provenance(store: Store, run: Run, path: Path, score: Interval) -> dict[str, Any]:
    weights = [manifest.details.get("weights", {run.name: 1.0}) for manifest in run.manifests]
    return {
        "run": run.name,
        "kind": run.kind,
        "data": store.competition.name,
        "folds": list(run.folds),
        "members": [parent.model_dump(mode="json") for parent in run.manifests[0].parents],
        "weights": {str(fold): value for fold, value in zip(run.folds, weights, strict=True)},
        "cross_fitted_log_loss": score.mean,
        "expected_log_loss": {
            "mean": score.mean,
            "low": score.low,
            "high": score.high,
            "how": "pooled out-of-fold log loss; 95% bootstrap over subjects; the test set is the mean of "
            "all folds' "
            "networks, which this leaves out",
        },
        "sha256": sha256_file(path),
        "index_hash": store.competition.index_hash,
        "folds_hash": store.folds.hash,
        "git_commit": git_commit(),
        "packages": package_versions(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
