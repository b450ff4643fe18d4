"""Averages of a network's weights: over steps (EMA), over a phase's last epochs (soup), with its start.

None of them chooses by a score, so nothing leaks. They apply in this order: EMA, then soup, then
interpolation towards the start.
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
    """Exponential moving average of a network; the decay warms up, so that short runs forget the start.

    Attributes:
        network: A copy of the network that holds the average.
    """

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

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self._steps = state["steps"]


def copy_state(network: Network) -> StateDict:
    """A copy of a network's tensors in CPU memory."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in network.state_dict().items()}


@torch.no_grad()
def average(
    network: Network,
    others: Sequence[StateDict],
    share: float,
    *,
    loader: Loader,
    epoch: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Average a network with earlier states of it, in place.

    A tensor that is equal in all of them keeps its bytes. Averaged BatchNorm statistics do not fit averaged
    weights (Izmailov et al. 2018): statistics that moved are measured again.

    Args:
        others: States of the same network.
        share: Weight of each of them; the rest is the network's own.
        loader: Augmented training images for BatchNorm; not read if no statistics moved.
        epoch: Epoch of the loader's augmentation.
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
    """Measure mean and variance over an epoch of images, with the rest of the network in eval mode."""
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
