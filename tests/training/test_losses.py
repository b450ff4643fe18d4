"""Every loss of the table: known answers, soft and hard targets, weights, and a whole training."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conftest import Train
from distracted.errors import ConfigError
from distracted.schema import RunConfig, TrainingConfig
from distracted.training.losses import LOSSES, Options, class_weights, make_criterion
from distracted.training.resolve import resolve

CPU = torch.device("cpu")
LABELS = np.array([0, 0, 0, 1, 1, 2])


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def configured(**settings: object) -> TrainingConfig:
    base = {
        "seed": 0,
        "batch_size": 9,
        "num_folds": 3,
        "holdout": 0.0,
        "leaky": False,
        "ema": 0.0,
        "grad_clip": 1.0,
        "precision": "fp32",
    }
    return TrainingConfig.model_validate(base | settings)


def criterion(
    **settings: object,
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]:
    return make_criterion(configured(**settings), labels=LABELS, num_classes=3, device=CPU)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0])])
def test_class_ids_and_one_hot_probabilities_give_the_same_loss(
    name: str, smoothing: float, weights: torch.Tensor | None, logits: torch.Tensor
) -> None:
    options = Options(smoothing, weights)
    targets = torch.from_numpy(LABELS)
    one_hot = F.one_hot(targets, 3).float()
    hard, soft = (LOSSES[name](logits, t, options, "none") for t in (targets, one_hot))
    assert hard.shape == (6,) and (hard > 0).all()
    torch.testing.assert_close(hard, soft)


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_reduction_averages_the_losses_of_the_images(name: str, logits: torch.Tensor) -> None:
    targets, options = torch.from_numpy(LABELS), Options(0.1)
    mean, each = (LOSSES[name](logits, targets, options, reduction) for reduction in ("mean", "none"))
    torch.testing.assert_close(mean, each.mean())


def test_the_focal_loss_with_exponent_zero_is_cross_entropy(logits: torch.Tensor) -> None:
    targets = torch.from_numpy(LABELS)
    plain = F.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(LOSSES["focal"](logits, targets, Options(0.1, None, 0.0), "mean"), plain)


def test_focal_loss_of_a_known_probability() -> None:
    logits = torch.tensor([[0.0, 0.0]])
    loss = LOSSES["focal"](logits, torch.tensor([1]), Options(focal_gamma=2.0), "mean")
    assert loss.item() == pytest.approx(0.25 * np.log(2))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_focal_gradient_is_finite_for_a_certain_and_right_prediction(gamma: float) -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    LOSSES["focal"](logits, torch.tensor([0]), Options(focal_gamma=gamma), "mean").backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_binary_cross_entropy_sums_over_the_sigmoids_of_all_classes(logits: torch.Tensor) -> None:
    targets = torch.from_numpy(LABELS)
    one_hot = F.one_hot(targets, 3).float()
    probs = logits.sigmoid()
    expected = -(one_hot * probs.log() + (1 - one_hot) * (1 - probs).log()).sum(1)
    torch.testing.assert_close(LOSSES["binary_cross_entropy"](logits, targets, Options(), "none"), expected)


def test_balanced_weights_follow_scikit_learn_and_average_to_one_over_images() -> None:
    weights = class_weights(configured(class_weights="balanced"), LABELS, 3)
    assert weights is not None
    np.testing.assert_allclose(weights, [6 / 9, 6 / 6, 6 / 3])
    assert weights[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_classes_and_images_multiply(name: str, logits: torch.Tensor) -> None:
    targets, images = torch.from_numpy(LABELS), torch.linspace(0.5, 1.5, 6)
    weighted = criterion(loss=name, class_weights=[1.0, 2.0, 4.0])(logits, targets, images)
    each = LOSSES[name](logits, targets, Options(0.0, torch.tensor([1.0, 2.0, 4.0])), "none")
    torch.testing.assert_close(weighted, (each * images).mean())


def test_the_weighted_loss_of_a_batch_is_the_mean_over_its_halves(logits: torch.Tensor) -> None:
    loss, targets = criterion(class_weights="balanced"), torch.from_numpy(LABELS)
    halves = [loss(logits[rows], targets[rows], None) for rows in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(torch.stack(halves).mean(), loss(logits, targets, None))


def test_invalid_loss_settings_are_refused(configure: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="unknown loss; expected cross_entropy, focal"):
        resolve(configure("training.loss=hinge"), num_folds=3)
    with pytest.raises(ConfigError, match=r"class_weights: got 2 weights for 3 classes"):
        criterion(class_weights=[1.0, 2.0])
    with pytest.raises(ConfigError, match=r"focal_gamma goes with loss=focal, and loss is cross_entropy"):
        configure("training.focal_gamma=1")
    with pytest.raises(ConfigError, match=r"training.class_weights"):
        configure("training.class_weights=[1,-1,1]")


def test_loss_settings_with_their_defaults_do_not_enter_the_hash(configure: Callable[..., RunConfig]) -> None:
    plain, focal = configure(), configure("training.loss=focal")
    assert not {"loss", "class_weights", "focal_gamma"} & set(plain.resolved()["training"])
    assert configure("training.loss=cross_entropy", "training.class_weights=none").hash == plain.hash
    assert focal.resolved()["training"]["loss"] == "focal" and focal.hash != plain.hash


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_on_mixed_images(train: Train, name: str) -> None:
    settings = (f"training.loss={name}", "training.class_weights=balanced", "mixing.mixup.prob=0.5")
    result = train(*settings, "phases.scratch.epochs=2")
    assert np.isfinite(result.valid).all()
    assert result.valid.tobytes() != train("phases.scratch.epochs=2").valid.tobytes()
