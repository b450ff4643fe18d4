"""`make submit`: a run's test predictions as the competition's CSV, with where they come from beside it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distracted.errors import StoreError, SubmissionError
from distracted.files import atomic_paths, sha256_file, write_json
from distracted.predictions.lineage import check_parents
from distracted.predictions.manifest import as_parent
from distracted.predictions.provenance import git_commit, package_versions
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.submission.answers import kept_answers
from distracted.submission.doctor import check_submission
from distracted.submission.expect import Expected, expect_run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """A checked submission file.

    Attributes:
        expected: What the competition is expected to answer.
        is_new: Whether it was written just now; else it was there as it is.
    """

    path: Path
    run: str
    expected: Expected
    is_new: bool = True

    @property
    def provenance(self) -> Path:
        """The JSON file beside it."""
        return self.path.with_suffix(".json")


def write_submission(
    store: Store, *, name: str = "", partial: bool = False, force: bool = False
) -> Submission:
    """Check and write submissions/<data>/<run>.csv and its provenance, <run>.json, unless they are there.

    Args:
        name: A run; by default the newest blend whose parents are as they were when it was made.
        partial: Submit also where folds of the run or of a member are missing.
        force: Write them anew, whatever is there.

    Raises:
        StoreError, SubmissionError: nothing fit to submit; says what is missing. Nothing is written then.
    """
    run = find_run(store, name, partial=partial)
    if run.leaky:
        _log.warning(
            "%s watched the folds that it is scored on (LEAKY=1): its expected score is too good", run.name
        )
    if store.competition.config.columns.group is None:
        _log.warning(
            "there are no subjects (data.columns.group: null): the expected score holds for more images of "
            "the same people, not for new ones"
        )
    classes = list(store.competition.classes)
    probs = np.exp(run.test_log_probs)
    table = pd.DataFrame(probs / probs.sum(axis=1, keepdims=True), columns=classes)
    key = store.competition.config.columns.img
    table.insert(0, key, store.competition.test["img"].to_numpy())
    folder = store.workspace.submissions(store.competition.name)
    path = folder / f"{run.name}.csv"
    sample = store.competition.config.folder / store.competition.config.sample_submission
    submission = Submission(path, run.name, expect_run(store, run))
    made_from = _made_from(store, run, submission, sample)
    if not force and _is_made_from(path, made_from):
        _log.info("%s: done already (FORCE=1 redoes it)", path)
        return replace(submission, is_new=False)
    with atomic_paths([path, submission.provenance]) as [csv, provenance]:
        table.to_csv(csv, index=False, float_format="%.8g", lineterminator="\n")
        check_submission(csv, sample, name=path)
        facts = {
            "answers": kept_answers(submission.provenance),
            "sha256": sha256_file(csv),
            "git_commit": git_commit(),
            "packages": package_versions(),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(provenance, made_from | facts)
    return submission


def find_run(store: Store, name: str = "", *, partial: bool = False) -> Run:
    """A run by its name, or the newest blend; what it is made of is still as it was.

    Raises:
        StoreError, SubmissionError: there is none.
    """
    if not name:
        return _newest_blend(store, partial)
    run = store.read_run(name, partial=partial)
    check_parents(store, run.name, partial=partial)
    return run


def is_submitted(store: Store, run: str) -> bool:
    """Whether a run has a submission, undamaged, written from its predictions as they are now."""
    path = store.workspace.submissions(store.competition.name) / f"{run}.csv"
    try:
        now = as_parent(store.manifests(run)).predictions
    except StoreError:  # the run is gone, or broken
        return False
    return _is_made_from(path, {"predictions": now})


def _is_made_from(csv: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a submission is there, undamaged, and the JSON file beside it says so of it."""
    try:
        told = json.loads(csv.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return False
    if not isinstance(told, dict) or not isinstance(told.get("answers"), list) or not csv.is_file():
        return False
    same = all(told.get(key) == value for key, value in json.loads(json.dumps(facts)).items())
    return same and told.get("sha256") == sha256_file(csv)


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
            check_parents(store, run.name, partial=partial)
        except StoreError as error:
            stale.append(str(error))
            continue
        for reason in stale:
            _log.warning("%s: passed over for %s", reason, name)
        _log.info("%s: the newest blend (NAME= takes another run)", name)
        return run
    reason = "; ".join(stale) if stale else "there is no blend yet; `make ensemble` makes one"
    raise SubmissionError(f"{reason}; NAME=<run> takes a single run")


def _made_from(store: Store, run: Run, submission: Submission, sample: Path) -> dict[str, Any]:
    """All that the file and its forecast follow from."""
    weights = [manifest.details.get("weights", {run.name: 1.0}) for manifest in run.manifests]
    return {
        "run": run.name,
        "kind": run.kind,
        "data": store.competition.name,
        "folds": list(run.folds),
        "predictions": run.as_parent().predictions,
        "members": [parent.model_dump(mode="json") for parent in run.manifests[0].parents],
        "weights": {str(fold): value for fold, value in zip(run.folds, weights, strict=True)},
        "cross_fitted_log_loss": submission.expected.oof,
        "expected_log_loss": submission.expected.as_json(),
        "sample_sha256": sha256_file(sample) if sample.is_file() else "",  # whose lack the doctor names
        "index_hash": store.competition.index_hash,
        "folds_hash": store.folds.hash,
    }
