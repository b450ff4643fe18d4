"""Runs that began from random weights stay valid, and go on by the command that began them."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from huggingface_hub import constants
from safetensors.torch import save_file

from conftest import TINY
from distracted.errors import CheckpointError, StoreError, WeightsError
from distracted.jobs import begun
from distracted.jobs.begun import resolve_run
from distracted.jobs.fold import begin_again, is_done, train_and_store
from distracted.predictions.job_state import ANY_CONFIG
from distracted.predictions.store import Store
from distracted.schema import RunConfig
from distracted.stopping import Stop, Stopped

AUTO = tuple(setting for setting in TINY if not setting.startswith("model.weights"))
KEY = 'model.weights "none", now "imagenet:timm/test_resnet.r160_in1k"'


@pytest.fixture
def config(configure: Callable[..., RunConfig]) -> RunConfig:
    config = configure("phases.features=null", "phases.finetune.epochs=1", tiny=AUTO)
    assert config.model.weights == "auto"
    return config


def bring_the_hub_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the network's weights into the hub's cache."""
    repository = folder / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(timm.create_model("test_resnet").state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))


def begin(store: Store, config: RunConfig, stop: Stop | None = None) -> None:
    """Train fold 0 from random weights, as an earlier version did where it found no others."""
    model = config.model.model_copy(update={"weights": "none"})
    random = resolve_run(store, config.model_copy(update={"model": model}), "a")
    train_and_store(store, random, run="a", fold=0, stop=stop)


@pytest.mark.slow
def test_a_finished_fold_goes_on_at_random_until_the_hub_is_back(
    store: Store,
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(WeightsError, match=r"cannot be reached.*model\.weights=none"):
        resolve_run(store, config, "a")
    begin(store, config)
    with caplog.at_level(logging.WARNING):
        again = resolve_run(store, config, "a")
    assert "a: no pretrained weights; going on from random ones, as it was begun" in caplog.text
    assert again.config.hash == store.manifest("a", 0).config_hash
    train_and_store(store, again, run="a", fold=1)
    assert {manifest.config_hash for manifest in store.manifests("a")} == {again.config.hash}
    for other in ({"run": "a", "retrained": range(3)}, {"run": "b"}):
        with pytest.raises(WeightsError, match="cannot be reached"):
            resolve_run(store, config, **other)
    bring_the_hub_back(tmp_path / "hub", monkeypatch)
    with pytest.raises(StoreError) as caught:
        train_and_store(store, resolve_run(store, config, "a"), run="a", fold=2)
    assert f"fold0 was made with another config ({KEY}; " in str(caught.value)


@pytest.mark.slow
def test_a_checkpoint_goes_on_at_random_until_the_hub_is_back(
    store: Store, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop()
    stop.reason = "the test"  # it stops after its first step
    with pytest.raises(Stopped):
        begin(store, config, stop)
    with monkeypatch.context() as patch:
        bring_the_hub_back(tmp_path / "hub", patch)
        with pytest.raises(CheckpointError) as caught:
            train_and_store(store, resolve_run(store, config, "a"), run="a", fold=0)
        assert f"begun with config.{KEY}; " in str(caught.value)
    manifest = train_and_store(store, resolve_run(store, config, "a"), run="a", fold=0)
    assert manifest.weights["origin"] == "none" and manifest.details["num_resumed"] == 1


ONE = "phases.finetune.epochs=1"
THEN = "model.image_size=32", "augment.size=null", ONE
NOW = "model.image_size=auto", "augment.size=auto", ONE


@pytest.fixture
def former_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version before `auto` had 32 in the model's file, and trained on images as large as it predicted."""
    monkeypatch.setitem(begun._FORMER_SIZES, "test_resnet", 32)


@pytest.mark.slow
def test_a_begun_run_keeps_the_sizes_that_auto_meant(
    store: Store, configure: Callable[..., RunConfig], former_size: None
) -> None:
    then, now = configure(*THEN), configure(*NOW)
    train_and_store(store, resolve_run(store, then, "a"), run="a", fold=0)
    assert resolve_run(store, now, "a").config.hash == store.manifest("a", 0).config_hash
    new = resolve_run(store, now, "b").config
    assert (new.model.image_size, new.augment.size) == (160, 144)  # the network's own, and 0.875 of it
    other = configure("model.image_size=auto", "augment.size=auto", "training.seed=5")
    assert resolve_run(store, other, "a").config.model.image_size == 160  # which the store will refuse
    stop = Stop()
    stop.reason = "the test"  # it stops after its first step
    with pytest.raises(Stopped):
        train_and_store(store, resolve_run(store, then, "c"), run="c", fold=0, stop=stop)
    assert resolve_run(store, now, "c").config.model.image_size == 32  # known from its checkpoint
    asked = configure("model.image_size=64", "augment.size=auto", ONE)
    assert resolve_run(store, asked, "a").config.model.image_size == 64
    train_and_store(store, resolve_run(store, asked, "d"), run="d", fold=0)
    assert resolve_run(store, now, "d").config.hash == new.hash  # 64 was asked for: `auto` never meant it


@pytest.mark.slow
def test_folds_that_begin_again_take_the_present_sizes(
    store: Store, configure: Callable[..., RunConfig], former_size: None
) -> None:
    then, now = configure(*THEN), configure(*NOW)
    for fold in (0, 1):
        train_and_store(store, resolve_run(store, then, "a"), run="a", fold=fold)
    old, new = store.manifest("a", 0).config_hash, resolve_run(store, now, "b").config.hash
    assert resolve_run(store, now, "a", retrained=[0]).config.hash == old  # as the other fold
    begin_again(store, "a", [0], config_hash=old, stop=Stop())
    assert resolve_run(store, now, "a").config.hash == old
    assert resolve_run(store, now, "a", retrained=range(3)).config.hash == new
    for marked in (new, ANY_CONFIG):  # a grid marks them, and its jobs resolve again
        begin_again(store, "a", range(3), config_hash=marked, stop=Stop())
        assert resolve_run(store, now, "a").config.hash == new
        assert not is_done(store, "a", 0, new)


@pytest.mark.slow
def test_a_begun_student_keeps_them_too(
    store: Store, configure: Callable[..., RunConfig], write_run: Callable[..., None], former_size: None
) -> None:
    write_run("teacher")
    then, now = (configure("pseudo.teachers=[teacher]", *settings) for settings in (THEN, NOW))
    train_and_store(store, resolve_run(store, then, "a"), run="a", fold=0)
    assert resolve_run(store, now, "a").config.hash == store.manifest("a", 0).config_hash
