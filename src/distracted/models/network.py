"""A backbone by its timm name with our head on it: global pooling, dropout, linear."""

import logging
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distracted.errors import ConfigError, first_line
from distracted.models.weights import Weights, load_weights
from distracted.schema import BlocksToLearn, ModelConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backbone:
    """What timm says of a network before it is built.

    Attributes:
        repo: The hub repository of its default weights, or None.
        image_size: Side in pixels; crop: share of the picture's sides seen; mean, std: of pixels in [0, 1].
        fixed_size: The network has to be told its input size when it is built (transformers).
    """

    name: str
    repo: str | None
    image_size: int
    crop: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fixed_size: bool


def find_backbone(name: str) -> Backbone:
    """Look a network up by its timm name.

    Raises:
        ConfigError: timm does not know it; names the nearest.
    """
    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=3)) or "see timm.list_models()"
        raise ConfigError(f"model.backbone: timm has no network {name!r}; nearest: {near}")
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ConfigError(f"model.backbone={name}: {error}") from error
    if cfg is None:
        raise ConfigError(f"model.backbone={name}: timm keeps no input size or normalisation for it")
    repo = cfg.hf_hub_id
    if repo and repo.endswith("/"):
        repo = f"{repo}{cfg.architecture}.{cfg.tag}"
    size = int(cfg.input_size[1])
    return Backbone(
        name, repo, size, cfg.crop_pct, tuple(cfg.mean), tuple(cfg.std), bool(cfg.fixed_input_size)
    )


class Network(nn.Module):
    """Backbone and head.

    Attributes:
        backbone: What timm says of it.
        trunk: The backbone without a classifier; pools its last feature map.
        head: Linear, on `num_features` pooled features.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, trunk: nn.Module, backbone: Backbone, *, num_features: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_features, num_classes)
        self.register_buffer("mean", 255 * torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)
        self._trunk_learns = True

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features, shape (B, num_features), of uint8 images, shape (B, H, W, 3)."""
        x = images.permute(0, 3, 1, 2)  # channels-last in memory already
        x = (x.to(self.mean.dtype) - self.mean) / self.std
        pooled: torch.Tensor = self.trunk(x)
        return pooled

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, shape (B, num_classes), of uint8 images, shape (B, H, W, 3)."""
        if self._trunk_learns:
            pooled = self.features(images)
        else:
            with torch.no_grad():
                pooled = self.features(images)
        logits: torch.Tensor = self.head(self.dropout(pooled))
        return logits

    def blocks(self) -> list[list[str]]:
        """Parameter names of the backbone's blocks, from the input to the output, as timm groups them."""
        matcher = getattr(self.trunk, "group_matcher", None)
        if matcher is None:
            return [
                [f"{name}.{p}" for p, _ in child.named_parameters()]
                for name, child in self.trunk.named_children()
            ]
        groups: dict[Any, list[str]] = group_parameters(self.trunk, matcher(coarse=True))
        return [groups[key] for key in sorted(groups)]

    def unfreeze(self, what: str | BlocksToLearn) -> None:
        """Let the head learn, and of the backbone "all", none ("head") or the last so many blocks."""
        self.trunk.requires_grad_(what == "all")
        if isinstance(what, BlocksToLearn):
            blocks = self.blocks()
            if what.blocks > len(blocks):
                raise ConfigError(f"unfreeze: {what.blocks} blocks; this backbone has {len(blocks)}")
            parameters = dict(self.trunk.named_parameters())
            for name in (name for block in blocks[-what.blocks :] for name in block):
                parameters[name].requires_grad_(True)
        self._trunk_learns = what != "head"

    def train_learning(self, *, batchnorm: bool) -> None:
        """Training mode for what learns; frozen parts stay in eval mode, and so does BatchNorm unless asked.

        A BatchNorm layer in eval mode keeps its statistics; its scale and shift learn with their block.
        """
        self.train()
        for module in self.trunk.modules():
            parameters = list(module.parameters())
            frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
            if frozen or (isinstance(module, _BatchNorm) and not batchnorm):
                module.eval()
        if not self._trunk_learns:
            self.trunk.eval()


def build_network(config: ModelConfig, weights: Weights, *, num_classes: int) -> Network:
    """Build a network with its weights; random numbers come from torch's global generator.

    Args:
        config: Resolved, with numbers for the image size and crop.

    Raises:
        ConfigError: the backbone is unknown or does not take images of this size.
        WeightsError: the weights do not fit it.
    """
    backbone = find_backbone(config.backbone)
    assert isinstance(config.image_size, int)
    trunk, num_features = _build_trunk(backbone, config.image_size, config.head.dense_layers)
    load_weights(trunk, weights, config.backbone)
    network = Network(
        trunk, backbone, num_features=num_features, num_classes=num_classes, dropout=config.head.dropout
    )
    if weights.pretrained:  # a random head's gradients would wreck the trunk
        nn.init.zeros_(network.head.weight)
        nn.init.zeros_(network.head.bias)
    # From random weights a head at zero gives the trunk nothing to start from: VGG16, which has no BatchNorm,
    # then stays where every class is as probable.
    return network.to(memory_format=torch.channels_last)


def _build_trunk(backbone: Backbone, size: int, dense_layers: bool) -> tuple[nn.Module, int]:
    """A backbone with random weights, and how many features it pools from images of `size` pixels."""
    extra = {"img_size": size} if backbone.fixed_size else {}
    try:
        trunk = timm.create_model(backbone.name, pretrained=False, num_classes=0, **extra)
        if hasattr(trunk, "pre_logits") and not dense_layers:
            trunk.pre_logits = nn.Identity()
        with torch.no_grad():
            pooled = trunk.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # each architecture has its own way to refuse a size
        raise ConfigError(
            f"model.image_size={size}: {backbone.name} does not take images of this size "
            f"({first_line(error)})"
        ) from error
    return trunk, int(pooled.shape[1])


def fingerprint(module: nn.Module) -> str:
    """Digest of a module's tensors, names included."""
    digest = blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
