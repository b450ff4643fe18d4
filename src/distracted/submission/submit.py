"""`make submit`: writes a run's test predictions as the competition's CSV, and their provenance as JSON."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.data.sample_submission import SubmissionFormat, image_column, sample_path
from distracted.errors import StoreError, SubmissionError
from distracted.files import atomic_paths, sha256_file, write_json
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.lineage import check_parents
from distracted.predictions.manifest import as_parent
from distracted.predictions.provenance import git_commit, package_versions
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.submission.answers import read_answers
from distracted.submission.doctor import check_submission
from distracted.submission.expect import Expected, OutOfFold, expect_run, judge_run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """A checked submission file with its forecast; `is_new` is False if the same file was there already.

    Attributes:
        sha256: Hash of the file's content when it was checked.
        expected: The forecast of its log loss.
        judged: The competition's score out of fold, if that is not the log loss.
    """

    path: Path
    run: str
    expected: Expected
    judged: OutOfFold | None = None
    sha256: str = ""
    is_new: bool = True

    @property
    def provenance(self) -> Path:
        """Its JSON file."""
        return self.path.with_suffix(".json")


def write_submission(
    store: Store, *, name: str = "", partial: bool = False, force: bool = False
) -> Submission:
    """Check and write submissions/<data>/<run>.csv and its provenance, <run>.json, unless they are there.

    Args:
        name: A run; by default the blend that is meant (`Catalogue.meant_blend`).
        partial: Submit even if folds of the run or of a member are missing.
        force: Write the files again.

    Raises:
        StoreError, SubmissionError: nothing can be submitted; says why. Nothing is written.
    """
    run = find_run(store, name, partial=partial)
    if run.leaky:
        _log.warning("%s is leaky (LEAKY=1): its expected score is too good", run.name)
    if not store.competition.config.has_subjects:
        _log.warning(
            "there are no subjects (data.columns.group: null): the expected score holds for more images of "
            "the same people, not for new ones"
        )
    form = store.competition.submission
    if form.doubt:
        _log.warning("%s", form.doubt)
    key = image_column(store.competition.config)
    table = _answers(form, key, store.competition.test["img"], np.exp(run.test_log_probs))
    folder = store.workspace.submissions(store.competition.name)
    path = folder / f"{run.name}.csv"
    sample = sample_path(store.competition.config)
    submission = Submission(path, run.name, expect_run(store, run), judge_run(store, run))
    made_from = _made_from(store, run, submission, sample)
    if not force and _is_made_from(path, made_from):
        _log.info("%s: done already (FORCE=1 redoes it)", path)
        return replace(submission, sha256=sha256_file(path), is_new=False)
    with atomic_paths([path, submission.provenance]) as [csv, provenance]:
        table.to_csv(csv, index=False, float_format="%.8g", lineterminator="\n")
        expected = table if sample is None or not store.competition.has_images else sample
        check_submission(csv, expected, form=form, key=key, name=path)
        sha256 = sha256_file(csv)
        facts = {
            "answers": read_answers(submission.provenance),
            "sha256": sha256,
            "git_commit": git_commit(),
            "packages": package_versions(),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(provenance, made_from | facts)
    return replace(submission, sha256=sha256)


def find_run(store: Store, name: str = "", *, partial: bool = False) -> Run:
    """A run by its name, or the blend that is meant; its parents are as they were when it was made.

    Raises:
        StoreError, SubmissionError: there is none.
    """
    if name:
        run = store.read_run(name, partial=partial)
        check_parents(store, name, partial=partial)
        return run
    catalogue = Catalogue(store)
    if catalogue.meant_blend is None and partial:  # with all folds it is the one that other commands name
        catalogue = Catalogue(store, partial=True)
    if (meant := catalogue.meant_blend) is None:
        raise SubmissionError(f"{catalogue.why_no_blend()}; NAME=<run> takes another run")
    meant.log("NAME")
    return meant.predictions


def is_submitted(store: Store, run: str) -> bool:
    """Whether a run has an undamaged submission, written from its current predictions."""
    path = store.workspace.submissions(store.competition.name) / f"{run}.csv"
    try:
        now = as_parent(store.manifests(run)).predictions
    except StoreError:  # the run is gone, or broken
        return False
    return _is_made_from(path, {"predictions": now})


def _is_made_from(csv: Path, facts: Mapping[str, Any]) -> bool:
    """Whether an undamaged submission is there whose JSON file holds these facts."""
    try:
        provenance = json.loads(csv.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return False
    if not isinstance(provenance, dict) or not isinstance(provenance.get("answers"), list):
        return False
    same = all(provenance.get(key) == value for key, value in json.loads(json.dumps(facts)).items())
    return same and csv.is_file() and provenance.get("sha256") == sha256_file(csv)


def _answers(
    form: SubmissionFormat, key: str, imgs: "pd.Series[str]", probs: NDArray[np.floating]
) -> pd.DataFrame:
    """The submission's table; a label is that of the most probable class.

    Args:
        key: The column of the images.
    """
    probs = probs / probs.sum(axis=1, keepdims=True)
    if form.kind == "label":
        answers = pd.DataFrame(np.array(form.answers)[probs.argmax(axis=1)])
    else:
        shown = probs if form.kind == "probabilities" else probs[:, 1:]
        answers = pd.DataFrame(shown)
    answers.columns = pd.Index([name for name in form.columns if name != key])
    answers.insert(form.columns.index(key), key, imgs.to_numpy())
    return answers


def _made_from(store: Store, run: Run, submission: Submission, sample: Path | None) -> dict[str, Any]:
    """Everything that the submission and its forecast are derived from."""
    weights = [manifest.details.get("weights", {run.name: 1.0}) for manifest in run.manifests]
    form = store.competition.submission
    facts = {
        "run": run.name,
        "kind": run.kind,
        "data": store.competition.name,
        "folds": list(run.folds),
        "predictions": run.as_parent().predictions,
        "members": [parent.model_dump(mode="json") for parent in run.manifests[0].parents],
        "weights": {str(fold): value for fold, value in zip(run.folds, weights, strict=True)},
        "cross_fitted_log_loss": submission.expected.oof,
        "expected_log_loss": submission.expected.as_json(),
        "out_of_fold": asdict(submission.judged) if submission.judged else None,
        "index_hash": store.competition.index_hash,
        "folds_hash": store.folds.hash,
        "submission": None if form.kind == "probabilities" else asdict(form),  # None: as in older versions
    }
    if store.competition.has_images and sample is not None:
        is_there = sample.is_file()  # the doctor names a missing one
        facts["sample_sha256"] = sha256_file(sample) if is_there else ""
    return facts
