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
from distracted.training.advise import (
    CASES,
    LARGE,
    SIMILAR,
    SOLVED,
    SOLVED_CASE,
    Advice,
    advise,
    find_case,
)
from distracted.training.advise_settings import with_even_classes
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


def test_settings_of_the_best_backbone_are_measured_by_the_same_probe(
    store: Store, resolved: dict[str, Resolved], tmp_path: Path
) -> None:
    advice = advice_on(store, resolved, tmp_path / "cache")
    first = advice.measured[0]
    larger, views, classes = advice.settings
    assert larger.overrides == ("model.image_size=64", "augment.size=0.875") and views.views == "scales"
    for setting in advice.settings:
        assert setting.gain == pytest.approx(first.log_loss - setting.log_loss)
    assert larger.gain != 0 != views.gain
    assert classes.gain == pytest.approx(0, abs=1e-9) and not classes.pays  # classes are equally frequent


@pytest.mark.slow
def test_a_size_that_the_network_refuses_is_left_out(
    store: Store, resolved: dict[str, Resolved], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "crossvit.pth"
    torch.save(timm.create_model("crossvit_tiny_240").state_dict(), path)
    overrides = ["model.backbone=crossvit_tiny_240", f"model.weights={path}"]
    config = load_config(model="resnet50", data=str(store.competition.config.folder), overrides=overrides)
    advice = advice_on(store, {"crossvit": resolve(config, num_folds=3)}, tmp_path / "cache")
    assert "images of 352 pixels: left out; model.image_size=352: crossvit_tiny_240 does not" in caplog.text
    assert [bool(setting.views) for setting in advice.settings] == [True, False]


def test_what_pays_is_advised(store: Store, resolved: dict[str, Resolved], tmp_path: Path) -> None:
    advice = advice_on(store, resolved, tmp_path / "cache")
    larger, views, classes = (
        replace(setting, log_loss=0.5, gain=0.2, error=0.1, views=setting.views)
        for setting in advice.settings
    )
    advice = replace(advice, settings=(larger, views, classes), case=CASES[False, False])
    sizes = ["model.image_size=64", "augment.size=0.875"]
    assert advice.overrides == ["recipe=freeze_first_k", *sizes, "training.sampling=classes"]
    assert advice.views == ["scales"]
    assert replace(advice, case=SOLVED_CASE).overrides == ["recipe=features", sizes[0]]
    unsure = replace(larger, error=0.3), replace(classes, gain=0.004, error=0.001)
    assert replace(advice, settings=unsure).overrides == ["recipe=freeze_first_k"]


def test_predictions_are_freed_of_the_training_sides_class_shares(store: Store) -> None:
    """Fold by fold: what a model predicts that knows the shares alone becomes equal for all classes."""
    merged = store.folds.table["label"].replace(2, 0)
    folds = replace(store.folds, table=store.folds.table.assign(label=merged))
    log_probs = np.zeros((len(folds.labels), 2))
    for fold in range(folds.num_folds):
        log_probs[folds.valid(fold)] = np.log(np.bincount(folds.labels[folds.train(fold)]))
    assert with_even_classes(log_probs, folds) == pytest.approx(np.log(np.full_like(log_probs, 0.5)))
    always_trained = folds.table["fold"].where(folds.table["fold"] != 1, -1).replace(2, 1)
    fewer = replace(folds, table=folds.table.assign(fold=always_trained))
    unscored = np.where(fewer.ids[:, None] < 0, np.nan, log_probs)  # no warning, which would be an error
    assert np.isnan(with_even_classes(unscored, fewer)).any(axis=1).tolist() == (fewer.ids < 0).tolist()


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
