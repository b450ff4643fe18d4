"""Schedules and parameter groups."""

from copy import deepcopy

import pytest
import torch

from distracted.models.network import Network
from distracted.schema import TrainPhase
from distracted.training.optim import OPTIMIZERS, load_optimizer, make_optimizer, make_scheduler


def phase(**settings: object) -> TrainPhase:
    return TrainPhase.model_validate({"kind": "train", "epochs": 1, "unfreeze": "all", "lr": 0.1, **settings})


def rates(num_steps: int, **settings: object) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = make_scheduler(optimizer, phase(**settings), num_steps, lambda: 1.0)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_rates_rise_during_warmup_and_end_at_a_hundredth(schedule: str) -> None:
    values = rates(100, schedule=schedule, warmup=0.25)
    top = values.index(max(values))
    assert max(values) == pytest.approx(0.1) and top == 25
    assert values[:top] == sorted(values[:top]) and values[top:] == sorted(values[top:], reverse=True)
    assert values[-1] == pytest.approx(0.001)


def test_the_constant_schedule_keeps_the_rate() -> None:
    assert rates(5, schedule="constant") == [0.1] * 5


def test_a_schedule_of_one_step_has_the_full_rate() -> None:
    assert rates(1, schedule="one_cycle", warmup=0.25) == [0.1]


def test_base_and_head_have_own_rates_and_vectors_are_not_decayed(network: Network) -> None:
    optimizer = make_optimizer(network, phase(head_lr=0.5, weight_decay=0.02))
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    for name, parameter in network.named_parameters():
        lr = 0.5 if name.startswith("head.") else 0.1
        assert settings[id(parameter)] == (lr, 0.02 if parameter.ndim > 1 else 0.0), name


def stepped(network: Network, optimizer_name: str, *factors: float) -> list[torch.Tensor]:
    """A copy's parameters after scaled steps with gradients of these values."""
    network = deepcopy(network)
    optimizer = make_optimizer(network, phase(optimizer=optimizer_name))
    scaler = torch.amp.GradScaler("cpu")
    for factor in factors:
        for number, parameter in enumerate(network.parameters()):
            parameter.grad = torch.full_like(parameter, factor * (number + 1))
        scaler.scale(torch.zeros(()))  # creates the scale
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        scaler.update(65536.0)
    return list(network.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_first_step_that_the_gradient_scaler_skips_leaves_no_trace(
    network: Network, optimizer: str
) -> None:
    """In fp16 the first gradients often overflow; torch's fused SGD then has random momentum."""
    expected = stepped(network, optimizer, 1.0, 2.0)
    skipped = stepped(network, optimizer, float("inf"), 1.0, 2.0)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(skipped, expected, strict=True))


def test_momentum_that_an_earlier_versions_checkpoint_lacks_begins_at_zero(network: Network) -> None:
    optimizer = make_optimizer(network, phase(optimizer="sgd"))
    state = optimizer.state_dict()
    state["state"] = {}
    load_optimizer(optimizer, state)
    for parameter in network.parameters():
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], torch.zeros_like(parameter))
