"""One step: in parts where memory does not suffice, and what each process of a team adds to it."""

import logging
from collections.abc import Callable

import pytest
import torch

from distracted.errors import TrainingError
from distracted.models.network import Network
from distracted.schema import TrainingConfig, TrainPhase
from distracted.training.averaging import copy_state
from distracted.training.stepper import Stepper

CPU = torch.device("cpu")
TRAINING = TrainingConfig(
    seed=0, batch_size=9, num_folds=3, holdout=0.0, leaky=False, ema=0.0, grad_clip=1.0, precision="fp32"
)
PHASE = TrainPhase.model_validate(
    {"kind": "train", "epochs": 1, "unfreeze": "all", "lr": 0.1, "optimizer": "sgd"}
)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return images, torch.arange(9) % 3


@pytest.fixture
def small_memory(network: Network, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """A device with room for so many images at a time; returns the sizes that fitted."""

    def limit(most: int) -> list[int]:
        fitted: list[int] = []
        whole = Network.weighted_logits

        def limited(self: Network, images: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
            if len(images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            fitted.append(len(images))
            return whole(self, images)

        monkeypatch.setattr(Network, "weighted_logits", limited)
        return fitted

    return limit


def make_stepper(network: Network) -> Stepper:
    network.head.eval()
    stepper = Stepper(network, PHASE, TRAINING, num_steps=10, device=CPU, precision="fp32", share=lambda: 1.0)
    stepper.prepare()
    network.head.dropout.p = 0.0
    return stepper


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_in_parts_is_the_same_step(
    network: Network,
    batch: tuple[torch.Tensor, torch.Tensor],
    small_memory: Callable[[int], list[int]],
    caplog: pytest.LogCaptureFixture,
    weighted: bool,
) -> None:
    images, aims = batch
    weights = torch.linspace(0.5, 1.5, 9) if weighted else None
    start = copy_state(network)
    stepper = make_stepper(network)
    whole = stepper(images, aims, weights, num_images=9)
    expected = copy_state(network)
    network.load_state_dict(start)
    fitted = small_memory(4)
    stepper = make_stepper(network)
    with caplog.at_level(logging.WARNING):
        in_parts = stepper(images, aims, weights, num_images=9)
    assert stepper.num_parts == 4 and fitted == [4, 2, 2, 2, 3]  # the second of two was one too large
    assert "each batch of 9 is computed in 4 parts" in caplog.text
    torch.testing.assert_close(in_parts, whole)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    caplog.clear()
    stepper(images, aims, weights, num_images=9)
    assert fitted[5:] == [2, 2, 2, 3] and not caplog.records  # it is remembered ...
    again = make_stepper(network)
    again.load(stepper.state())
    assert again.num_parts == 4  # ... also by a training that goes on


def test_memory_that_does_not_suffice_for_one_image_is_an_error(
    network: Network, batch: tuple[torch.Tensor, torch.Tensor], small_memory: Callable[[int], list[int]]
) -> None:
    small_memory(0)
    with pytest.raises(TrainingError, match=r"does not suffice for 1 images at a time; .* model.image_size"):
        make_stepper(network)(*batch, None, num_images=9)


def test_parts_of_a_team_add_up_to_the_batch(
    network: Network, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """What two processes would compute of one batch, here one after the other: the losses add up."""
    images, aims = batch
    start = copy_state(network)
    whole = make_stepper(network)(images, aims, None, num_images=9)
    shares = []
    for part in (slice(0, 5), slice(5, 9)):
        network.load_state_dict(start)
        shares.append(make_stepper(network)(images[part], aims[part], None, num_images=9)[0])
    torch.testing.assert_close(sum(shares), whole[0])
