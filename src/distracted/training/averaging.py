"""Averages of a network's weights: over steps (EMA), over a phase's last epochs (soup), with its start.

None of them chooses by a score, so nothing leaks. They apply in this order: EMA, then soup, then
interpolation towards the start.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from distracted.data.loading import Batch
from distracted.inference.device import Precision, autocast, prefetch
from distracted.models.network import Network
from distracted.models.weights import StateDict


class Ema:
    """Exponential moving average of a network; the decay warms up, so that short runs forget the start.

    Args:
        network: Its tensors may change in place only, as training and `load_state_dict` do.

    Attributes:
        network: A copy of the network that holds the average.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = deepcopy(network)
        self._decay = decay
        self._steps = 0
        # Collected once: two state_dicts of a large network take milliseconds, in every step.
        averages, values = list(self.network.state_dict().values()), list(network.state_dict().values())
        self._averages = [tensor for tensor in averages if tensor.is_floating_point()]
        self._values = [tensor for tensor in values if tensor.is_floating_point()]
        self._counters = [tensor for tensor in averages if not tensor.is_floating_point()]  # of BatchNorm
        self._counts = [tensor for tensor in values if not tensor.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the network's present tensors."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)
        if self._counters:
            torch._foreach_copy_(self._counters, self._counts)

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
    batches: Iterable[Batch],
    precision: Precision,
) -> None:
    """Average a network with earlier states of it, in place.

    A tensor that is equal in all of them keeps its bytes. Averaged BatchNorm statistics do not fit averaged
    weights (Izmailov et al. 2018): statistics that moved are measured again.

    Args:
        share: Weight of each of the others; the rest is the network's own.
        batches: Augmented training images for BatchNorm; not read if no statistics moved.
    """
    norms = [norm for name, norm in _norms(network) if any(_moved(norm, name, state) for state in others)]
    mean = network.state_dict()
    for name, own in mean.items():
        if own.is_floating_point():  # not BatchNorm's counters
            mean[name] = own + sum(share * (state[name].to(own.device) - own) for state in others)
    network.load_state_dict(mean)
    if norms:
        _measure_statistics(network, norms, batches, precision)


def _norms(network: Network) -> list[tuple[str, _BatchNorm]]:
    modules = network.trunk.named_modules(prefix="trunk")
    return [(name, m) for name, m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _moved(norm: _BatchNorm, name: str, state: StateDict) -> bool:
    assert norm.running_mean is not None
    return not norm.running_mean.cpu().equal(state[f"{name}.running_mean"])


def _measure_statistics(
    network: Network, norms: Sequence[_BatchNorm], batches: Iterable[Batch], precision: Precision
) -> None:
    """Measure mean and variance over batches, with the rest of the network in eval mode."""
    device = network.mean.device
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    for batch in prefetch(batches, device):
        with autocast(device, precision):
            network(batch.images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
