"""The status of each run: what is done, what is missing, and what is broken without stopping the others."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from distracted.ensemble.blend import blend_runs
from distracted.metrics import scores
from distracted.predictions.store import Store
from distracted.report.status import RunStatus, run_statuses
from distracted.schema import hash_config

WriteRun = Callable[..., None]


def by_run(store: Store) -> dict[str, RunStatus]:
    return {status.run: status for status in run_statuses(store)}


def test_an_empty_store_has_no_status(store: Store) -> None:
    assert run_statuses(store) == []


def test_a_finished_run_shows_its_scores(store: Store) -> None:
    for fold in range(3):
        num_valid, num_test = len(store.folds.valid(fold)), len(store.competition.test)
        store.write_fold(
            "a",
            fold,
            kind="model",
            config={},
            valid=np.full((num_valid, 3), -np.log(3)),
            test=np.full((num_test, 3), -np.log(3)),
            weights={"origin": "timm"},
            scores={"valid/log_loss": 0.5 + fold},
            seconds=2.0,
        )
    assert run_statuses(store) == [
        RunStatus(
            run="a",
            kind="model",
            weights="timm",
            folds={0: 0.5, 1: 1.5, 2: 2.5},
            missing=(),
            pooled=pytest.approx({"log_loss": np.log(3), "accuracy": 1 / 3, "macro_f1": 1 / 6, "auc": 0.5}),
            seconds=6.0,
        )
    ]


def test_a_blend_shows_its_cross_fitted_score(store: Store, write_run: WriteRun) -> None:
    write_run("a", seed=0)
    write_run("b", seed=1)
    blend_runs(store)
    status = by_run(store)["ensemble"]
    assert (status.kind, status.weights, status.problem) == ("blend", "", "")
    assert status.pooled == scores(store.read_run("ensemble").oof, store.folds.labels)


def test_missing_folds_are_named_and_nothing_is_pooled(store: Store, write_run: WriteRun) -> None:
    write_run("a", folds=(1,))
    (status,) = run_statuses(store)
    assert status.folds == {1: 1.0} and status.missing == (0, 2)
    assert status.pooled == {} and status.problem == ""


def test_a_broken_run_shows_its_problem_and_does_not_stop_the_others(
    store: Store, write_run: WriteRun
) -> None:
    for run in ("a", "damaged", "edited", "mixed", "other", "z"):
        write_run(run)
    folder = store.workspace.oof("tiny")
    (folder / "damaged/fold0/manifest.json").write_text("{")
    (folder / "edited/fold1/valid.parquet").write_bytes(b"edited")
    another = {"config": {"run": "another"}, "config_hash": hash_config({"run": "another"})}
    for run, values in {"mixed": another, "other": {"folds_hash": "0"}}.items():
        path = folder / run / "fold2/manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    statuses = by_run(store)
    assert list(statuses) == ["a", "damaged", "edited", "mixed", "other", "z"]
    problems = {run: status.problem for run, status in statuses.items() if status.problem}
    assert set(problems) == {"damaged", "edited", "mixed", "other"}
    assert "not a manifest" in problems["damaged"]
    assert "not the file that its manifest describes" in problems["edited"]
    assert "different configs" in problems["mixed"]
    assert "other folds" in problems["other"]
    assert statuses["damaged"].kind == "?" and statuses["damaged"].pooled == {}
    assert statuses["a"].pooled is not None and statuses["z"].pooled is not None


def test_a_run_without_scores_and_one_of_an_older_split_do_not_stop_the_table(
    store: Store, write_run: WriteRun
) -> None:
    write_run("unscored")
    path = store.workspace.fold("tiny", "unscored", 1) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": {}}))
    write_run("old", folds=(0,))
    store.workspace.fold("tiny", "old", 0).rename(store.workspace.run("tiny", "old") / "fold9")
    (status,) = run_statuses(store)
    assert status.run == "unscored" and status.pooled is not None
    assert np.isnan(status.folds[1]) and status.folds[0] == 1.0
