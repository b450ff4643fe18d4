"""`make advise`: backbones are ranked by a probe on unseen subjects, and the case names a recipe."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from distracted.config import load_config
from distracted.errors import ConfigError
from distracted.predictions.store import Store
from distracted.schema import DataConfig
from distracted.training.advise import LARGE, SIMILAR, SOLVED, Advice, advise, find_case
from distracted.training.resolve import Resolved, resolve


@pytest.fixture
def resolved(data: DataConfig, tmp_path: Path) -> dict[str, Resolved]:
    """Resolved configs of two backbones with weights and one without."""
    resolved = {}
    for number, backbone in enumerate(["test_resnet", "test_efficientnet", "test_convnext"]):
        torch.manual_seed(number)
        path = tmp_path / f"{backbone}.pth"
        torch.save(timm.create_model(backbone).state_dict(), path)
        weights = "none" if backbone == "test_convnext" else str(path)
        overrides = [f"model.backbone={backbone}", "model.image_size=32", f"model.weights={weights}"]
        config = load_config(model="resnet50", data=str(data.folder), overrides=overrides)
        resolved[backbone] = resolve(config, num_folds=3)
    return resolved


def advice_on(store: Store, resolved: dict[str, Resolved], cache: Path) -> Advice:
    return advise(resolved, competition=store.competition, folds=store.folds, cache=cache)


def test_backbones_with_weights_are_listed_best_first(
    store: Store, resolved: dict[str, Resolved], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    advice = advice_on(store, resolved, tmp_path / "cache")
    assert {one.model for one in advice.measured} == {"test_resnet", "test_efficientnet"}
    assert "test_convnext: left out, it has no pretrained weights here" in caplog.text
    losses = [one.log_loss for one in advice.measured]
    assert losses == sorted(losses) and advice.model == advice.measured[0].model
    assert advice.measured[0].above == 0 < advice.measured[1].above
    assert (advice.size.images, advice.size.subjects, advice.size.images_a_class) == (54, 6, 18)
    assert advice.chance == pytest.approx(1 / 3) and advice.prior == pytest.approx(np.log(3), abs=0.01)
    assert advice.measured[0].skill == pytest.approx(1 - losses[0] / advice.prior)


def test_a_second_call_takes_the_features_from_the_cache(
    store: Store, resolved: dict[str, Resolved], tmp_path: Path
) -> None:
    first = advice_on(store, resolved, tmp_path / "cache")
    files = sorted((tmp_path / "cache/features").iterdir())
    again = advice_on(store, resolved, tmp_path / "cache")
    assert sorted((tmp_path / "cache/features").iterdir()) == files
    assert [replace(one, seconds=0) for one in again.measured] == [
        replace(one, seconds=0) for one in first.measured
    ]


def test_without_pretrained_weights_there_is_no_advice(
    store: Store, resolved: dict[str, Resolved], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="none of test_convnext has pretrained weights here"):
        advice_on(store, {"test_convnext": resolved["test_convnext"]}, tmp_path)


def test_the_case_follows_from_size_and_similarity() -> None:
    cases = [find_case(large=large, skill=skill) for large in (False, True) for skill in (SIMILAR, 0.3)]
    assert [case.name for case in cases] == [
        "small and similar to ImageNet",
        "small and unlike ImageNet",
        "large and similar to ImageNet",
        "large and unlike ImageNet",
    ]
    assert find_case(large=True, skill=SOLVED).recipe == "features"
    assert LARGE > 1
