"""Optimisers and learning-rate schedules. A new optimiser: a row of `OPTIMIZERS`, a name in schema/."""

import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from distracted.models.blocks import frozen_layers
from distracted.models.network import Network
from distracted.schema import HeadPhase, OptimizerName, TrainPhase

Groups = list[dict[str, Any]]

_FINAL = 0.01  # one-cycle and cosine end at this share of the rate
_START = 0.04  # a warm-up begins at this share


def block_rates(network: Network, phase: TrainPhase) -> list[float]:
    """The learning rate of each of the network's blocks in a phase, before its schedule; frozen or not.

    From the first block's, `depth_decay` times the last one's, they rise by an equal factor.
    """
    steps = max(1, len(network.blocks) - 1)
    depths = [(steps - number) / steps for number in range(len(network.blocks))]
    return [phase.lr * phase.depth_decay**depth for depth in depths]


def head_rate(phase: TrainPhase) -> float:
    """The learning rate of the heads in a phase, before its schedule."""
    return phase.head_lr if phase.head_lr is not None else phase.lr


def make_optimizer(network: Network, phase: TrainPhase) -> Optimizer:
    """An optimiser over all that learns at some time in a phase; each block and the head has its own rate.

    Norms and biases are not decayed.
    """
    parameters = dict(network.trunk.named_parameters())
    blocks = zip(network.blocks, block_rates(network, phase), strict=True)
    layers = [(layer, rate) for block, rate in blocks for layer in block.layers]
    by_rate: defaultdict[float, list[nn.Parameter]] = defaultdict(list)
    for layer, rate in layers[frozen_layers(network.blocks, phase, done=1.0) :]:
        by_rate[rate] += [parameters[name] for name in layer]
    by_rate[head_rate(phase)] += [*network.head.parameters(), *network.auxiliary.parameters()]
    decay = phase.weight_decay
    groups = [group for rate, chosen in by_rate.items() for group in _groups(chosen, rate, decay)]
    return OPTIMIZERS[phase.optimizer](groups)


def make_head_optimizer(network: Network, phase: HeadPhase) -> Optimizer:
    """An optimiser over the head alone."""
    groups = _groups(list(network.head.parameters()), phase.lr, phase.weight_decay)
    return OPTIMIZERS[phase.optimizer](groups)


def _groups(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Groups:
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    split = ((matrices, weight_decay), (vectors, 0.0))
    return [{"params": chosen, "lr": lr, "weight_decay": decay} for chosen, decay in split if chosen]


def _sgd(groups: Groups) -> Optimizer:
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True)
    _start_momentum(optimizer)
    return optimizer


def _start_momentum(optimizer: torch.optim.SGD) -> None:
    """Give each parameter without momentum one of zero, from which the first step comes out the same.

    The fused SGD creates all momentum in its first step, and leaves it uninitialised if the gradient scaler
    skips that step; and it fails if a parameter gets its first gradient after others (`unfreeze: gradual`).
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


# torch's fused optimisers pass over the weights once a step instead of once an operation: measured on a CPU
# with 20 images of 32 pixels, that takes a quarter off ResNet50's step.
OPTIMIZERS: dict[OptimizerName, Callable[[Groups], Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "sgd": _sgd,
    "rmsprop": torch.optim.RMSprop,
}


def make_scheduler(
    optimizer: Optimizer, phase: TrainPhase, num_steps: int, plateau_factor: Callable[[], float]
) -> LambdaLR:
    """A rate for each step: warm-up over `phase.warmup` of the steps, then as `phase.schedule` says.

    one_cycle warms up and cools down along half cosines, cosine warms up along a line, constant and plateau
    do not cool down by themselves.

    Args:
        plateau_factor: Returns the factor that `plateau` has reduced the rate to; asked at each step.
    """
    warmup = round(phase.warmup * num_steps)

    def factor(step: int) -> float:
        if step < warmup:
            done = (step + 1) / (warmup + 1)
            if phase.schedule == "one_cycle":
                done = (1 - math.cos(math.pi * done)) / 2
            return _START + (1 - _START) * done
        if phase.schedule in ("constant", "plateau"):
            return plateau_factor()
        done = (step - warmup) / max(1, num_steps - warmup - 1)
        return _FINAL + (1 - _FINAL) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    return LambdaLR(optimizer, factor)


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, its moments laid out in memory like their parameters.

    The fused optimisers walk over parameters, gradients and moments in memory order and would mix up
    moments of another layout.
    """
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    if isinstance(optimizer, torch.optim.SGD):  # a checkpoint of an earlier version may lack some
        _start_momentum(optimizer)
