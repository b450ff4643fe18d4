"""Averages of a network's weights: over steps, over the last epochs of a phase, with what it began as.

None of them chooses by a score, so that nothing leaks. They add up: the moving average is what a phase
trains towards, its epochs' ends are what is averaged, and the result is what goes back towards the start.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from distracted.data.loading import Loader
from distracted.inference.device import Precision, autocast, prefetch
from distracted.models.network import Network
from distracted.models.weights import StateDict


class Ema:
    """Moving average of a network's tensors; the decay warms up, so that short runs forget their start."""

    def __init__(self, network: Network, decay: float) -> None:
        self.network = deepcopy(network)
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        floating = [(average, value) for average, value in pairs if average.is_floating_point()]
        torch._foreach_lerp_(
            [average for average, _ in floating], [value for _, value in floating], 1 - decay
        )
        for average, value in pairs:
            if not average.is_floating_point():  # BatchNorm's counters
                average.copy_(value)

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        return {"network": self.network.state_dict(), "steps": self._steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        self._steps = state["steps"]


def copy_state(network: Network) -> StateDict:
    """A copy of a network's tensors in the CPU's memory, of which there is more."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in network.state_dict().items()}


@torch.no_grad()
def average(
    network: Network,
    others: Sequence[StateDict],
    *,
    share: float,
    loader: Loader,
    epoch: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Make a network the weighted mean of itself and of earlier states of it, in place.

    A tensor that is the same in all of them keeps its bytes. BatchNorm's statistics under averaged weights
    are not the average of the statistics (Izmailov et al. 2018): where they moved, they are measured anew.

    Args:
        others: States of the same network.
        share: The weight of each of them; the rest is the network's own.
        loader: Augmented training images for BatchNorm; untouched where no statistics moved.
        epoch: Whose augmentation it is.
    """
    norms = [norm for name, norm in _norms(network) if any(_moved(norm, name, state) for state in others)]
    mean = network.state_dict()
    for name, own in mean.items():
        if own.is_floating_point():  # not BatchNorm's counters
            mean[name] = own + sum(share * (state[name].to(own.device) - own) for state in others)
    network.load_state_dict(mean)
    if norms:
        _measure_statistics(network, norms, loader, epoch, device, precision)


def _norms(network: Network) -> list[tuple[str, _BatchNorm]]:
    modules = network.trunk.named_modules(prefix="trunk")
    return [(name, m) for name, m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _moved(norm: _BatchNorm, name: str, state: StateDict) -> bool:
    assert norm.running_mean is not None
    return not norm.running_mean.cpu().equal(state[f"{name}.running_mean"])


def _measure_statistics(
    network: Network,
    norms: Sequence[_BatchNorm],
    loader: Loader,
    epoch: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Mean and variance over a pass of images, the rest of the network as it predicts."""
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    for batch in prefetch(loader.epoch(epoch), device):
        with autocast(device, precision):
            network(batch.images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
