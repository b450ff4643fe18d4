"""One job: trained once, skipped when done, redone when forced, nothing lost when it fails."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
from safetensors import safe_open

from distracted.cluster.job import check_split, train_and_store, train_folds
from distracted.config import load_config
from distracted.errors import FoldsError, ImageError, StoreError
from distracted.predictions.store import Store
from distracted.schema import DataConfig
from distracted.training.resolve import Settled, settle

Configure = Callable[..., Settled]


@pytest.fixture
def configure(data: DataConfig) -> Configure:
    tiny = [
        "model.backbone=test_resnet",
        "model.weights=none",
        "model.image_size=32",
        "phases.scratch.epochs=1",
    ]

    def make(*overrides: str) -> Settled:
        config = load_config(model="resnet50", data=str(data.folder), overrides=[*tiny, *overrides])
        return settle(config, num_folds=3)

    return make


def test_a_run_is_readable_when_all_folds_are_trained(store: Store, configure: Configure) -> None:
    settled = configure()
    train_folds(store, settled, run="tiny", folds=range(3))
    run = store.read_run("tiny")
    assert np.isfinite(run.oof).all() and run.kind == "model"
    manifest = run.manifests[0]
    assert manifest.config == settled.config.resolved() and manifest.config_hash == settled.config.hash
    assert manifest.weights == {"origin": "none", "sha256": None, "notes": []}
    assert manifest.seconds > 0 and manifest.images_per_second > 0
    path = store.workspace.scratch("tiny", "tiny", 0) / "model.safetensors"
    with safe_open(path, "pt") as file:
        assert file.metadata()["config_hash"] == settled.config.hash
        assert "head.classifier.weight" in file.keys()  # noqa: SIM118 - not a mapping


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


def test_a_failed_job_leaves_what_was_there(store: Store, configure: Configure) -> None:
    first = train_and_store(store, configure(), run="tiny", fold=0)
    store.competition.test_paths()[0].write_bytes(b"")
    with pytest.raises(ImageError, match="zero bytes"):
        train_folds(store, configure(), run="tiny", folds=[0], force=True)
    assert store.manifest("tiny", 0) == first
    assert store.read_run("tiny", partial=True).folds == (0,)


@pytest.mark.parametrize("fold", [-1, 3])
def test_a_fold_out_of_range_is_refused(store: Store, configure: Configure, fold: int) -> None:
    with pytest.raises(FoldsError, match=rf"FOLD={fold}: there are 3 folds, 0 to 2"):
        train_and_store(store, configure(), run="tiny", fold=fold)


def test_a_leaking_split_stops_before_training(store: Store) -> None:
    check_split(store)
    first = store.folds.table["subject"].iloc[0]
    rows = store.folds.table.index[store.folds.table["subject"] == first]
    store.folds.table.loc[rows[:1], "fold"] = (store.folds.table.loc[rows[0], "fold"] + 1) % 3
    with pytest.raises(FoldsError, match=f"subject {first} is in folds"):
        check_split(store)
