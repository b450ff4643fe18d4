"""One job trains and stores one fold; it skips finished folds, retrains on request, and loses nothing."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from conftest import dead_owner, write_owner
from distracted.config import load_config
from distracted.data.audit import check_split
from distracted.errors import CheckpointError, FoldsError, ImageError, StoreError
from distracted.jobs.fold import begin_again, is_to_redo, train_and_store, train_folds
from distracted.predictions.job_state import mark_redo
from distracted.predictions.store import Store
from distracted.report.curves import read_curves
from distracted.schema import DataConfig
from distracted.stopping import Stop, Stopped
from distracted.training.checkpoints import Checkpoints
from distracted.training.resolve import Resolved, resolve

Configure = Callable[..., Resolved]


@pytest.fixture
def configure(data: DataConfig) -> Configure:
    tiny = [
        "model.backbone=test_resnet",
        "model.weights=none",
        "model.image_size=32",
        "phases.scratch.epochs=1",
    ]

    def make(*overrides: str) -> Resolved:
        config = load_config(model="resnet50", data=str(data.folder), overrides=[*tiny, *overrides])
        return resolve(config, num_folds=3)

    return make


@pytest.mark.slow
def test_a_run_is_readable_when_all_folds_are_trained(store: Store, configure: Configure) -> None:
    resolved = configure()
    train_folds(store, resolved, run="tiny", folds=range(3))
    run = store.read_run("tiny")
    assert np.isfinite(run.oof).all() and run.kind == "model"
    manifest = run.manifests[0]
    assert manifest.config == resolved.config.resolved() and manifest.config_hash == resolved.config.hash
    assert manifest.weights == {"origin": "none", "sha256": None, "notes": []}
    assert manifest.seconds > 0 and manifest.images_per_second > 0
    path = store.workspace.scratch("tiny", "tiny", 0) / "model.safetensors"
    with safe_open(path, "pt") as file:
        assert file.metadata()["config_hash"] == resolved.config.hash
        assert "head.classifier.weight" in file.keys()  # noqa: SIM118 - not a mapping


@pytest.mark.slow
def test_a_finished_fold_is_skipped_unless_forced(
    store: Store, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    first = train_and_store(store, configure(), run="tiny", fold=0)
    with caplog.at_level(logging.INFO):
        again = train_and_store(store, configure(), run="tiny", fold=0)
    assert again == first and "done already" in caplog.text
    train_folds(store, configure(), run="tiny", folds=[0], force=True)
    forced = store.manifest("tiny", 0)
    assert forced.seconds != first.seconds and forced.valid_sha256 == first.valid_sha256


@pytest.mark.slow
def test_a_fold_that_stops_after_an_epoch_goes_on_to_the_same_bytes(
    store: Store, configure: Configure
) -> None:
    resolved = configure("phases.scratch.epochs=3", "runtime.tracking=none")
    whole = train_and_store(store, resolved, run="whole", fold=0)
    with pytest.raises(Stopped, match="after epoch 1, as asked"):
        train_and_store(store, resolved, run="tiny", fold=0, stop_after=1)
    curves = read_curves(store.workspace.metrics("tiny", "tiny", 0), 0)
    assert [epoch.number for epoch in curves.epochs] == [1] and curves.epochs[0].valid is not None
    assert store.finished_folds("tiny") == []
    resumed = train_and_store(store, resolved, run="tiny", fold=0)
    assert (resumed.valid_sha256, resumed.test_sha256) == (whole.valid_sha256, whole.test_sha256)
    assert resumed.details["num_resumed"] == 1


@pytest.mark.slow
def test_each_training_says_how_it_runs_in_one_line(
    store: Store, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train_folds(store, configure("runtime.device=cpu", "training.batch_size=4"), run="tiny", folds=[0, 1])
    said = [line for line in caplog.messages if "loader workers" in line]
    how = "on the CPU (1 thread), fp32, 0 loader workers, batches of 4"
    assert said == [f"tiny, fold 0: {how}", f"tiny, fold 1: {how}"]


def test_another_config_is_refused_before_training(store: Store, configure: Configure) -> None:
    first = train_and_store(store, configure(), run="tiny", fold=0)
    with pytest.raises(StoreError, match="NAME=tiny_2"):
        train_and_store(store, configure("training.seed=1"), run="tiny", fold=1)
    assert store.finished_folds("tiny") == [0] and store.manifest("tiny", 0) == first


@pytest.mark.slow
def test_forcing_all_folds_may_change_the_config(store: Store, configure: Configure) -> None:
    train_folds(store, configure(), run="tiny", folds=range(3))
    train_folds(store, configure("training.seed=1"), run="tiny", folds=range(3), force=True)
    assert {m.config["training"]["seed"] for m in store.read_run("tiny").manifests} == {1}


@pytest.mark.slow
def test_a_failed_job_keeps_the_earlier_predictions(store: Store, configure: Configure) -> None:
    first = train_and_store(store, configure(), run="tiny", fold=0)
    store.competition.test_paths()[0].unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        train_folds(store, configure("runtime.cache_gb=0"), run="tiny", folds=[0], force=True)
    assert store.manifest("tiny", 0) == first
    assert store.read_run("tiny", partial=True).folds == (0,)


@pytest.mark.parametrize("fold", [-1, 3])
def test_a_fold_out_of_range_is_refused(store: Store, configure: Configure, fold: int) -> None:
    with pytest.raises(FoldsError, match=rf"FOLD={fold}: there are 3 folds, 0 to 2"):
        train_and_store(store, configure(), run="tiny", fold=fold)


def test_a_leaking_split_stops_before_training(store: Store) -> None:
    check_split(store.competition, store.folds)
    first = store.folds.table["subject"].iloc[0]
    rows = store.folds.table.index[store.folds.table["subject"] == first]
    store.folds.table.loc[rows[:1], "fold"] = (store.folds.table.loc[rows[0], "fold"] + 1) % 3
    with pytest.raises(FoldsError, match=f"subject {first} is in folds"):
        check_split(store.competition, store.folds)


@pytest.mark.slow
def test_a_stopped_training_resumes_with_its_own_config_only(
    store: Store, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """The stop was requested before the first step, so the fold stops after it."""
    whole = train_and_store(store, configure(), run="whole", fold=0)
    stop = Stop()
    stop.reason = "the test"
    with pytest.raises(Stopped, match="the test"):
        train_and_store(store, configure(), run="tiny", fold=0, stop=stop)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: .*config\.training\.seed 0, now 1.*\(NAME="):
        train_and_store(store, configure("training.seed=1"), run="tiny", fold=0)
    assert store.finished_folds("tiny") == []
    with caplog.at_level(logging.INFO):
        manifest = train_and_store(store, configure(), run="tiny", fold=0)
    assert "goes on from step 1" in caplog.text and manifest.details == {"num_resumed": 1}
    assert manifest.test_sha256 == whole.test_sha256
    scratch = store.workspace.scratch("tiny", "tiny", 0)
    assert {path.name for path in scratch.iterdir()} == {"job.json", "metrics.jsonl", "model.safetensors"}


@pytest.mark.slow
def test_a_retraining_starts_over_and_keeps_the_finished_fold_until_it_is_done(
    store: Store, configure: Configure
) -> None:
    first = train_and_store(store, configure(), run="tiny", fold=0)
    begin_again(store, "tiny", [0], stop=Stop())
    assert store.manifest("tiny", 0) == first
    stop = Stop()
    stop.reason = "the test"
    with pytest.raises(Stopped):
        train_and_store(store, configure("training.seed=1"), run="tiny", fold=0, stop=stop)
    assert store.manifest("tiny", 0) == first
    again = train_and_store(store, configure("training.seed=1"), run="tiny", fold=0)
    assert again.config_hash != first.config_hash and again.details == {"num_resumed": 1}
    assert train_and_store(store, configure("training.seed=1"), run="tiny", fold=0) == again


@pytest.mark.slow
def test_a_signal_while_folds_are_marked_to_be_retrained_marks_all_of_them(
    store: Store, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_folds(store, configure(), run="tiny", folds=[0, 1])
    stop = Stop()

    def interrupted(folder: Path, config_hash: str) -> None:
        stop.ask("the test")
        mark_redo(folder, config_hash)

    monkeypatch.setattr("distracted.jobs.fold.mark_redo", interrupted)
    with pytest.raises(Stopped):
        train_folds(store, configure(), run="tiny", folds=[0, 1], force=True, stop=stop)
    assert is_to_redo(store, "tiny", 0) and is_to_redo(store, "tiny", 1)


@pytest.mark.slow
def test_a_fold_marked_for_another_config_stays_done_for_its_own(store: Store, configure: Configure) -> None:
    """The earlier command still finds its folds done, and the new one resumes the retraining."""
    train_folds(store, configure(), run="tiny", folds=[0, 1])
    stop = Stop()
    stop.reason = "the test"
    other = configure("training.seed=1")
    with pytest.raises(Stopped):
        train_folds(store, other, run="tiny", folds=[0, 1], force=True, stop=stop)
    before = store.manifests("tiny")
    train_folds(store, configure(), run="tiny", folds=[0, 1])
    assert store.manifests("tiny") == before
    train_folds(store, other, run="tiny", folds=[0, 1])
    assert {manifest.config_hash for manifest in store.manifests("tiny")} == {other.config.hash}
    assert not is_to_redo(store, "tiny", 0) and not is_to_redo(store, "tiny", 1)


@pytest.mark.slow
def test_a_fold_with_a_missing_file_is_trained_again(
    store: Store, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    first = train_and_store(store, configure(), run="tiny", fold=0)
    path = store.workspace.fold("tiny", "tiny", 0) / "test.parquet"
    path.unlink()
    again = train_and_store(store, configure(), run="tiny", fold=0)
    assert f"{path}: no such file" in caplog.text
    assert path.is_file() and again.test_sha256 == first.test_sha256


@pytest.mark.slow
def test_a_refused_retraining_marks_no_fold(store: Store, configure: Configure) -> None:
    train_folds(store, configure(), run="tiny", folds=[0, 1])
    with pytest.raises(StoreError, match="another config"):
        train_folds(store, configure("training.seed=1"), run="tiny", folds=[0], force=True)
    assert not is_to_redo(store, "tiny", 0)


def test_leftovers_of_a_killed_process_are_removed(store: Store, configure: Configure) -> None:
    """A process killed after it wrote the predictions leaves a checkpoint, or only its lock."""
    manifest = train_and_store(store, configure(), run="tiny", fold=0)
    left = Checkpoints(store.workspace.scratch("tiny", "tiny", 0), {})
    left.save({"step": 1})
    assert train_and_store(store, configure(), run="tiny", fold=0) == manifest and not left.exist
    lock = store.workspace.lock("tiny", "tiny", 0)
    write_owner(lock, dead_owner())
    assert train_and_store(store, configure(), run="tiny", fold=0) == manifest and not lock.exists()
    with store.hold("tiny", [0]):  # it still runs, and is about to remove them itself
        assert train_and_store(store, configure(), run="tiny", fold=0) == manifest and lock.exists()
