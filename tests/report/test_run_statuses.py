"""The status of each run: done, running, failed, stale, and what is broken without stopping the others."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import calibrate, dead_owner
from distracted.ensemble.blend import blend_runs
from distracted.errors import DataError
from distracted.jobs.fold import train_and_store, train_folds
from distracted.metrics import scores
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.job_state import job_state
from distracted.predictions.store import Store
from distracted.report import status as status_module
from distracted.report.board import make_board
from distracted.report.status import FoldStatus, RunStatus
from distracted.schema import RunConfig, hash_config
from distracted.stopping import Stop, Stopped
from distracted.submission.submit import write_submission
from distracted.training.resolve import resolve

WriteRun = Callable[..., None]
Configure = Callable[..., RunConfig]


def run_statuses(store: Store) -> list[RunStatus]:
    return status_module.run_statuses(Catalogue(store))


def next_steps(store: Store, statuses: list[RunStatus]) -> list[str]:
    return status_module.next_steps(Catalogue(store), statuses)


def by_run(store: Store) -> dict[str, RunStatus]:
    return {status.entry.name: status for status in run_statuses(store)}


def states(status: RunStatus) -> list[str]:
    return [fold.state for fold in status.folds]


def test_an_empty_store_has_no_status_and_says_how_to_begin(store: Store) -> None:
    assert run_statuses(store) == []
    assert "make cv" in next_steps(store, [])[0]


def test_a_finished_run_shows_its_scores(store: Store) -> None:
    for fold in range(3):
        num_valid, num_test = len(store.folds.valid(fold)), len(store.competition.test)
        manifest = store.write_fold(
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
    (status,) = run_statuses(store)
    entry = status.entry
    assert status.folds == tuple(FoldStatus("done", score) for score in (0.5, 1.5, 2.5))
    assert entry.pooled == pytest.approx({"log_loss": np.log(3), "accuracy": 1 / 3})
    assert (entry.name, entry.kind, entry.origin, entry.leaky) == ("a", "model", "timm", False)
    assert (entry.problem, entry.stale, entry.parents) == ("", "", ())
    assert (entry.seconds, entry.written, status.made_by) == (6.0, manifest.written, "")


def test_a_blend_shows_its_cross_fitted_score(store: Store, write_run: WriteRun) -> None:
    write_run("a", seed=0)
    write_run("b", seed=1)
    blend_runs(store)
    status = by_run(store)["ensemble"]
    entry = status.entry
    assert (entry.kind, entry.origin, entry.problem, entry.stale) == ("blend", "", "", "")
    pooled = scores(store.read_run("ensemble").oof, store.folds.labels)
    assert entry.pooled == {key: pooled[key] for key in ("log_loss", "accuracy")}
    assert entry.parents == ("a", "b") and status.made_by == 'make ensemble RUNS="a b" NAME=ensemble'


def test_missing_folds_are_named_and_nothing_is_pooled(store: Store, write_run: WriteRun) -> None:
    write_run("a", folds=(1,))
    (status,) = run_statuses(store)
    assert states(status) == ["missing", "done", "missing"]
    assert status.entry.pooled == {} and status.entry.problem == ""
    assert next_steps(store, [status]) == ["make cv for a, as it was begun: fold 0, 2 to do"]


def test_a_fold_under_way_says_how_far_it_is(store: Store, configure: Configure) -> None:
    config = resolve(configure("phases.scratch.epochs=4"), num_folds=3).config
    scratch = store.workspace.scratch("tiny", "a", 1)
    with store.hold("a", [1]), job_state(scratch, config):
        (status,) = run_statuses(store)
        assert status.folds[1] == FoldStatus("running", share=0.0)
        lines = [{"step": 3, "train/loss": 1.0, "train/epoch": 0.5}, {"step": 6, "epoch": 1}]
        lines.append({"step": 9, "train/loss": 1.0, "train/epoch": 3.0})
        (scratch / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 12, "tra')
        (status,) = run_statuses(store)
        assert status.folds[1] == FoldStatus("running", share=0.75)
        assert next_steps(store, [status]) == ["wait: a is being trained"]
    assert run_statuses(store) == []  # it ended well, and its predictions were removed


def test_a_run_stays_done_while_it_is_retrained(
    store: Store, configure: Configure, write_run: WriteRun
) -> None:
    write_run("a")
    with store.hold("a", [1]), job_state(store.workspace.scratch("tiny", "a", 1), configure()):
        (status,) = run_statuses(store)
        assert status.entry.is_current and [fold.retraining for fold in status.folds] == [False, True, False]
        assert next_steps(store, [status])[0] == "wait: a is being trained"


def test_a_fold_that_failed_says_why(store: Store, configure: Configure) -> None:
    resolved = resolve(configure(), num_folds=3)
    path = store.competition.train_paths()[int(store.folds.train(0)[0])]
    path.write_bytes(path.read_bytes()[:200])  # while the command runs
    with pytest.raises(DataError, match="has changed since"):
        train_and_store(store, resolved, run="a", fold=0)
    (status,) = run_statuses(store)
    assert status.folds[0].state == "failed" and str(path) in status.folds[0].reason


def test_a_fold_whose_process_was_killed_is_stopped(store: Store, configure: Configure) -> None:
    scratch = store.workspace.scratch("tiny", "a", 0)
    lock = store.workspace.lock("tiny", "a", 0)
    killed = dead_owner().pid
    with store.hold("a", [0]), job_state(scratch, configure()):
        mine = lock.read_text()
        lock.write_text(json.dumps(json.loads(mine) | {"pid": killed}))
        assert run_statuses(store)[0].folds[0].state == "stopped"
        lock.write_text(json.dumps(json.loads(mine) | {"pid": killed, "host": "elsewhere"}))
        assert run_statuses(store)[0].folds[0].state == "running"  # who is to know
        os.utime(lock, (0, 0))
        assert run_statuses(store)[0].folds[0].state == "stopped"  # not heard of for too long
        lock.write_text(mine)
        (scratch / "job.json").write_text("{")
        assert run_statuses(store) == []  # nothing is known of it


def test_runs_whose_parent_changed_are_stale(store: Store, write_run: WriteRun) -> None:
    write_run("a", seed=0)
    write_run("b", seed=1)
    calibrate(store, "a")
    blend_runs(store, runs=["a_calibrated", "b"])
    assert not any(status.entry.stale for status in run_statuses(store))
    write_run("a", seed=5)
    statuses = by_run(store)
    assert "a has changed" in statuses["a_calibrated"].entry.stale
    assert "a has changed" in statuses["ensemble"].entry.stale
    assert Catalogue(store).meant_blend is None
    steps = next_steps(store, [*statuses.values()])
    assert [step.split(":")[0] for step in steps] == [
        "make calibrate RUNS=a NAME=a_calibrated",
        'make ensemble RUNS="a_calibrated b" NAME=ensemble',
    ]


@pytest.mark.slow
def test_a_fold_marked_for_retraining_is_named(store: Store, configure: Configure) -> None:
    resolved = resolve(configure(), num_folds=3)
    train_folds(store, resolved, run="a", folds=range(3))
    stop = Stop()
    stop.reason = "the test"
    with pytest.raises(Stopped):
        train_folds(store, resolved, run="a", folds=[1], force=True, stop=stop)
    (status,) = run_statuses(store)
    assert status.entry.is_current and [fold.redo for fold in status.folds] == ["", "not begun", ""]
    with pytest.raises(Stopped):
        train_and_store(store, resolved, run="a", fold=1, stop=stop)
    (status,) = run_statuses(store)
    assert [fold.redo for fold in status.folds] == ["", "stopped", ""]
    assert "make cv for a without FORCE=1: fold 1 is marked to be retrained" in next_steps(store, [status])[0]
    train_and_store(store, resolved, run="a", fold=1)
    assert [fold.redo for fold in run_statuses(store)[0].folds] == ["", "", ""]


@pytest.mark.slow
def test_a_run_half_retrained_with_another_config_is_named(store: Store, configure: Configure) -> None:
    old, new = (resolve(configure(f"training.seed={seed}"), num_folds=3) for seed in (0, 1))
    train_folds(store, old, run="a", folds=range(3))

    class StopsAfterOne(Stop):
        def check(self) -> None:
            if store.manifest("a", 0).config_hash == new.config.hash:
                raise Stopped("the test")

    with pytest.raises(Stopped):
        train_folds(store, new, run="a", folds=range(3), force=True, stop=StopsAfterOne())
    (status,) = run_statuses(store)
    assert status.entry.stale == "a: its folds are being retrained with another config"
    assert not status.entry.problem and not status.entry.pooled
    assert [fold.redo for fold in status.folds] == ["", "not begun", "not begun"]
    steps = next_steps(store, [status])
    assert steps[0].startswith("make cv for a without FORCE=1: fold 1, 2 is marked to be retrained")
    assert not any("FORCE=1 " in step and "without" not in step for step in steps)
    assert make_board(Catalogue(store)) == []  # nor does it stop the report
    train_folds(store, new, run="a", folds=range(3))
    assert run_statuses(store)[0].entry.is_current


def test_the_next_steps_end_with_the_submission(store: Store, write_run: WriteRun) -> None:
    write_run("a", seed=0)
    write_run("b", seed=1)
    assert next_steps(store, run_statuses(store)) == ["make ensemble: no blend holds a, b"]
    blend_runs(store)
    blend_runs(store, runs=["a"], name="alone")
    statuses = run_statuses(store)
    assert next_steps(store, statuses) == ["make submit NAME=ensemble: its predictions are not submitted yet"]
    write_submission(store, name="ensemble")
    assert next_steps(store, run_statuses(store)) == []


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
    problems = {run: status.entry.problem for run, status in statuses.items() if status.entry.problem}
    assert set(problems) == {"damaged", "edited", "mixed", "other"}
    assert "not a manifest" in problems["damaged"]
    assert "not the file that its manifest describes" in problems["edited"]
    assert "different configs" in problems["mixed"]
    assert "other folds" in problems["other"]
    assert statuses["damaged"].entry.kind == "?" and statuses["damaged"].entry.pooled == {}
    assert statuses["a"].entry.is_current and statuses["z"].entry.is_current


def test_a_run_without_scores_and_one_of_an_older_split_do_not_stop_the_table(
    store: Store, write_run: WriteRun, tmp_path: Path
) -> None:
    write_run("unscored")
    path = store.workspace.fold("tiny", "unscored", 1) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": {}}))
    write_run("old", folds=(0,))
    store.workspace.fold("tiny", "old", 0).rename(store.workspace.run("tiny", "old") / "fold9")
    (status,) = run_statuses(store)
    assert status.entry.name == "unscored" and status.entry.is_complete
    assert status.folds[1].score is not None and np.isnan(status.folds[1].score)
    assert status.folds[0].score == 1.0
