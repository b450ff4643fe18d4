"""Training one fold of the tiny competition: it learns, repeats byte by byte, and stops on errors."""

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from conftest import TINY, Train
from distracted.config import load_config
from distracted.data.augment import Augmenter
from distracted.data.folds import split_holdout
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files, Images
from distracted.errors import ConfigError, DataError, ImageError, TrainingError
from distracted.inference.predict import predict_log_probs
from distracted.metrics import log_loss
from distracted.models.network import build_network
from distracted.predictions.store import Store
from distracted.progress import silent
from distracted.schema import DataConfig, RunConfig, TrainPhase
from distracted.training.context import FoldContext
from distracted.training.feed import Feed
from distracted.training.loop import train_fold
from distracted.training.metrics_log import FileTracker
from distracted.training.resolve import resolve

pytestmark = pytest.mark.slow


def test_it_learns_an_easy_task(train: Train, store: Store) -> None:
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


def test_the_number_of_workers_changes_no_byte(train: Train) -> None:
    none, two = (train(f"runtime.num_workers={number}") for number in (0, 2))
    assert none.valid.tobytes() == two.valid.tobytes()
    assert none.test.tobytes() == two.test.tobytes()


def test_the_batch_size_of_prediction_changes_only_rounding(train: Train) -> None:
    """On a CPU `auto` is that of the config, which runs of earlier versions may have set."""
    one, many = (train(f"runtime.prediction_batch_size={number}") for number in (1, 40))
    np.testing.assert_allclose(one.test, many.test, atol=1e-5)
    earlier = train("inference.batch_size=1")
    assert earlier.test.tobytes() == one.test.tobytes()


def test_a_cache_of_decoded_pictures_changes_no_byte(train: Train, tmp_path: Path) -> None:
    overrides = "augment.policy=heavy", "augment.short_side=12"
    cached, uncached = (train(*overrides, f"runtime.cache_gb={limit}") for limit in ("auto", 0))
    assert len(list((tmp_path / "cache/pictures").glob("*.u8"))) == 3  # training, held-out and test images
    assert cached.test.tobytes() == uncached.test.tobytes()
    whole = train("augment.policy=heavy", "augment.short_side=null")
    assert whole.test.tobytes() != cached.test.tobytes()


def test_the_same_seed_repeats_and_another_does_not(train: Train) -> None:
    first, again, other = train(), train(), train("training.seed=1")
    assert first.valid.tobytes() == again.valid.tobytes()
    assert first.valid.tobytes() != other.valid.tobytes()


def test_validating_every_epoch_changes_no_prediction(train: Train) -> None:
    validated, blind = (
        train(f"runtime.validate_every_epoch={value}", "phases.scratch.epochs=2") for value in (True, False)
    )
    assert validated.test.tobytes() == blind.test.tobytes()


def test_labels_of_the_held_out_side_are_never_used(train: Train, store: Store) -> None:
    before = train()
    rows = store.folds.valid(0)
    store.folds.table.loc[rows, "label"] = (store.folds.table.loc[rows, "label"] + 1) % 3
    after = train()
    assert before.valid.tobytes() == after.valid.tobytes()
    assert before.scores != after.scores


@pytest.mark.parametrize("addition", ["augment.size=24", "training.sampling=classes"])
def test_no_addition_uses_labels_of_the_held_out_side(
    train: Train, store: Store, weights: Path, addition: str
) -> None:
    """Each changes what is learned, and other labels of the scored fold change no byte."""
    settings = (f"model.weights={weights}", "phases.finetune.epochs=1")
    without, before = train(*settings), train(*settings, addition)
    rows = store.folds.valid(0)
    store.folds.table.loc[rows, "label"] = (store.folds.table.loc[rows, "label"] + 1) % 3
    after = train(*settings, addition)
    assert before.valid.tobytes() == after.valid.tobytes() and before.test.tobytes() == after.test.tobytes()
    assert before.valid.tobytes() != without.valid.tobytes()


def test_metrics_are_logged_by_epoch_and_by_step(train: Train, tmp_path: Path) -> None:
    result = train("phases.scratch.epochs=2")
    lines = [json.loads(line) for line in (tmp_path / "scratch/metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "train/epoch_loss" in line]
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert {"phase", "step", "valid/log_loss"} <= set(epochs[0])
    steps = [line for line in lines if "train/loss" in line]
    assert {"phase", "train/lr", "train/grad_norm", "train/images_per_second"} <= set(steps[0])
    assert [line["step"] for line in steps] == [3, 6]  # 36 images in batches of 16
    assert epochs[0]["train/epoch_loss"] == pytest.approx(steps[0]["train/loss"])
    assert lines[-1]["summary"]["valid/log_loss"] == result.scores["valid/log_loss"]


def test_an_earlier_folds_network_is_gone_when_the_next_begins(train: Train) -> None:
    """On a GPU it would take memory; its owners refer to each other, so that only the collector finds it."""
    gc.disable()
    try:
        earlier = weakref.ref(train(fold=0).network)
        train(fold=1)
        assert earlier() is None
    finally:
        gc.enable()


def test_a_loss_that_is_not_finite_is_an_error_with_step_and_rate(train: Train) -> None:
    overrides = (
        "phases.scratch.optimizer=sgd",
        "phases.scratch.lr=1e30",
        "training.grad_clip=0",
        "phases.scratch.epochs=4",
    )
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ \(learning rate about"):
        train(*overrides)


def test_an_unreadable_image_is_an_error_with_its_path(train: Train, store: Store) -> None:
    path = store.competition.train_paths()[int(store.folds.train(0)[0])]
    data = path.read_bytes()
    path.write_bytes(data[:200])
    with pytest.raises(DataError, match=f"{path}: the file has changed"):
        train()
    path.unlink()
    with pytest.raises(ImageError, match=f"{path}: cannot be read"):
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
    """A file of backbone weights in the role of pretrained ones."""
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
    epochs = [line for line in lines if "epoch" in line]
    assert [line["phase"] for line in epochs] == ["features", "finetune"]
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


def test_a_resolved_config_holds_no_auto_and_its_hash_covers_the_weights(
    configure: Callable[..., RunConfig], weights: Path
) -> None:
    random, pretrained = (
        resolve(configure(f"model.weights={given}"), num_folds=3).config
        for given in ("auto_or_none", weights)
    )
    assert "auto" not in json.dumps(random.resolved())
    assert list(random.phases) == ["scratch"] and list(pretrained.phases) == ["features", "finetune"]
    assert pretrained.model.weights == "file:weights.pth" and pretrained.model.weights_sha256
    assert str(weights.parent) not in json.dumps(pretrained.resolved())
    assert random.hash == resolve(configure("model.weights=none"), num_folds=3).config.hash


def test_a_config_without_an_applying_phase_is_refused(configure: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="none of features, finetune applies to random weights"):
        resolve(configure(tiny=[*TINY[:-1], "phases.scratch=null"]), num_folds=3)


def test_an_unknown_block_is_refused_before_anything_is_trained(
    train: Train, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"phases\.finetune\.unfreeze: this backbone has no block 'layer9'"):
        train(f"model.weights={weights}", "phases.finetune.unfreeze.from=layer9")
    assert not (tmp_path / "cache").exists()
    assert (tmp_path / "scratch/metrics.jsonl").read_text() == ""


def test_from_random_weights_nothing_is_frozen(configure: Callable[..., RunConfig]) -> None:
    phase = "phases.polish={kind: train, when: always, epochs: 1, unfreeze: head, lr: 1.0e-3}"
    random = resolve(configure(phase), num_folds=3).config.phases["polish"]
    assert isinstance(random, TrainPhase)
    assert (random.unfreeze, random.freeze, random.batchnorm) == ("all", None, "train")


FEATURES = ("recipe=features", "phases.scratch=null", "phases.features.c=1")
DENSE = ("recipe=features_dense", "phases.scratch=null", "phases.dense.epochs=60", "phases.dense.lr=1e-3")


@pytest.mark.parametrize("recipe", [FEATURES, DENSE])
def test_a_recipe_on_features_learns_and_predicts_like_its_network(
    train: Train, store: Store, weights: Path, recipe: tuple[str, ...]
) -> None:
    tiny = [item for item in TINY if not item.startswith("phases.")]
    result = train(*recipe, f"model.weights={weights}", tiny=tiny)
    labels = store.folds.labels[store.folds.valid(0)]
    assert log_loss(result.valid, labels) < np.log(3) - 0.03
    rows = store.folds.valid(0)
    augmenter = Augmenter((), size=32, crop=0.95, seed=0)
    loader = Loader(Files(store.competition.train_paths()), rows, augmenter, batch_size=8, num_workers=0)
    again = predict_log_probs(result.network, loader, precision="fp32")
    np.testing.assert_allclose(result.valid, again, atol=1e-4)


def test_features_are_computed_once_for_all_folds(train: Train, weights: Path, tmp_path: Path) -> None:
    tiny = [item for item in TINY if not item.startswith("phases.")]
    train(*FEATURES, f"model.weights={weights}", tiny=tiny)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache/features").iterdir()}
    assert len(files) == 2  # of the training images and of the test images
    train(*FEATURES, f"model.weights={weights}", tiny=tiny, fold=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache/features").iterdir()} == files


def test_the_majority_run_predicts_the_training_sides_class_shares(
    store: Store, tmp_path: Path, data: DataConfig
) -> None:
    config = load_config(model="majority", data=str(data.folder), overrides=["runtime.tracking=none"])
    labels = store.folds.labels
    dropped = store.folds.train(0)[labels[store.folds.train(0)] == 2][:4]
    store.folds.table.loc[dropped, "label"] = 0  # uneven shares
    with FileTracker(tmp_path / "scratch") as tracker:
        context = FoldContext(
            resolve(config, num_folds=3),
            0,
            competition=store.competition,
            folds=store.folds,
            cache=tmp_path / "cache",
            tracker=tracker,
        )
        result = train_fold(context)
    shares = np.bincount(store.folds.labels[store.folds.train(0)]) / len(store.folds.train(0))
    np.testing.assert_allclose(np.exp(result.valid), np.tile(shares, (len(result.valid), 1)), atol=2e-3)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_baselines_learn(train: Train, model: str, store: Store) -> None:
    result = train(
        "model.image_size=32",
        "runtime.tracking=none",
        "phases.scratch.epochs=30",
        "augment.policy=none",
        model=model,
        tiny=(),
    )
    assert log_loss(result.valid, store.folds.labels[store.folds.valid(0)]) < np.log(3) - 0.1


WATCHING = ("training.holdout=0.25", "phases.scratch.epochs=3", "phases.scratch.keep=best")


def test_the_inner_holdout_is_scored_and_never_trained_on(train: Train, store: Store, tmp_path: Path) -> None:
    before = train("training.holdout=0.25")
    lines = [json.loads(line) for line in (tmp_path / "scratch/metrics.jsonl").read_text().splitlines()]
    epoch = next(line for line in lines if "epoch" in line)
    assert {"holdout/log_loss", "holdout/auc", "valid/log_loss"} <= set(epoch)
    _, holdout = split_holdout(store.folds, 0, share=0.25, seed=0)
    assert len(holdout)
    store.folds.table.loc[holdout, "label"] = (store.folds.labels[holdout] + 1) % 3
    assert train("training.holdout=0.25").valid.tobytes() == before.valid.tobytes()


def test_early_stopping_uses_no_label_of_the_scored_fold(train: Train, store: Store) -> None:
    before = train(*WATCHING)
    rows = store.folds.valid(0)
    store.folds.table.loc[rows, "label"] = (store.folds.labels[rows] + 1) % 3
    assert train(*WATCHING).valid.tobytes() == before.valid.tobytes()


def test_with_leaky_the_kept_epoch_depends_on_labels_of_the_scored_fold(train: Train, store: Store) -> None:
    """This is the leak that LEAKY=1 admits."""
    settings = ("phases.scratch.epochs=4", "phases.scratch.keep=best", "phases.scratch.lr=0.01")
    before = train(*settings, leaky=True)
    rows = store.folds.valid(0)
    changed = False
    for shift in (1, 2):
        store.folds.table.loc[rows, "label"] = (store.folds.labels[rows] + shift) % 3
        changed = changed or train(*settings, leaky=True).valid.tobytes() != before.valid.tobytes()
    assert changed


TUNED = ("phases.finetune.epochs=1", "augment.policy=none")


def test_tuned_share_interpolates_with_the_network_before_its_base_learned(
    train: Train, weights: Path
) -> None:
    tiny = [item for item in TINY if not item.startswith("phases.")]
    given = f"model.weights={weights}"
    start = train(given, "phases.finetune=null", tiny=tiny).network.state_dict()
    whole = train(given, *TUNED, tiny=tiny)
    tuned = whole.network.state_dict()
    mixed = train(given, *TUNED, "training.tuned_share=0.7", tiny=tiny)
    for name, tensor in mixed.network.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.7 * tuned[name] + 0.3 * start[name], msg=name)
        assert "running" not in name or tensor.equal(start[name])
    assert mixed.valid.tobytes() != whole.valid.tobytes()


def test_tuned_share_needs_a_phase_that_fits_the_head_before_the_base_learns(
    configure: Callable[..., RunConfig], weights: Path
) -> None:
    share = (f"model.weights={weights}", "training.tuned_share=0.7")
    tiny = [item for item in TINY if not item.startswith("phases.")]
    config = resolve(configure(*share, "recipe=tutorial_sgd", tiny=tiny), num_folds=3).config
    assert config.training.tuned_share == 0.7
    with pytest.raises(ConfigError, match=r"tuned_share=0\.7: .*phases\.finetune trains the base at once"):
        resolve(configure(*share, "phases.features=null"), num_folds=3)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [((), "random weights"), (("phases.finetune=null",), "no phase trains the base")],
)
def test_tuned_share_without_an_earlier_network_is_ignored_with_a_reason(
    configure: Callable[..., RunConfig],
    weights: Path,
    caplog: pytest.LogCaptureFixture,
    overrides: tuple[str, ...],
    why: str,
) -> None:
    caplog.set_level("INFO")
    given = (*overrides, *([f"model.weights={weights}"] if overrides else []))
    plain, asked = (
        resolve(configure(*given, *more), num_folds=3).config for more in ((), ("training.tuned_share=0.7",))
    )
    assert asked == plain and asked.hash == plain.hash
    assert f"training.tuned_share=0.7 left out: {why}" in caplog.text


def with_box(config: RunConfig, name: str, box: tuple[float, float, float, float]) -> RunConfig:
    data = config.data.model_copy(update={"regions": config.data.regions | {name: box}})
    return config.model_copy(update={"data": data})


def test_only_regions_that_the_model_uses_enter_the_hash(configure: Callable[..., RunConfig]) -> None:
    used, other = configure("model.regions=[head]"), configure("model.regions=[hands]")
    box = (0.0, 0.0, 0.3, 0.3)
    resolved = resolve(used, num_folds=3).config
    assert list(resolved.data.regions) == ["head"]
    assert resolve(with_box(used, "hands", box), num_folds=3).config.hash == resolved.hash
    assert resolve(with_box(used, "head", box), num_folds=3).config.hash != resolved.hash
    assert resolve(other, num_folds=3).config.hash != resolved.hash
    assert resolve(configure(), num_folds=3).config.data.regions == {}


def test_another_box_gets_its_own_cached_features(
    configure: Callable[..., RunConfig], store: Store, weights: Path, tmp_path: Path
) -> None:
    config = configure(f"model.weights={weights}", "model.regions=[head,hands]")
    by_box = []
    for box in ((0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 0.6), (0.0, 0.0, 0.5, 0.5)):
        resolved = resolve(with_box(config, "hands", box), num_folds=3)
        network = build_network(resolved.config.model, resolved.weights, num_classes=3)
        features = Feed(resolved, tmp_path, silent).features(network, Images.to_train(store.competition))
        by_box.append(np.array_split(np.array(features), 3, axis=1))
    assert len(list((tmp_path / "features").iterdir())) == 2
    for part in range(3):
        same = part < 2  # the whole image and the head; the hands differ
        assert np.array_equal(by_box[0][part], by_box[1][part]) is same
        assert np.array_equal(by_box[0][part], by_box[2][part])


def test_regions_soup_tuned_share_and_ema_work_together(train: Train, store: Store, weights: Path) -> None:
    overrides = (
        f"model.weights={weights}",
        "model.regions=[head,hands]",
        "phases.finetune={epochs: 2, soup: 2}",
        "training.tuned_share=0.8",
        "training.ema=0.5",
    )
    result, again = train(*overrides), train(*overrides)
    assert result.valid.tobytes() == again.valid.tobytes() and result.test.tobytes() == again.test.tobytes()
    assert result.valid.shape == (len(store.folds.valid(0)), 3)
    assert result.test.shape == (len(store.competition.test), 3)
    assert np.isfinite(result.valid).all() and np.isfinite(result.test).all()
    assert result.network.head.classifier.in_features == 3 * 96


def test_a_soup_from_random_weights_differs_from_the_last_epoch(train: Train) -> None:
    settings = ("phases.scratch.epochs=3", "model.regions=[hands]")
    soup, last = train(*settings, "phases.scratch.soup=3"), train(*settings)
    assert np.isfinite(soup.valid).all() and soup.valid.tobytes() != last.valid.tobytes()
