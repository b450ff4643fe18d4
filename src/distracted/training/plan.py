"""The table of `make freeze`: which blocks each phase trains, and at which rate."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from distracted.errors import ConfigError
from distracted.models.backbone import find_backbone
from distracted.models.blocks import frozen_layers
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights
from distracted.schema import FeaturesPhase, Phase, RunConfig, TrainPhase
from distracted.training.optim import block_rates, head_rate
from distracted.training.resolve import applying_phases, with_input


@dataclass(frozen=True)
class Share:
    """How much of a block learns in a phase.

    Attributes:
        layers: Number of its layers that learn by the end of the phase.
        lr: Their highest learning rate; None if a regression is fitted.
        start: Share of the phase before they begin to learn; above 0 only for `unfreeze: gradual`.
    """

    layers: int
    lr: float | None
    start: float = 0.0


@dataclass(frozen=True)
class BlockRow:
    """A block or the head, and how much of it learns in each phase; None: all of it is frozen."""

    name: str
    layers: int
    parameters: int
    phases: dict[str, Share | None]


@dataclass(frozen=True)
class Plan:
    """The phases that apply to a run, and the blocks from the input up, the head last.

    Attributes:
        pretrained: Whether it is configured to start from pretrained weights.
        image_size: Side of the input in pixels.
    """

    pretrained: bool
    image_size: int
    phases: dict[str, Phase]
    rows: list[BlockRow]


def plan_run(config: RunConfig, *, num_classes: int) -> Plan:
    """Plan a run without weights or data: nothing is downloaded or computed.

    Raises:
        ConfigError: the config names a block or layers that this network lacks.
    """
    pretrained = config.model.weights != "none"
    model = with_input(config.model, find_backbone(config.model.backbone))
    assert isinstance(model.image_size, int)
    with torch.device("meta"):  # shapes without numbers
        network = build_network(model, Weights("none"), num_classes=num_classes)
    phases = applying_phases(config, pretrained=pretrained)
    return Plan(pretrained, model.image_size, phases, plan_phases(network, phases))


def check_phases(network: Network, phases: Mapping[str, Phase]) -> None:
    """Refuse a phase that names a block or layers that this network lacks.

    Raises:
        ConfigError: says which phase, and which blocks there are.
    """
    for name, phase in phases.items():
        if isinstance(phase, TrainPhase):
            try:
                frozen_layers(network.blocks, phase)
            except ConfigError as error:
                raise ConfigError(f"phases.{name}.{error}") from error


def plan_phases(network: Network, phases: Mapping[str, Phase]) -> list[BlockRow]:
    """The blocks of a network from the input up, the head last, and how much each phase trains of them.

    Raises:
        ConfigError: as `check_phases`.
    """
    check_phases(network, phases)
    sizes = {name: parameter.numel() for name, parameter in network.trunk.named_parameters()}
    first = 0
    rows = []
    for number, block in enumerate(network.blocks):
        layers = len(block.layers)
        shares = {name: _share(network, phase, number, first) for name, phase in phases.items()}
        rows.append(BlockRow(block.name, layers, sum(sizes[name] for name in block.parameters), shares))
        first += layers
    for head in network.auxiliary_heads():
        below = next(row for row in rows if row.name == head.block)
        layers, size = _count(head)
        shares = {
            name: Share(layers, _head_lr(phase), learns.start) if (learns := below.phases[name]) else None
            for name, phase in phases.items()
        }
        rows.append(BlockRow(f"auxiliary ({head.block})", layers, size, shares))
    layers, size = _count(network.head)
    shares = {name: Share(layers, _head_lr(phase)) for name, phase in phases.items()}
    return [*rows, BlockRow("head", layers, size, shares)]


def _count(head: nn.Module) -> tuple[int, int]:
    """Number of layers with a weight matrix, and of parameters."""
    parameters = list(head.parameters())
    return sum(p.ndim > 1 for p in parameters), sum(p.numel() for p in parameters)


def _share(network: Network, phase: Phase, number: int, first: int) -> Share | None:
    """How much of a block learns; `first` is the number of its first layer."""
    if not isinstance(phase, TrainPhase):
        return None
    end = first + len(network.blocks[number].layers)
    learning = end - max(first, frozen_layers(network.blocks, phase, done=1.0))
    if learning <= 0:
        return None
    above = len(network.blocks) - 1 - number
    start = above / len(network.blocks) if phase.unfreeze == "gradual" else 0.0
    return Share(learning, block_rates(network, phase)[number], start)


def _head_lr(phase: Phase) -> float | None:
    if isinstance(phase, FeaturesPhase):
        return None
    return head_rate(phase) if isinstance(phase, TrainPhase) else phase.lr
