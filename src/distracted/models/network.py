"""The network: a backbone's trunk with a new head, and freezing parts of it."""

from collections.abc import Iterator
from hashlib import blake2b

import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distracted.errors import ConfigError, first_line
from distracted.models.auxiliary import AUXILIARY, AuxiliaryHead
from distracted.models.backbone import Backbone, build_trunk, find_backbone
from distracted.models.blocks import find_block, find_blocks
from distracted.models.weights import Weights, load_weights
from distracted.schema import ModelConfig


class Head(nn.Module):
    """Dropout and a linear layer `classifier`, preceded by a dense layer of `hidden` units unless it is 0."""

    def __init__(self, num_features: int, num_classes: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden or num_features, num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features, shape (B, num_features), to logits, shape (B, num_classes)."""
        logits: torch.Tensor = self.classifier(self.dropout(self.dense(features)))
        return logits


class _StopForward(Exception):
    """Ends the trunk's forward pass at the head's block, so that later blocks are not computed."""


class _SaveOutput:
    """A forward hook that stores a block's output, and may end the forward pass there."""

    def __init__(self, outputs: dict[str, torch.Tensor], block: str, *, stop: bool) -> None:
        self._outputs, self._block, self._stop = outputs, block, stop

    def __call__(self, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        self._outputs[self._block] = output
        if self._stop:
            raise _StopForward


class Network(nn.Module):
    """A trunk and the heads on it; takes uint8 images and normalises them.

    Attributes:
        trunk: The backbone without its classifier.
        blocks: The trunk's blocks from the input to the one that feeds the head.
        num_frozen: Number of frozen layers, counted from the input.
        head: Takes the concatenated features of an image's views (the whole image and its regions).
        auxiliary: Heads on intermediate blocks, used in training only.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, trunk: nn.Module, backbone: Backbone, model: ModelConfig, num_classes: int) -> None:
        super().__init__()
        config, size, num_views = model.head, model.image_size, 1 + len(model.regions)
        assert isinstance(size, int)
        self.backbone = backbone
        self.trunk = trunk
        self.blocks = find_blocks(trunk)
        self.register_buffer("mean", 255 * torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)
        self._outputs: dict[str, torch.Tensor] = {}  # of hooked blocks, during one forward pass
        self.num_frozen = 0
        self._trunk_dtype: torch.dtype | None = None  # None: that of the head
        self._flatten = config.pooling == "flatten"
        self._last: str | None = None  # the head's block where that is not the trunk's last one
        if config.block != "last":
            self.blocks = self.blocks[: 1 + find_block(self.blocks, config.block, "model.head.block")]
            self._last = config.block
            self._save_output(config.block, stop=True)
        with torch.no_grad():
            num_features = self.eval().features(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape[1]
        self.head = Head(num_views * num_features, num_classes, hidden=config.hidden, dropout=config.dropout)
        self.auxiliary = nn.ModuleList(self._make_auxiliary(num_classes) if config.auxiliary else [])
        self._auxiliary_weight = config.auxiliary
        for head in self.auxiliary_heads():
            self._save_output(head.block, stop=False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 images, shape (B, H, W, 3), to the head's input, shape (B, num_features).

        With R views per image, shape (B, R, H, W, 3), the trunk is applied to each view and their features
        are concatenated in order.
        """
        try:
            return self._features(images)
        finally:
            self._outputs.clear()

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        """As `features`, but leaves the outputs of hooked blocks in `_outputs`."""
        features = self._trunk_features(images.flatten(0, -4))
        return features.reshape(-1, images.shape[1] * features.shape[1]) if images.ndim == 5 else features

    def _trunk_features(self, views: torch.Tensor) -> torch.Tensor:
        x = views.permute(0, 3, 1, 2)  # channels-last in memory already
        x = (x.to(self.mean.dtype) - self.mean) / self.std
        if self._trunk_dtype is not None:
            x = x.to(self._trunk_dtype)
        if self._last is not None:
            try:
                self.trunk(x)
            except _StopForward:
                output = self._outputs.pop(self._last)
                x = output if self._flatten else self._pool(output, self._module(self._last))
            else:
                raise AssertionError(f"{self._last} was not reached")
        elif self._flatten and hasattr(self.trunk, "forward_features"):
            x = self.trunk.forward_features(x)  # type: ignore[operator]
        else:
            x = self.trunk(x)
        flat: torch.Tensor = x.flatten(1)
        return flat if self._trunk_dtype is None else flat.to(self.mean.dtype)

    def as_maps(self, output: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Convert maps (B, C, h, w), channels-last maps (B, h, w, C) or tokens (B, N, C) to (B, C, h, w).

        Args:
            module: The module of the trunk whose output it is.
        """
        if output.ndim == 4:
            # timm says so of a trunk as a whole, or of a single module (a transformer's patches)
            fmt = getattr(module, "output_fmt", None) or getattr(self.trunk, "output_fmt", None)
            return output.permute(0, 3, 1, 2) if fmt == "NHWC" else output
        tokens = output[:, getattr(self.trunk, "num_prefix_tokens", 0) :]
        side = int(tokens.shape[1] ** 0.5)
        return tokens[:, : side * side].transpose(1, 2).reshape(len(tokens), -1, side, side)

    def cast_trunk(self, dtype: torch.dtype) -> None:
        """Keep the trunk's weights in another type, for inference; the head and the normalisation stay."""
        self.trunk.to(dtype)
        self._trunk_dtype = dtype

    def trunk_identity(self) -> list[str | bool]:
        """What features depend on apart from the images: the trunk's code and weights, and where it ends."""
        return [self.backbone.name, timm.__version__, fingerprint(self.trunk), *self.taken]

    @property
    def normalisation(self) -> list[list[float]]:
        """Mean and standard deviation of each channel, on the scale of uint8 pixels."""
        return [tensor.flatten().tolist() for tensor in (self.mean, self.std)]

    @property
    def taken(self) -> tuple[str, bool]:
        """Where features are taken: the block ("last" or a name), and whether its map is flattened."""
        return self._last or "last", self._flatten

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 images, shape (B, H, W, 3) or (B, R, H, W, 3), to logits, shape (B, num_classes)."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits

    def weighted_logits(self, images: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
        """Logits of the head and of each auxiliary head, paired with its weight in the training loss.

        An auxiliary head sees one view at a time; its logits are averaged over an image's views.
        """
        try:
            logits = [(1.0, self.head(self._features(images)))]
            for head in self.auxiliary_heads():
                output = self._outputs[head.block]
                if output.requires_grad:  # else no layer below it is trained
                    by_view = head(output).unflatten(0, (len(images), -1))
                    logits.append((self._auxiliary_weight, by_view.mean(1)))
            return logits
        finally:
            self._outputs.clear()  # also when memory ran out: they hold the graph of the pass

    def freeze_first(self, num_layers: int) -> None:
        """Freeze the trunk's first `num_layers` layers; the other layers and the heads are trained.

        Nothing below the first trained layer requires a gradient, so autograd stores no activations there.
        An auxiliary head is trained only while its block is.
        """
        self.num_frozen = num_layers
        self.trunk.requires_grad_(False)
        self.head.requires_grad_(True)
        parameters = dict(self.trunk.named_parameters())
        layers = [layer for block in self.blocks for layer in block.layers]
        for name in (name for layer in layers[num_layers:] for name in layer):
            parameters[name].requires_grad_(True)
        trained = {b.name for b in self.blocks if any(parameters[n].requires_grad for n in b.parameters)}
        for head in self.auxiliary_heads():
            head.requires_grad_(head.block in trained)

    def train_learning(self, *, batchnorm: bool) -> None:
        """Set train mode, except for frozen modules and, unless `batchnorm`, for BatchNorm.

        BatchNorm in eval mode keeps its running statistics; its scale and shift are still trained.
        """
        self.train()
        for module in (*self.trunk.modules(), *self.auxiliary.modules()):
            parameters = list(module.parameters())
            frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
            if frozen or (isinstance(module, _BatchNorm) and not batchnorm):
                module.eval()

    def _pool(self, output: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Average a module's maps, as in `as_maps`, or its tokens over positions."""
        if output.ndim == 4:
            return self.as_maps(output, module).mean((2, 3))
        return output.mean(1) if output.ndim == 3 else output

    def _save_output(self, block: str, *, stop: bool) -> None:
        self._module(block).register_forward_hook(_SaveOutput(self._outputs, block, stop=stop))

    def _module(self, block: str) -> nn.Module:
        """The module whose output is the block's."""
        return self.trunk.get_submodule(next(b.output for b in self.blocks if b.name == block))

    def auxiliary_heads(self) -> Iterator[AuxiliaryHead]:
        """The modules of `auxiliary`, with their type."""
        for head in self.auxiliary:
            assert isinstance(head, AuxiliaryHead)
            yield head

    def _make_auxiliary(self, num_classes: int) -> list[AuxiliaryHead]:
        make = AUXILIARY.get(self.backbone.name.split(".")[0])
        if make is None:
            raise ConfigError(
                f"model.head.auxiliary: {self.backbone.name} has no auxiliary heads (only "
                f"{' and '.join(AUXILIARY)} have); expected 0"
            )
        names = {block.name for block in self.blocks} - {self._last}  # the head's own block has the head
        return [head for head in make(num_classes) if head.block in names]


def build_network(config: ModelConfig, weights: Weights, *, num_classes: int) -> Network:
    """Build a network and load its weights; random weights come from torch's global generator.

    Args:
        config: Resolved, with numbers for the image size and crop.

    Raises:
        ConfigError: the backbone is unknown, rejects this image size, or lacks the head's block or its
            auxiliary heads.
        WeightsError: the weights do not fit the backbone.
    """
    backbone = find_backbone(config.backbone)
    size = config.image_size
    assert isinstance(size, int)
    try:
        trunk = build_trunk(backbone, size, dense_layers=config.head.dense_layers)
        network = Network(trunk, backbone, config, num_classes)
    except ConfigError:
        raise
    except Exception as error:  # architectures reject an unsuitable size in many different ways
        problem = f"{backbone.name} does not take images of this size ({first_line(error)})"
        raise ConfigError(f"model.image_size={size}: {problem}") from error
    load_weights(trunk, weights, backbone.name, auxiliary=network.auxiliary_heads())
    # A random head's gradients would damage a pretrained trunk, so the head starts at zero. A random trunk
    # gets no gradient through a zero head: VGG16, which has no BatchNorm, never leaves uniform predictions.
    if weights.pretrained:
        nn.init.zeros_(network.head.classifier.weight)
        nn.init.zeros_(network.head.classifier.bias)
    return network.to(memory_format=torch.channels_last)


def fingerprint(module: nn.Module) -> str:
    """Digest of a module's state_dict: names and values."""
    digest = blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
