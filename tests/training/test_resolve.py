"""A config resolved for a card that is not here: its precision, and what is said of it."""

from types import SimpleNamespace

import pytest
import torch

from distracted.config import load_config
from distracted.errors import ConfigError
from distracted.inference import device as device_module
from distracted.schema import TrainPhase
from distracted.training.resolve import Resolved, resolve

CUDA = torch.device("cuda")
T4 = SimpleNamespace(name="Tesla T4", major=7, minor=5, total_memory=15_843_721_216)


@pytest.fixture(autouse=True)
def four_cores_and_a_t4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: T4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(device_module, "usable_cores", lambda: 4)


def resolve_on_it(model: str, *overrides: str) -> Resolved:
    config = load_config(model=model, data="sample", overrides=["model.weights=none", *overrides])
    return resolve(config, num_folds=5, device=CUDA)


def test_the_precision_follows_the_card_and_the_model() -> None:
    assert resolve_on_it("resnet50").precision == "fp16"
    assert resolve_on_it("dinov3_base").precision == "fp32"
    with pytest.raises(
        ConfigError, match=r"training\.precision=bf16: .*capability 7\.5\) has no bf16.*or fp32"
    ):
        resolve_on_it("dinov3_base", "training.precision=bf16")
    with pytest.raises(ConfigError, match=r"training\.precision=fp16: .*dinov3.* exceed what fp16 can hold"):
        resolve_on_it("dinov3_base", "training.precision=fp16")


def test_a_training_is_described_in_one_line() -> None:
    resolved = resolve_on_it("resnet50", "training.batch_size=32")
    assert resolved.describe() == "on cuda:0 (Tesla T4, 15 GB), fp16, 4 loader workers, batches of 32"
    team = "on cuda:0 (Tesla T4, 15 GB), fp16, 2 loader workers, batches of 32, 2 processes with a part each"
    assert resolved.describe(2) == team


def resolve_on_cpu(*overrides: str) -> Resolved:
    config = load_config(model="resnet50", data="sample", overrides=["model.weights=none", *overrides])
    return resolve(config, num_folds=5, device=torch.device("cpu"))


@pytest.mark.parametrize(("optimizer", "factor"), [("sgd", 4.0), ("adamw", 2.0), ("rmsprop", 2.0)])
def test_rates_scale_with_the_batch(optimizer: str, factor: float) -> None:
    scratch = f"phases.scratch.optimizer={optimizer}", "phases.scratch.head_lr=0.01"
    plain = resolve_on_cpu(*scratch).config.phases["scratch"]
    scaled = resolve_on_cpu(*scratch, "training.batch_size=64", "training.rates_for=16").config
    phase = scaled.phases["scratch"]
    assert isinstance(plain, TrainPhase) and isinstance(phase, TrainPhase)
    assert phase.lr == pytest.approx(plain.lr * factor)
    assert phase.head_lr == pytest.approx(0.01 * factor)
    named = f"phases.scratch.lr={phase.lr!r}", f"phases.scratch.head_lr={phase.head_lr!r}"
    assert resolve_on_cpu(scratch[0], *named, "training.batch_size=64").config.hash == scaled.hash


@pytest.mark.parametrize(("size", "resolved"), [("0.8", 104), ("96", 96), ("null", None)])
def test_a_share_of_the_size_becomes_pixels(size: str, resolved: int | None) -> None:
    settings = ["model.weights=none", "model.image_size=128", f"augment.size={size}"]
    config = load_config(model="resnet50", data="sample", overrides=settings)
    assert resolve(config, num_folds=3).config.augment.size == resolved


def test_a_network_of_one_size_trains_at_it(caplog: pytest.LogCaptureFixture) -> None:
    settings = ["model.weights=none", "model.backbone=test_vit"]
    share = load_config(model="resnet50", data="sample", overrides=[*settings, "augment.size=0.8"])
    assert resolve(share, num_folds=3).config.augment.size is None
    pixels = load_config(model="resnet50", data="sample", overrides=[*settings, "augment.size=96"])
    with pytest.raises(
        ConfigError, match=r"augment\.size=96: test_vit takes images of one size only, 160 pixels"
    ):
        resolve(pixels, num_folds=3)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (["model.image_size=auto"], 192),
        (["model.image_size=224"], None),
        (["model.image_size=auto", "model.backbone=test_vit"], None),
        (["model.image_size=auto", "model.backbone=mlp"], None),
        (["model.image_size=auto", "model.head.pooling=flatten"], None),
        (["model.image_size=auto", "augment.size=null"], None),
    ],
)
def test_training_is_smaller_where_nobody_chose_a_size(settings: list[str], size: int | None) -> None:
    config = load_config(model="resnet50", data="sample", overrides=["model.weights=none", *settings])
    assert resolve(config, num_folds=3).config.augment.size == size


def test_training_pictures_are_large_enough_for_the_larger_size() -> None:
    for size, short_side in ((128, 183), (320, 366)):
        settings = ["model.weights=none", "model.image_size=160", f"augment.size={size}"]
        config = load_config(model="resnet50", data="sample", overrides=settings)
        assert resolve(config, num_folds=3).config.augment.short_side == short_side


def test_a_flattened_map_takes_one_size() -> None:
    settings = ["model.weights=none", "model.head.pooling=flatten", "augment.size=96"]
    config = load_config(model="resnet50", data="sample", overrides=settings)
    with pytest.raises(
        ConfigError, match=r"augment\.size=96: model\.head\.pooling=flatten takes images of one"
    ):
        resolve(config, num_folds=3)


def test_rates_for_the_same_batch_change_no_hash() -> None:
    batch_size = resolve_on_cpu().config.training.batch_size
    assert resolve_on_cpu(f"training.rates_for={batch_size}").config.hash == resolve_on_cpu().config.hash
