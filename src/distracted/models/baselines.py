"""Networks that timm lacks: torchvision's GoogLeNet, two small baselines, and one that ignores the image."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torchvision.models import GoogLeNet, GoogLeNet_Weights

_HALF = (0.5, 0.5, 0.5)


class ConvTrunk(nn.Sequential):
    """Modules in sequence, followed by global average pooling, with timm's interface."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """The last feature map, shape (B, C, h, w)."""
        x = super().forward(x)  # type: ignore[no-untyped-call]
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_features(x).mean(dim=(2, 3))


class ConstantFeature(nn.Module):
    """One feature that is always 0: a classifier on it can only learn the class frequencies."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 1)


@dataclass(frozen=True)
class CustomTrunk:
    """A trunk that timm lacks; settings as in `Backbone`.

    Attributes:
        build: Builds the trunk for square images of a given side in pixels.
    """

    build: Callable[[int], nn.Module]
    image_size: int
    crop: float = 1.0
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF
    source: str | None = None
    fixed_size: bool = False


def _googlenet(size: int) -> nn.Module:
    """torchvision's network under its own tensor names, without the classifiers.

    torchvision normalises by ImageNet's mean and std, and its pretrained network converts that to a mean and
    std of 0.5. Here images are normalised by 0.5 in the first place, so `transform_input` is off.
    """
    net = GoogLeNet(aux_logits=False, transform_input=False, init_weights=False)
    left_out = ("avgpool", "dropout", "fc")
    return ConvTrunk(OrderedDict((n, child) for n, child in net.named_children() if n not in left_out))


def _mlp(size: int) -> nn.Module:
    """The flattened image through two dense layers; the head is the third."""
    dense1 = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 1024), nn.ReLU())
    return nn.Sequential(OrderedDict(dense1=dense1, dense2=nn.Sequential(nn.Linear(1024, 512), nn.ReLU())))


def _cnn(size: int) -> nn.Module:
    """Three blocks of convolution, ReLU and max pooling."""
    channels = (3, 32, 32, 64)
    blocks = [
        nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        for before, after in pairwise(channels)
    ]
    return ConvTrunk(OrderedDict((f"block{number}", block) for number, block in enumerate(blocks, start=1)))


#: By the name that `model.backbone` takes.
CUSTOM_TRUNKS = {
    "googlenet": CustomTrunk(_googlenet, 224, crop=0.875, source=GoogLeNet_Weights.IMAGENET1K_V1.url),
    "mlp": CustomTrunk(_mlp, 32, fixed_size=True),
    "cnn": CustomTrunk(_cnn, 64),
    "majority": CustomTrunk(lambda size: ConstantFeature(), 16),
}
