"""Networks that timm lacks: torchvision's GoogLeNet, the tutorials' two baselines, and the floor."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torchvision.models import GoogLeNet, GoogLeNet_Weights

_HALF = (0.5, 0.5, 0.5)


class MapTrunk(nn.Sequential):
    """Modules in a row that end in a map, averaged over its positions as timm's trunks do."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """The last map, shape (B, C, h, w)."""
        x = super().forward(x)  # type: ignore[no-untyped-call]
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_features(x).mean(dim=(2, 3))


class Nothing(nn.Module):
    """One feature that is always 0: a classifier on it can learn the classes' shares and no more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 1)


@dataclass(frozen=True)
class Own:
    """A trunk that timm lacks.

    Attributes:
        build: Makes it for square images of so many pixels.
        image_size: The size where the config says none.
        crop: Share of the picture's sides that is seen; mean, std: of pixels in [0, 1].
        source: Where its ImageNet weights lie, as `Backbone.source`.
    """

    build: Callable[[int], nn.Module]
    image_size: int
    crop: float = 1.0
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF
    source: str | None = None


def _googlenet(size: int) -> nn.Module:
    """torchvision's tensors under torchvision's names, without the classifiers.

    With its ImageNet weights torchvision normalises by ImageNet's mean and std and its network turns that
    into 0.5 and 0.5; here images are normalised by 0.5 and 0.5 to begin with.
    """
    net = GoogLeNet(aux_logits=False, transform_input=False, init_weights=False)
    kept = ((name, part) for name, part in net.named_children() if name not in ("avgpool", "dropout", "fc"))
    return MapTrunk(OrderedDict(kept))


def _mlp(size: int) -> nn.Module:
    """The image flattened through two dense layers; the head is the third."""
    dense1 = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 1024), nn.ReLU())
    return nn.Sequential(OrderedDict(dense1=dense1, dense2=nn.Sequential(nn.Linear(1024, 512), nn.ReLU())))


def _cnn(size: int) -> nn.Module:
    """Three blocks of convolution, ReLU and pooling; the dense layer after them is its head."""
    channels = (3, 32, 32, 64)
    blocks = [
        nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        for before, after in pairwise(channels)
    ]
    return MapTrunk(OrderedDict((f"block{number}", block) for number, block in enumerate(blocks, start=1)))


OWN = {
    "googlenet": Own(_googlenet, 224, crop=0.875, source=GoogLeNet_Weights.IMAGENET1K_V1.url),
    "mlp": Own(_mlp, 32),
    "cnn": Own(_cnn, 64),
    "majority": Own(lambda size: Nothing(), 16),
}
