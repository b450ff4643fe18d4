"""One fold's training on the tiny competition: it learns, repeats byte by byte, and refuses what it must."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from distracted.config import load_config
from distracted.errors import ConfigError, ImageError, TrainingError
from distracted.metrics import log_loss
from distracted.predictions.store import Store
from distracted.schema import DataConfig, RunConfig
from distracted.training.fold import FoldResult, train_fold
from distracted.training.resolve import settle
from distracted.training.tracking import FileTracker

TINY = (
    "model.backbone=test_resnet",
    "model.weights=none",
    "model.image_size=32",
    "runtime.tracking=none",
    "training.num_folds=3",
    "phases.scratch.epochs=1",
)

Train = Callable[..., FoldResult]


@pytest.fixture
def configure(data: DataConfig) -> Callable[..., RunConfig]:
    def make(*overrides: str, tiny: Sequence[str] = TINY) -> RunConfig:
        return load_config(model="resnet50", data=str(data.folder), overrides=[*tiny, *overrides])

    return make


@pytest.fixture
def train(store: Store, configure: Callable[..., RunConfig], tmp_path: Path) -> Train:
    """Train fold 0 with some overrides; metrics go to tmp_path/scratch."""

    def run(*overrides: str, fold: int = 0, scratch: str = "scratch") -> FoldResult:
        settled = settle(configure(*overrides), num_folds=3)
        with FileTracker(tmp_path / scratch) as tracker:
            return train_fold(
                settled,
                fold,
                competition=store.competition,
                folds=store.folds,
                cache=tmp_path / "cache",
                tracker=tracker,
            )

    return run


def test_it_learns_what_is_easy(train: Train, store: Store) -> None:
    result = train("phases.scratch.epochs=25", "augment.policy=none", "training.batch_size=12")
    labels = store.folds.labels[store.folds.valid(0)]
    assert log_loss(result.valid, labels) < 0.5 < np.log(3)
    assert result.scores["valid/log_loss"] == log_loss(result.valid, labels)


def test_predictions_are_log_probabilities_of_the_right_rows(train: Train, store: Store) -> None:
    result = train()
    assert result.valid.shape == (len(store.folds.valid(0)), 3)
    assert result.test.shape == (len(store.competition.test), 3)
    for log_probs in (result.valid, result.test):
        assert log_probs.dtype == np.float32
        np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-6)


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(train: Train) -> None:
    alone, helped = (train(f"runtime.num_workers={number}") for number in (0, 2))
    assert alone.valid.tobytes() == helped.valid.tobytes()
    assert alone.test.tobytes() == helped.test.tobytes()


def test_the_same_seed_repeats_and_another_does_not(train: Train) -> None:
    first, again, other = train(), train(), train("training.seed=1")
    assert first.valid.tobytes() == again.valid.tobytes()
    assert first.valid.tobytes() != other.valid.tobytes()


def test_looking_at_the_validation_side_changes_nothing(train: Train) -> None:
    looked, blind = (
        train(f"runtime.validate_every_epoch={value}", "phases.scratch.epochs=2") for value in (True, False)
    )
    assert looked.test.tobytes() == blind.test.tobytes()


def test_labels_of_the_held_out_side_are_never_used(train: Train, store: Store) -> None:
    before = train()
    rows = store.folds.valid(0)
    store.folds.table.loc[rows, "label"] = (store.folds.table.loc[rows, "label"] + 1) % 3
    after = train()
    assert before.valid.tobytes() == after.valid.tobytes()
    assert before.scores != after.scores


def test_metrics_are_written_by_epoch(train: Train, tmp_path: Path) -> None:
    result = train("phases.scratch.epochs=2")
    lines = [json.loads(line) for line in (tmp_path / "scratch/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines[:2]] == [1, 2]
    assert {"train/loss", "train/lr", "train/images_per_second", "valid/log_loss", "phase"} <= set(lines[0])
    assert lines[-1]["summary"]["valid/log_loss"] == result.scores["valid/log_loss"]


def test_a_loss_that_is_not_finite_stops_with_step_and_rate(train: Train) -> None:
    overrides = (
        "phases.scratch.optimizer=sgd",
        "phases.scratch.lr=1e30",
        "training.grad_clip=0",
        "phases.scratch.epochs=4",
    )
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ \(learning rate about"):
        train(*overrides)


def test_an_unreadable_image_stops_with_its_path(train: Train, store: Store) -> None:
    path = store.competition.train_paths()[int(store.folds.train(0)[0])]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=str(path)):
        train()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_every_optimizer_and_schedule_trains(train: Train, optimizer: str, schedule: str) -> None:
    overrides = (
        f"phases.scratch.optimizer={optimizer}",
        f"phases.scratch.schedule={schedule}",
        "training.ema=0.9",
    )
    assert np.isfinite(train(*overrides, "phases.scratch.lr=1e-3").valid).all()


def test_bf16_autocast_runs_on_a_cpu(train: Train) -> None:
    result = train("training.precision=bf16")
    np.testing.assert_allclose(np.exp(result.valid).sum(axis=1), 1, atol=1e-6)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of backbone weights, standing for pretrained ones."""
    torch.manual_seed(3)
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


def test_pretrained_weights_go_through_features_then_finetune(
    train: Train, tmp_path: Path, weights: Path
) -> None:
    overrides = (f"model.weights={weights}", "phases.finetune.epochs=1")
    first = train(*overrides)
    lines = [json.loads(line) for line in (tmp_path / "scratch/metrics.jsonl").read_text().splitlines()]
    assert [line.get("phase") for line in lines[:-1]] == ["features", "finetune"]
    assert lines[0]["valid/log_loss"] < np.log(3)
    files = list((tmp_path / "cache/features").iterdir())
    again = train(*overrides, fold=0)
    assert list((tmp_path / "cache/features").iterdir()) == files  # one extraction serves every fold and run
    assert first.valid.tobytes() == again.valid.tobytes()


def test_the_head_phase_leaves_the_base_alone(train: Train, weights: Path) -> None:
    overrides = (
        "recipe=feature_extraction",
        f"model.weights={weights}",
        "phases.head.epochs=2",
        "phases.scratch=null",
    )
    tensors = train(*overrides).network.trunk.state_dict()
    expected = torch.load(weights, weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in tensors.items())


def test_finetuning_with_frozen_batchnorm_keeps_its_statistics(train: Train, weights: Path) -> None:
    trained = train(f"model.weights={weights}", "phases.finetune.epochs=1").network.trunk.state_dict()
    expected = torch.load(weights, weights_only=True)
    moved = {name for name, value in trained.items() if not torch.equal(value, expected[name])}
    assert moved and not any("running" in name for name in moved)


def test_settling_leaves_no_auto_and_hashes_what_it_found(
    configure: Callable[..., RunConfig], weights: Path
) -> None:
    random, pretrained = (
        settle(configure(f"model.weights={origin}"), num_folds=3).config for origin in ("auto", weights)
    )
    assert "auto" not in json.dumps(random.resolved())
    assert list(random.phases) == ["scratch"] and list(pretrained.phases) == ["features", "finetune"]
    assert pretrained.model.weights == "file:weights.pth" and pretrained.model.weights_sha256
    assert str(weights.parent) not in json.dumps(pretrained.resolved())
    assert random.hash == settle(configure("model.weights=none"), num_folds=3).config.hash


def test_no_phase_that_applies_is_an_error(configure: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="none of features, finetune applies to random weights"):
        settle(configure(tiny=[*TINY[:-1], "phases.scratch=null"]), num_folds=3)
