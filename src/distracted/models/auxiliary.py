"""Auxiliary heads: classifiers on intermediate blocks that improve training and are left out of prediction.

Inception v1 and v3 were trained with them (Szegedy et al. 2014 and 2015). Their losses are added to the main
head's while a phase trains the block that they sit on.
"""

from collections.abc import Callable

import torch
from timm.models.inception_v3 import InceptionAux as _InceptionV3Aux
from torch import nn
from torch.nn import functional as F
from torchvision.models.googlenet import InceptionAux as _GoogLeNetAux

_INCEPTION_V3_SIDE = 17  # side of the feature map that its auxiliary head was designed for


class AuxiliaryHead(nn.Module):
    """One auxiliary classifier.

    Attributes:
        block: Name of the block whose output it takes.
        prefix: Prefix of its tensors in the backbone's weight files.
        classifier: Prefix of its last layer's tensors there; that layer has other classes and is not loaded.
    """

    def __init__(self, block: str, prefix: str, body: nn.Module, *, classifier: str, min_side: int) -> None:
        super().__init__()
        self.block, self.prefix, self.classifier = block, prefix, classifier
        self.body, self._min_side = body, min_side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the block's output, shape (B, C, h, w), to logits, shape (B, num_classes)."""
        if min(x.shape[-2:]) < self._min_side:  # images smaller than the network was designed for
            x = F.adaptive_avg_pool2d(x, self._min_side)
        logits: torch.Tensor = self.body(x)
        return logits


def _inception_v3(num_classes: int) -> list[AuxiliaryHead]:
    body = _InceptionV3Aux(768, num_classes)
    return [AuxiliaryHead("Mixed_6e", "AuxLogits.", body, classifier="fc.", min_side=_INCEPTION_V3_SIDE)]


def _googlenet(num_classes: int) -> list[AuxiliaryHead]:
    return [
        AuxiliaryHead(block, prefix, _GoogLeNetAux(channels, num_classes), classifier="fc2.", min_side=1)
        for block, prefix, channels in (("inception4a", "aux1.", 512), ("inception4d", "aux2.", 528))
    ]


#: Builders of auxiliary heads, by backbone name; each takes the number of classes.
AUXILIARY: dict[str, Callable[[int], list[AuxiliaryHead]]] = {
    "inception_v3": _inception_v3,
    "googlenet": _googlenet,
}
