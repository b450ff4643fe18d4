"""Auxiliary heads: classifiers on a block in the middle that help the blocks below it learn, and no more.

Inception v1 and v3 were trained with them (Szegedy et al. 2014 and 2015). Their losses join the last head's
while a phase trains the block that they sit on; prediction leaves them out.
"""

from collections.abc import Callable

import torch
from timm.models.inception_v3 import InceptionAux as _InceptionV3Aux
from torch import nn
from torch.nn import functional as F
from torchvision.models.googlenet import InceptionAux as _GoogLeNetAux

_SIDE = 17  # of the map that Inception v3's auxiliary head was made for


class AuxiliaryHead(nn.Module):
    """One auxiliary classifier.

    Attributes:
        block: Name of the block whose output it takes.
        prefix: Of its tensors in the backbone's weight files.
        classifier: The names of its last layer there, which knows other classes.
    """

    def __init__(self, block: str, prefix: str, body: nn.Module, *, classifier: str, least: int) -> None:
        super().__init__()
        self.block = block
        self.prefix = prefix
        self.classifier = classifier
        self.body = body
        self._least = least

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (B, num_classes), of the block's output, shape (B, C, h, w)."""
        if min(x.shape[-2:]) < self._least:  # images smaller than the network was made for
            x = F.adaptive_avg_pool2d(x, self._least)
        logits: torch.Tensor = self.body(x)
        return logits


def _inception_v3(num_classes: int) -> list[AuxiliaryHead]:
    body = _InceptionV3Aux(768, num_classes)
    return [AuxiliaryHead("Mixed_6e", "AuxLogits.", body, classifier="fc.", least=_SIDE)]


def _googlenet(num_classes: int) -> list[AuxiliaryHead]:
    return [
        AuxiliaryHead(block, prefix, _GoogLeNetAux(channels, num_classes), classifier="fc2.", least=1)
        for block, prefix, channels in (("inception4a", "aux1.", 512), ("inception4d", "aux2.", 528))
    ]


AUXILIARY: dict[str, Callable[[int], list[AuxiliaryHead]]] = {
    "inception_v3": _inception_v3,
    "googlenet": _googlenet,
}
