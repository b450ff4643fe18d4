"""A fold's network is loaded unchanged; any other network is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import TINY
from distracted.config import load_config
from distracted.data.picture_sets import Images
from distracted.errors import DistractedError, StoreError, WeightsError
from distracted.jobs.fold import train_and_store
from distracted.postprocess.networks import Trained, load_trained
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.training.resolve import resolve
from untrained import RUNTIME, write_untrained

pytestmark = pytest.mark.slow  # networks or whole runs in each


@pytest.fixture
def parent(store: Store) -> Run:
    return write_untrained(store)


def valid_log_probs(store: Store, trained: Trained, fold: int) -> np.ndarray:
    images = Images.to_train(store.competition)
    return trained.feed.log_probs(trained.network, images, store.folds.valid(fold), "valid")


def path_of(store: Store, fold: int) -> Path:
    return store.workspace.network("tiny", "tiny", fold)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("resnet50", ["model.backbone=test_resnet", "model.image_size=32", "training.ema=0.9"]),
        ("resnet50", ["model.backbone=test_vit", "model.image_size=32", "model.head.hidden=8"]),
        ("resnet50", ["model.backbone=test_resnet", "model.image_size=32", "model.head.block=layer2"]),
        ("googlenet", ["model.image_size=64", "model.head.auxiliary=0.3"]),
        ("mlp", ["model.image_size=32"]),
    ],
)
def test_a_trained_network_repeats_its_stored_predictions(
    store: Store, model: str, settings: list[str]
) -> None:
    overrides = [setting for setting in TINY if not setting.startswith(("model.backbone", "model.image"))]
    folder = str(store.competition.config.folder)
    config = load_config(model=model, data=folder, overrides=[*overrides, *settings])
    train_and_store(store, resolve(config, num_folds=3), run="trained", fold=1)
    run = store.read_run("trained", partial=True)
    trained = load_trained(store, run, 1, runtime=RUNTIME)
    assert not trained.network.training
    log_probs = valid_log_probs(store, trained, 1)
    np.testing.assert_allclose(log_probs, run.oof[store.folds.valid(1)], atol=1e-5)
    test = Images.to_test(store.competition)
    log_probs = trained.feed.log_probs(trained.network, test, test.rows, "test")
    np.testing.assert_allclose(log_probs, run.test[0], atol=1e-5)


def test_each_fold_has_its_own_network(store: Store, parent: Run) -> None:
    for fold in range(3):
        trained = load_trained(store, parent, fold, runtime=RUNTIME)
        expected = parent.oof[store.folds.valid(fold)]
        np.testing.assert_allclose(valid_log_probs(store, trained, fold), expected, atol=1e-5)
        assert trained.feed.resolved.config.resolved() == parent.manifests[fold].config
        assert trained.feed.resolved.config.runtime == RUNTIME


def test_no_pretrained_weights_are_needed(store: Store, parent: Run) -> None:
    """The config names weights that are unavailable here; only the fold's own are needed."""
    for fold in range(3):
        config = json.loads(json.dumps(parent.manifests[fold].config))
        config["model"] |= {"weights": "file:lost.pth", "weights_sha256": "0"}
        rows = store.folds.valid(fold)
        manifest = store.write_fold(
            "lost", fold, kind="model", config=config, valid=parent.oof[rows], test=parent.test[fold]
        )
        edit_metadata(path_of(store, fold), config_hash=manifest.config_hash)
        path = store.workspace.network("tiny", "lost", fold)
        path.parent.mkdir(parents=True)
        shutil.copy(path_of(store, fold), path)
    trained = load_trained(store, store.read_run("lost"), 2, runtime=RUNTIME)
    np.testing.assert_allclose(valid_log_probs(store, trained, 2), parent.oof[rows], atol=1e-5)


def edit_metadata(path: Path, **changes: str) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata={**metadata, **changes})


# What is refused


def refused(store: Store, run: Run, *parts: str, fold: int = 1) -> None:
    with pytest.raises(DistractedError) as refusal:
        load_trained(store, run, fold, runtime=RUNTIME)
    assert isinstance(refusal.value, (StoreError, WeightsError))
    for part in parts:
        assert part in str(refusal.value)


def test_a_file_that_is_not_the_folds_network_is_refused(store: Store, parent: Run) -> None:
    path = path_of(store, 1)
    whole = path.read_bytes()
    for key, value in {
        "config_hash": "0",
        "classes": '["c0", "c2", "c1"]',
        "trained_on": "elsewhere",
    }.items():
        edit_metadata(path, **{key: value})
        refused(
            store, parent, f"{path}: not this fold's network: its {key} is {value}", "expected", "FORCE=1"
        )
        path.write_bytes(whole)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path) | {"head.classifier.bias": torch.zeros(4)}, path, metadata=metadata)
    refused(store, parent, f"{path}: its tensors do not fit test_resnet", "head.classifier.bias")
    path.write_bytes(whole[:5000])
    refused(store, parent, f"{path}: not a readable network", "FORCE=1 trains the fold again")
    path.unlink()
    refused(store, parent, f"{path}: no such file", "FORCE=1 trains the fold again")


def test_the_network_of_another_fold_is_refused(store: Store, parent: Run) -> None:
    """It would predict rows that it was trained on."""
    shutil.copy(path_of(store, 0), path_of(store, 1))
    refused(store, parent, "not the network that predicted tiny, fold 1", "off the stored ones")


def test_a_run_without_networks_is_refused(store: Store, parent: Run) -> None:
    for fold in range(3):
        rows = store.folds.valid(fold)
        store.write_fold(
            "mean", fold, kind="blend", config={}, valid=parent.oof[rows], test=parent.test[fold]
        )
    run = store.read_run("mean")
    refused(store, run, "RUN=mean: a blend run has no networks of its own; expected a trained run")


def test_a_config_of_another_version_is_refused(store: Store, parent: Run) -> None:
    config = {**parent.manifests[1].config, "recipes": "of old"}
    rows = store.folds.valid(1)
    store.write_fold("old", 1, kind="model", config=config, valid=parent.oof[rows], test=parent.test[1])
    run = store.read_run("old", partial=True)
    refused(store, run, "old, fold 1: its config is of another version of the project (recipes: ", "FORCE=1")


def test_half_precision_falls_back_to_fp32(
    store: Store, parent: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A run trained on a GPU, loaded on a machine without one."""
    config = json.loads(json.dumps(parent.manifests[1].config))
    config["training"]["precision"] = "fp16"
    rows = store.folds.valid(1)
    manifest = store.write_fold(
        "tiny", 1, kind="model", config=config, valid=parent.oof[rows], test=parent.test[1]
    )
    edit_metadata(path_of(store, 1), config_hash=manifest.config_hash)
    for fold in (0, 2):
        store.workspace.fold("tiny", "tiny", fold).joinpath("manifest.json").unlink()
    caplog.set_level("INFO")
    trained = load_trained(store, store.read_run("tiny", partial=True), 1, runtime=RUNTIME)
    assert trained.feed.resolved.precision == "fp32" and "tiny: fp16 is unavailable here" in caplog.text
    np.testing.assert_allclose(valid_log_probs(store, trained, 1), parent.oof[rows], atol=1e-5)
