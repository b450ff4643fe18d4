"""A fast forward pass of a trained network over many images.

Each BatchNorm is folded into the convolution before it; for half precision the trunk's weights are cast once,
while the normalisation of images and the head stay in fp32. If the result disagrees with the original network
on the first images, the original is used, under autocast.
"""

import logging
from contextlib import nullcontext
from copy import deepcopy
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from distracted.errors import TrainingError
from distracted.inference.device import DTYPES, Precision, autocast
from distracted.inference.memory import Attempt, is_out_of_memory, release_memory
from distracted.models.network import Network

_log = logging.getLogger(__name__)

#: What to compute: logits (B, num_classes), or the head's input (B, num_features).
Output = Literal["logits", "features"]

_WORTH_FOLDING = 500  # images: for fewer, folding takes as long as it saves
_TOLERANCE = 1e-4  # absolute for log-probabilities, relative to the largest for features
_MORE_ERROR = 2.0  # times autocast's error: what a network with a cast trunk may be off full precision
_NUM_COMPARED = 4  # images on which the two networks are compared


class Forward:
    """Maps uint8 images to float32 logits or features on the same device; folds on the first batch.

    Args:
        num_images: Number of images to come, which decides whether folding pays.
    """

    def __init__(self, network: Network, output: Output, *, num_images: int, precision: Precision) -> None:
        self._network, self._output, self._precision = network.eval(), output, precision
        self._is_ready = not worth_folding(num_images)
        self._is_cast = False  # autocast then has nothing to do
        self._most = 0  # images at a time; 0: all of a batch

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map a batch, in parts if the device runs out of memory; the size that fits is kept.

        Raises:
            TrainingError: the memory does not hold one image.
        """
        if not self._is_ready:
            self._prepare(images[:_NUM_COMPARED])
        while True:
            size = self._most or len(images)
            with Attempt() as attempt:
                return torch.cat([self._run(self._network, part) for part in torch.split(images, size)])
            self._halve(min(size, len(images)), attempt.failure)
            release_memory(images.device)

    def _halve(self, size: int, failure: str) -> None:
        if size == 1:
            raise TrainingError(
                f"the device's memory does not hold one image ({failure}); a smaller model.image_size needs "
                "less, and so does a device without other processes"
            )
        self._most = size // 2
        _log.warning("the device ran out of memory: from now on %d images at a time", self._most)

    def _prepare(self, images: torch.Tensor) -> None:
        """Replace the network by a faster one, if that agrees with it on some images."""
        self._is_ready = True
        with Attempt():  # without memory for a second network the first is used as it is
            faster = fold_batchnorm(self._network, images)
            if self._precision != "fp32":
                faster = faster or deepcopy(self._network)
                faster.cast_trunk(DTYPES[self._precision])
            if faster is not None and self._agrees(faster, images):
                self._network, self._is_cast = faster, self._precision != "fp32"

    def _agrees(self, faster: Network, images: torch.Tensor) -> bool:
        network = self._network
        if self._precision == "fp32":
            return self._difference(self._rows(faster, images), self._rows(network, images)) <= _TOLERANCE
        exact = self._rows(network, images)
        error = self._difference(self._run(network, images), exact)
        try:
            return self._difference(self._rows(faster, images), exact) <= _MORE_ERROR * error + _TOLERANCE
        except RuntimeError as failed:  # an architecture with layers of mixed types
            if is_out_of_memory(failed):
                raise
            return False

    def _run(self, network: Network, images: torch.Tensor) -> torch.Tensor:
        with nullcontext() if self._is_cast else autocast(images.device, self._precision):
            return self._rows(network, images)

    def _rows(self, network: Network, images: torch.Tensor) -> torch.Tensor:
        return (network(images) if self._output == "logits" else network.features(images)).float()

    def _difference(self, rows: torch.Tensor, expected: torch.Tensor) -> float:
        """Largest difference of log-probabilities, or of features as a share of the largest."""
        if self._output == "logits":
            return float((rows.log_softmax(1) - expected.log_softmax(1)).abs().max())
        return float((rows - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def worth_folding(num_images: int) -> bool:
    """Whether folding saves more time on this many images than it takes."""
    return num_images >= _WORTH_FOLDING


@torch.no_grad()
def fold_batchnorm(network: Network, images: torch.Tensor) -> Network | None:
    """Copy a network in eval mode and fold each BatchNorm that follows a convolution into it.

    Args:
        images: A few images for a forward pass that shows which module follows which.

    Returns:
        The folded copy, or None if there is nothing to fold.
    """
    folded = deepcopy(network).eval()
    convs: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}  # keeps the outputs alive: an id may be reused
    pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []

    def after_conv(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        convs[id(output)] = module, output

    def after_norm(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, _BatchNorm)
        if before := convs.get(id(inputs[0])):
            pairs.append((before[0], module))

    modules = dict(folded.trunk.named_modules())
    hooks = [m.register_forward_hook(after_conv) for m in modules.values() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_hook(after_norm) for m in modules.values() if isinstance(m, _BatchNorm)]
    folded.features(images)
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in modules.items()}
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        parent, _, name = names[norm].rpartition(".")
        # timm's BatchNormAct modules contain the activation that follows
        setattr(modules[parent], name, getattr(norm, "act", nn.Identity()))
    return folded.to(memory_format=torch.channels_last) if pairs else None
