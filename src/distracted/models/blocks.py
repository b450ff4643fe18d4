"""A backbone's trunk as named blocks of layers, from the input on, and how much of it a phase freezes.

Every way of freezing comes down to one number: so many of the first layers are frozen. A layer is a weight
matrix (a convolution's, a dense layer's) with the norms, biases and scales that follow it in its block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timm.models import group_parameters
from torch import nn

from distracted.errors import ConfigError
from distracted.schema import BlockRange, TrainPhase

STEM = "stem"


@dataclass(frozen=True)
class Block:
    """A named part of a trunk.

    Attributes:
        name: The module's that holds it; "stem" for the first; block1, block2 ... where no module holds it.
        output: Name of the module whose output is the block's.
        layers: Names of the parameters of each layer, from the input on.
    """

    name: str
    output: str
    layers: tuple[tuple[str, ...], ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(name for layer in self.layers for name in layer)


def find_blocks(trunk: nn.Module) -> tuple[Block, ...]:
    """The blocks of a trunk, from the input on; together they hold each of its parameters once.

    They are timm's groups of parameters (those of its layer-wise rates). Groups of norms alone join the block
    before them. Where each group is a single layer, as in VGG, the ends of timm's feature stages bound the
    blocks. A network without groups is cut into its children, containers opened.
    """
    groups = _join_norms(_groups(trunk), trunk)
    ends = _stage_ends(trunk)
    if len(ends) > 1 and all(len(_layers(group, trunk)) == 1 for group in groups[:-1]):
        return _blocks_by_stage(groups, ends, trunk)
    return tuple(
        Block(
            STEM if number == 0 else _own_prefix(_first(group), groups, number),
            _after(_own_prefix(group[-1], groups, number), ends, trunk),
            _layers(group, trunk),
        )
        for number, group in enumerate(groups)
    )


def count_layers(blocks: Sequence[Block]) -> int:
    return sum(len(block.layers) for block in blocks)


def frozen_layers(blocks: Sequence[Block], phase: TrainPhase, *, done: float = 0.0) -> int:
    """How many of the first layers of the trunk are frozen.

    Args:
        done: Share of the phase that lies behind, in [0, 1]: `gradual` thaws the blocks from the last to the
            first, each after an equal share.

    Raises:
        ConfigError: the phase names a block that is not there, or more blocks or layers than there are.
    """
    total = count_layers(blocks)
    if phase.freeze is not None:
        if phase.freeze.layers is not None:
            return _at_most(phase.freeze.layers, total, "freeze", "layers")
        assert phase.freeze.blocks is not None
        return count_layers(blocks[: _at_most(phase.freeze.blocks, len(blocks), "freeze", "blocks")])
    match phase.unfreeze:
        case "all":
            return 0
        case "head":
            return total
        case "gradual":
            return total - _last(blocks, min(len(blocks), 1 + math.floor(done * len(blocks))))
        case BlockRange(layers=int(layers)):
            return total - _at_most(layers, total, "unfreeze", "layers")
        case BlockRange(from_=str(name)):
            return count_layers(blocks[: find_block(blocks, name, "unfreeze")])
        case BlockRange(blocks=int(number)):
            return total - _last(blocks, _at_most(number, len(blocks), "unfreeze", "blocks"))
    raise AssertionError(phase)


def find_block(blocks: Sequence[Block], name: str, key: str) -> int:
    """Position of a block by its name; ConfigError, with the names that exist, where there is none."""
    names = [block.name for block in blocks]
    if name not in names:
        raise ConfigError(
            f"{key}: this backbone has no block {name!r}; from the input on it has {', '.join(names)}"
        )
    return names.index(name)


def _last(blocks: Sequence[Block], number: int) -> int:
    return count_layers(blocks[len(blocks) - number :])


def _at_most(number: int, total: int, key: str, what: str) -> int:
    if number > total:
        raise ConfigError(f"{key}: {number} {what}; this backbone has {total}")
    return number


def _groups(trunk: nn.Module) -> list[list[str]]:
    matcher = getattr(trunk, "group_matcher", None)
    if matcher is not None:
        groups: dict[Any, list[str]] = group_parameters(trunk, matcher(coarse=True))
        return [groups[key] for key in sorted(groups)]
    children: list[tuple[str, nn.Module]] = []
    for name, child in trunk.named_children():
        opened = isinstance(child, nn.Sequential | nn.ModuleList)
        children += (
            [(f"{name}.{i}", part) for i, part in child.named_children()] if opened else [(name, child)]
        )
    named = [[f"{name}.{p}" for p, _ in child.named_parameters()] for name, child in children]
    filled = [group for group in named if group]
    own = [name for name, _ in trunk.named_parameters(recurse=False)]  # such as a class token
    return [own + filled[0], *filled[1:]] if filled else []


def _join_norms(groups: list[list[str]], trunk: nn.Module) -> list[list[str]]:
    sizes = {name: parameter.ndim for name, parameter in trunk.named_parameters()}
    joined: list[list[str]] = []
    for group in groups:
        if joined and all(sizes[name] <= 1 for name in group):
            joined[-1] = joined[-1] + group
        else:
            joined.append(group)
    return joined


def _layers(names: Sequence[str], trunk: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Parameters by layer: what precedes the first matrix goes with it, what follows goes with the last."""
    parameters = dict(trunk.named_parameters())
    layers: list[list[str]] = []
    waiting: list[str] = []
    for name in names:
        owner = name.rpartition(".")[0]
        if owner and parameters[name].ndim > 1 and not (layers and layers[-1][-1].startswith(f"{owner}.")):
            layers.append([*waiting, name])
            waiting = []
        elif layers:
            layers[-1].append(name)
        else:
            waiting.append(name)
    if waiting:
        layers.append(waiting)
    return tuple(map(tuple, layers))


def _own_prefix(name: str, groups: Sequence[Sequence[str]], number: int) -> str:
    """The shortest module name above a parameter that no other group's parameters share."""
    parts = name.split(".")
    others = [other for i, group in enumerate(groups) if i != number for other in group]
    for length in range(1, len(parts)):
        prefix = ".".join(parts[:length])
        if not any(other.startswith(f"{prefix}.") for other in others):
            return prefix
    return ".".join(parts[:-1])


def _first(group: Sequence[str]) -> str:
    """The first parameter that is not the trunk's own."""
    return next((name for name in group if "." in name), group[0])


def _after(module: str, ends: Sequence[str], trunk: nn.Module) -> str:
    """The end of a feature stage that follows a module with nothing to learn between them, or the module."""
    names: list[str] = [name for name, _ in trunk.named_modules()]
    for name in names[names.index(module) + 1 :]:
        if name.startswith(f"{module}."):
            continue
        if any(True for _ in trunk.get_submodule(name).parameters()):
            break
        if name in ends:
            return name
    return module


def _stage_ends(trunk: nn.Module) -> list[str]:
    modules = dict(trunk.named_modules())
    infos = getattr(trunk, "feature_info", None) or []
    return [info["module"] for info in infos if info["module"] in modules]


def _blocks_by_stage(groups: Sequence[list[str]], ends: Sequence[str], trunk: nn.Module) -> tuple[Block, ...]:
    order = {name: position for position, (name, _) in enumerate(trunk.named_modules())}
    positions = [order[end] for end in ends]
    by_end: dict[str | None, list[str]] = {}
    for group in groups:
        at = order[group[-1].rpartition(".")[0]]
        end = next((end for end, position in zip(ends, positions, strict=True) if position >= at), None)
        by_end.setdefault(end, []).extend(group)
    return tuple(
        Block(f"block{number}", end or names[-1].rpartition(".")[0], _layers(names, trunk))
        for number, (end, names) in enumerate(by_end.items(), start=1)
    )
