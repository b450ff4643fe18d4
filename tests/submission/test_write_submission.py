"""A submission is written only if the doctor accepts it and its run is unchanged; it states its origin."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distracted.ensemble.blend import blend_runs
from distracted.errors import DataError, DistractedError, StoreError, SubmissionError
from distracted.files import sha256_file
from distracted.metrics import log_loss
from distracted.predictions.store import Store
from distracted.submission.answers import add_answer, read_answers
from distracted.submission.doctor import check_submission
from distracted.submission.submit import is_submitted, write_submission

pytestmark = pytest.mark.slow

WriteRun = Callable[..., None]


def sample_of(store: Store) -> Path:
    return store.competition.config.folder / "sample_submission.csv"


def written(store: Store) -> list[str]:
    return sorted(path.name for path in store.workspace.submissions("tiny").rglob("*"))


def date(store: Store, run: str, day: int) -> None:
    """Set the date in the manifests of a run."""
    for path in store.workspace.run("tiny", run).glob("fold*/manifest.json"):
        content = json.loads(path.read_text()) | {"written": f"2030-01-{day:02}T00:00:00+00:00"}
        path.write_text(json.dumps(content))


@pytest.fixture
def blend(store: Store, write_run: WriteRun) -> str:
    """Two runs, a and b, and their blend."""
    write_run("a", skill=2.0, seed=0)
    write_run("b", skill=1.0, seed=1)
    return blend_runs(store).name


def refused(store: Store, message: str, **options: object) -> None:
    with pytest.raises(DistractedError, match=message) as refusal:
        write_submission(store, **options)  # type: ignore[arg-type]
    assert isinstance(refusal.value, (StoreError, SubmissionError))
    assert written(store) == []


# What is written


def test_the_file_holds_the_runs_test_probabilities(store: Store, blend: str) -> None:
    submission = write_submission(store)
    assert submission.path == store.workspace.submissions("tiny") / "ensemble.csv"
    assert submission.run == blend
    check_submission(submission.path, sample_of(store))
    table = pd.read_csv(submission.path)
    assert list(table.columns) == ["img", "c0", "c1", "c2"]
    assert table["img"].tolist() == store.competition.test["img"].tolist()
    probs = np.exp(store.read_run(blend).test_log_probs)
    np.testing.assert_allclose(table[["c0", "c1", "c2"]], probs, rtol=1e-7)
    content = submission.path.read_bytes()
    assert write_submission(store).path.read_bytes() == content
    assert written(store) == ["ensemble.csv", "ensemble.json"]


def test_an_existing_submission_is_not_rewritten(store: Store, blend: str, write_run: WriteRun) -> None:
    first = write_submission(store)
    before = [path.stat() for path in (first.path, first.provenance)]
    assert first.is_new and is_submitted(store, blend)
    again = write_submission(store)
    assert not again.is_new and again.expected == first.expected
    assert [path.stat() for path in (first.path, first.provenance)] == before
    assert write_submission(store, force=True).is_new
    first.path.write_text("edited")
    assert write_submission(store).is_new
    write_run("a", skill=2.5, seed=0)
    assert is_submitted(store, blend)  # the blend is stale, the submission is of it as it is
    blend_runs(store)
    assert not is_submitted(store, blend)
    assert write_submission(store).is_new and is_submitted(store, blend)


def test_the_provenance_is_true(store: Store, blend: str) -> None:
    submission = write_submission(store)
    provenance = json.loads(submission.path.with_suffix(".json").read_text())
    run = store.read_run(blend)
    score = log_loss(run.oof, store.folds.labels)
    assert provenance["sha256"] == sha256_file(submission.path)
    assert provenance["folds_hash"] == sha256_file(store.workspace.folds("tiny"))
    assert provenance["index_hash"] == store.competition.index_hash
    assert (provenance["run"], provenance["kind"], provenance["data"]) == ("ensemble", "blend", "tiny")
    assert provenance["folds"] == [0, 1, 2]
    assert provenance["members"] == [store.read_run(name).as_parent().model_dump() for name in "ab"]
    assert provenance["weights"] == {str(m.fold): m.details["weights"] for m in run.manifests}
    assert provenance["cross_fitted_log_loss"] == pytest.approx(score)
    expected = provenance["expected_log_loss"]
    assert expected["low"] <= expected["mean"] <= expected["high"]
    assert expected == submission.expected.as_json()
    assert expected["oof"] == pytest.approx(score)
    assert expected["mean"] == pytest.approx(expected["single"] + expected["bagging"])
    assert (expected["num_subjects"], expected["num_test_subjects"]) == (6, 1)  # 7 images, 9 a subject
    assert provenance["answers"] == []
    assert provenance["packages"]["numpy"] == np.__version__
    assert provenance["written"]


def test_a_single_run_can_be_submitted_by_name(store: Store, blend: str) -> None:
    submission = write_submission(store, name="b")
    assert submission.path.name == "b.csv"
    provenance = json.loads(submission.path.with_suffix(".json").read_text())
    assert provenance["kind"] == "model" and provenance["members"] == []
    assert provenance["weights"] == {fold: {"b": 1.0} for fold in "012"}
    assert provenance["cross_fitted_log_loss"] == pytest.approx(
        log_loss(store.read_run("b").oof, store.folds.labels)
    )


def test_rewriting_a_submission_keeps_its_answers(store: Store, blend: str) -> None:
    submission = write_submission(store)
    add_answer(submission.provenance, submission.sha256, submission.expected, {"public": 1.5})
    answers = read_answers(submission.provenance)
    assert answers[0]["sha256"] == sha256_file(submission.path)
    assert json.loads(write_submission(store).provenance.read_text())["answers"] == answers


# Which run is taken


def test_of_equal_blends_the_newest_is_taken(store: Store, blend: str) -> None:
    blend_runs(store, name="another")
    date(store, "ensemble", 2)
    date(store, "another", 1)
    assert write_submission(store).run == "ensemble"
    date(store, "another", 3)
    assert write_submission(store).run == "another"


def test_a_blend_whose_member_has_changed_is_passed_over_and_refused_by_name(
    store: Store, write_run: WriteRun, blend: str
) -> None:
    write_run("noise", skill=0.0, seed=2)
    blend_runs(store, name="of_noise", runs=["noise"])
    assert write_submission(store).run == "ensemble"
    write_run("a", seed=7, folds=(1,))
    assert write_submission(store).run == "of_noise"
    with pytest.raises(StoreError, match="ensemble: its member a has changed since it was made"):
        write_submission(store, name="ensemble")
    write_run("a", skill=2.0, seed=0)  # the predictions that were blended, made again
    assert write_submission(store).run == "ensemble"


def test_without_a_current_blend_the_error_says_why(store: Store, write_run: WriteRun) -> None:
    refused(store, "there is no blend yet; `make ensemble` makes one; NAME=<run>")
    write_run("a", skill=2.0)
    refused(store, "there is no blend yet")
    blend_runs(store)
    write_run("a", seed=5)
    refused(store, "ensemble: its member a has changed since it was made; blend again")


def test_a_member_that_is_gone_or_damaged_is_refused(store: Store, blend: str) -> None:
    store.workspace.fold("tiny", "a", 1).joinpath("valid.parquet").write_bytes(b"damaged")
    refused(store, r"fold1.valid\.parquet: not the file")
    for fold in range(3):
        store.workspace.fold("tiny", "a", fold).joinpath("manifest.json").unlink()
    refused(store, "ensemble: its member a is gone")
    refused(store, "ensemble: its member a is gone", name="ensemble")


def test_a_run_of_an_older_split_does_not_stop_it(store: Store, write_run: WriteRun, blend: str) -> None:
    write_run("old", folds=(0,))
    store.workspace.fold("tiny", "old", 0).rename(store.workspace.run("tiny", "old") / "fold9")
    refused(store, "there is no run 'old' on tiny; there are: a, b, ensemble", name="old")
    assert write_submission(store).run == "ensemble"


# Missing folds


def test_a_run_with_missing_folds_is_refused_unless_partial(store: Store, write_run: WriteRun) -> None:
    write_run("a", folds=(0, 2))
    refused(store, "a: fold 1 of 3 is missing", name="a")
    submission = write_submission(store, name="a", partial=True)
    provenance = json.loads(submission.path.with_suffix(".json").read_text())
    assert provenance["folds"] == [0, 2] and list(provenance["weights"]) == ["0", "2"]
    run = store.read_run("a", partial=True)
    scored = store.folds.ids != 1
    assert provenance["cross_fitted_log_loss"] == pytest.approx(
        log_loss(run.oof[scored], store.folds.labels[scored])
    )
    probs = np.exp(run.test).mean(axis=0)
    np.testing.assert_allclose(pd.read_csv(submission.path)[["c0", "c1", "c2"]], probs, rtol=1e-7)


def test_a_member_with_missing_folds_is_refused_unless_partial(store: Store, blend: str) -> None:
    store.workspace.fold("tiny", "b", 2).joinpath("manifest.json").unlink()
    refused(store, "ensemble: fold 2 of its member b is missing .PARTIAL=1")
    refused(store, "fold 2 of its member b is missing", name="ensemble")
    assert write_submission(store, partial=True).run == "ensemble"


# Refused by the doctor


def test_nothing_is_written_where_the_doctor_refuses(store: Store, blend: str) -> None:
    """The sample submission changed after the store was opened; an earlier submission stays."""
    path = sample_of(store)
    sample = pd.read_csv(path)
    sample[["img", "c1", "c0", "c2"]].to_csv(path, index=False)
    refused(store, "expected the columns img,c1,c0,c2, got img,c0,c1,c2")
    pd.concat([sample, sample.tail(1).assign(img="new.jpg")]).to_csv(path, index=False)
    refused(store, "1 images are missing, such as new.jpg")
    path.unlink()
    with pytest.raises(DataError, match=r"sample_submission\.csv: no such file"):
        write_submission(store)
    sample.to_csv(path, index=False)
    before = write_submission(store).path.read_bytes()
    sample.rename(columns={"c2": "c9"}).to_csv(path, index=False)
    with pytest.raises(SubmissionError, match="expected the columns"):
        write_submission(store)
    folder = store.workspace.submissions("tiny")
    assert (folder / "ensemble.csv").read_bytes() == before
    assert json.loads((folder / "ensemble.json").read_text())["sha256"] == sha256_file(
        folder / "ensemble.csv"
    )
    assert written(store) == ["ensemble.csv", "ensemble.json"]


def test_a_probability_above_1_by_rounding_is_no_fault(store: Store) -> None:
    """Every network predicts probability 1; the mean of three such predictions can exceed 1 by rounding."""
    sure = np.tile([0.0, -100.0, -100.0], (len(store.competition.test), 1))
    for fold in range(3):
        valid = np.full((len(store.folds.valid(fold)), 3), -np.log(3))
        store.write_fold("a", fold, kind="model", config={}, valid=valid, test=sure)
    table = pd.read_csv(write_submission(store, name="a").path)
    np.testing.assert_allclose(table[["c0", "c1", "c2"]].to_numpy(), np.exp(sure), rtol=1e-7)
