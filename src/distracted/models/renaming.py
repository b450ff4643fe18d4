"""Renames the tensors of other libraries' networks, and of timm's older files, as timm names them today."""

import re
import sys
from collections.abc import Iterator

from torch import nn

from distracted.errors import first_line
from distracted.models.state_dicts import StateDict

#: For these torchvision has the same tensors in the same order, under other names ("features.0.0.weight").
_IN_ORDER = ("mobilenetv2_100", "efficientnet_b0")
_KINDS = ("weight", "bias", "running_mean", "running_var")  # of a layer's tensors, in order
#: torchvision's DenseNet files still use its old layer names: "norm.1" for "norm1".
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")


def renamings(
    state: StateDict, trunk: nn.Module, backbone: str, *, in_order: bool
) -> Iterator[tuple[StateDict, str]]:
    """Name a file's tensors in each way that may be right for a trunk.

    Args:
        in_order: The file has the trunk's tensors in its order, under other names.

    Yields:
        The tensors, whose names and shapes are still to be checked, and where timm's conversion stops, or "".
    """
    if in_order:
        state = dict(zip(trunk.state_dict(), state.values(), strict=False))
    elif backbone.split(".")[0] in _IN_ORDER and "features.0.0.weight" in state:
        state = _from_torchvision(state, trunk)
    yield _as_timm_names(state, trunk)
    yield _as_named_children(state, trunk), ""


def _from_torchvision(state: StateDict, trunk: nn.Module) -> StateDict:
    """Give torchvision's tensors timm's names: both have the same ones in the order of their modules."""

    def place(name: str) -> tuple[list[str], int]:
        *modules, kind = name.split(".")
        return [module.zfill(4) for module in modules], _KINDS.index(kind)

    theirs = [n for n in state if n.startswith("features.") and n.rpartition(".")[2] in _KINDS]
    ours = [name for name in trunk.state_dict() if name.rpartition(".")[2] in _KINDS]
    return {name: state[their] for name, their in zip(ours, sorted(theirs, key=place), strict=False)}


def _as_timm_names(state: StateDict, trunk: nn.Module) -> tuple[StateDict, str]:
    """Rename and reshape the tensors of timm's other formats and of torchvision's VGG and DenseNet.

    Returns:
        The tensors, and where timm's conversion stops, or "". It looks for names that only timm's files have.
    """
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    problem = ""
    if convert is not None:
        try:
            state = convert(dict(state), trunk)
        except Exception as error:
            problem = f"timm's conversion stops at {type(error).__name__}: {first_line(error)}"
    state = _torchvision_vgg(state, trunk)
    return {_DENSENET.sub(r"\1\2", name): tensor for name, tensor in state.items()}, problem


def _as_named_children(state: StateDict, trunk: nn.Module) -> StateDict:
    """Rename the tensors of `nn.Sequential(*network.children())`, which fastai builds: names are numbers."""
    children = [name for name, _ in trunk.named_children()]
    renamed = {}
    for name, tensor in state.items():
        first, dot, rest = name.partition(".")
        if first.isdecimal() and int(first) < len(children):
            renamed[f"{children[int(first)]}{dot}{rest}"] = tensor
    return renamed


def _torchvision_vgg(state: StateDict, trunk: nn.Module) -> StateDict:
    """Convert torchvision's dense VGG layers to the convolutions that timm uses in their place."""
    if "classifier.0.weight" not in state or not hasattr(trunk, "pre_logits"):
        return state
    shapes = trunk.state_dict()
    renamed = {}
    for old, new in (("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2")):
        for kind in ("weight", "bias"):
            name = f"{new}.{kind}"
            if name in shapes and f"{old}.{kind}" in state:
                value = state[f"{old}.{kind}"]
                same_size = value.numel() == shapes[name].numel()
                renamed[name] = value.reshape(shapes[name].shape) if same_size else value
    return {**state, **renamed}
