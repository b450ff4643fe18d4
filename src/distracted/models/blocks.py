"""A trunk as an ordered list of named blocks and layers, and how many layers a phase freezes.

Every way to freeze reduces to one number: how many layers, counted from the input, are frozen. A layer is a
convolution or dense layer together with the norms, biases and scales that follow it in its block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timm.models import group_parameters
from torch import nn

from distracted.errors import ConfigError
from distracted.schema import BlockRange, TrainPhase


@dataclass(frozen=True)
class Block:
    """A named part of a trunk.

    Attributes:
        name: Name of the module that contains it, "stem" for the first block, or block1, block2 ... where no
            single module contains it.
        output: Name of the module whose output is the block's output.
        layers: Parameter names of each layer, in forward order.
    """

    name: str
    output: str
    layers: tuple[tuple[str, ...], ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(name for layer in self.layers for name in layer)


def find_blocks(trunk: nn.Module) -> tuple[Block, ...]:
    """Split a trunk into blocks, in forward order, which together hold every parameter exactly once.

    Blocks are timm's parameter groups (the ones it uses for layer-wise learning rates); a group of norms
    joins the block before it. Where every group is a single layer, as in VGG, timm's feature stages delimit
    the blocks. A network without groups is split into its children, with containers expanded.
    """
    groups = _join_norms(_groups(trunk), trunk)
    ends = _stage_ends(trunk)
    if len(ends) > 1 and all(len(_layers(group, trunk)) == 1 for group in groups[:-1]):
        return _blocks_by_stage(groups, ends, trunk)
    return tuple(
        Block(
            "stem" if number == 0 else _exclusive_prefix(_first_nested(group), groups, number),
            _stage_end_after(_exclusive_prefix(group[-1], groups, number), ends, trunk),
            _layers(group, trunk),
        )
        for number, group in enumerate(groups)
    )


def count_layers(blocks: Sequence[Block]) -> int:
    return sum(len(block.layers) for block in blocks)


def frozen_layers(blocks: Sequence[Block], phase: TrainPhase, *, done: float = 0.0) -> int:
    """Count the layers that are frozen, from the input on.

    Args:
        done: Completed fraction of the phase, in [0, 1]. `gradual` unfreezes the blocks from the last to the
            first, at equal intervals.

    Raises:
        ConfigError: the phase names an unknown block, or more blocks or layers than the trunk has.
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
    """Index of the block with this name.

    Raises:
        ConfigError: unknown name; lists the names of this backbone.
    """
    names = [block.name for block in blocks]
    if name not in names:
        raise ConfigError(
            f"{key}: this backbone has no block {name!r}; from the input on it has {', '.join(names)}"
        )
    return names.index(name)


def _last(blocks: Sequence[Block], number: int) -> int:
    return count_layers(blocks[len(blocks) - number :])


def _at_most(number: int, total: int, key: str, unit: str) -> int:
    if number > total:
        raise ConfigError(f"{key}: {number} {unit}; this backbone has {total}")
    return number


def _groups(trunk: nn.Module) -> list[list[str]]:
    matcher = getattr(trunk, "group_matcher", None)
    if matcher is not None:
        groups: dict[Any, list[str]] = group_parameters(trunk, matcher(coarse=True))
        return [groups[key] for key in sorted(groups)]
    children: list[tuple[str, nn.Module]] = []
    for name, child in trunk.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            children += [(f"{name}.{i}", grandchild) for i, grandchild in child.named_children()]
        else:
            children.append((name, child))
    by_child = [[f"{name}.{p}" for p, _ in child.named_parameters()] for name, child in children]
    filled = [group for group in by_child if group]
    direct = [name for name, _ in trunk.named_parameters(recurse=False)]  # such as a class token
    return [direct + filled[0], *filled[1:]] if filled else []


def _join_norms(groups: list[list[str]], trunk: nn.Module) -> list[list[str]]:
    ndims = {name: parameter.ndim for name, parameter in trunk.named_parameters()}
    joined: list[list[str]] = []
    for group in groups:
        if joined and all(ndims[name] <= 1 for name in group):
            joined[-1] = joined[-1] + group
        else:
            joined.append(group)
    return joined


def _layers(names: Sequence[str], trunk: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Group parameter names by layer; 1-d parameters join the weight matrix before them, or the first one."""
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


def _exclusive_prefix(name: str, groups: Sequence[Sequence[str]], number: int) -> str:
    """The outermost module around a parameter of group `number` that holds no other group's parameters."""
    parts = name.split(".")
    others = [other for i, group in enumerate(groups) if i != number for other in group]
    for length in range(1, len(parts)):
        prefix = ".".join(parts[:length])
        if not any(other.startswith(f"{prefix}.") for other in others):
            return prefix
    return ".".join(parts[:-1])


def _first_nested(group: Sequence[str]) -> str:
    """The first parameter that belongs to a submodule rather than to the trunk itself."""
    return next((name for name in group if "." in name), group[0])


def _stage_end_after(module: str, ends: Sequence[str], trunk: nn.Module) -> str:
    """The stage end that follows a module without parameters in between (an activation), else the module."""
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
