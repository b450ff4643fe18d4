"""Grad-CAM (Selvaraju et al. 2017), for convolutional feature maps and for transformers' tokens."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distracted.inference.device import move
from distracted.models.network import Network

_MIN_SIDE = 4  # positions; a smaller map is too coarse to show anything


def class_activation(
    network: Network, images: torch.Tensor, classes: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Grad-CAM maps of some classes, from the last block with a usable feature map.

    In a convolutional network that is the last block of at least 4 x 4 positions. With tokens it is the last
    but one, since after the last block only a class token may be read. With regions, the map covers the
    whole image.

    Args:
        network: Set to eval mode; its weights do not change.
        images: The network's input, uint8, shape (B, H, W, 3) or (B, R, H, W, 3).
        classes: Class ids, shape (B, num_maps).

    Returns:
        Shape (B, num_maps, h, w), from 0 (no evidence for the class) to 1 (the maximum of each map); None
        where no block has a map, as in a multi-layer perceptron.
    """
    network.eval()
    images = move(images, network.mean.device)
    name = _find_module(network, images[:1])
    if name is None:
        return None
    leaves: list[torch.Tensor] = []  # the module's output, as a leaf of the autograd graph

    def cut(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        torch.set_grad_enabled(True)  # from here on: the layers before need no graph, which is most of it
        leaves.append(output.detach().requires_grad_(True))
        return leaves[0].clone()  # the next module may work in place

    module = network.trunk.get_submodule(name)
    handle = module.register_forward_hook(cut, prepend=True)  # before the hook that ends the forward pass
    try:
        with torch.no_grad():
            logits = network(images)
            output = leaves[0]
            maps = [_activation(network, module, output, logits, labels) for labels in classes.T]
    finally:
        handle.remove()
    return np.stack(maps, axis=1)


def _activation(
    network: Network,
    module: nn.Module,
    output: torch.Tensor,
    logits: torch.Tensor,
    labels: NDArray[np.int64],
) -> NDArray[np.float32]:
    num_images = len(logits)
    chosen = logits[torch.arange(num_images), torch.as_tensor(labels, device=logits.device)]
    (gradient,) = torch.autograd.grad(chosen.sum(), output, retain_graph=True)
    values, slopes = (network.as_maps(tensor.detach().float(), module) for tensor in (output, gradient))
    values, slopes = (tensor.reshape(num_images, -1, *tensor.shape[1:])[:, 0] for tensor in (values, slopes))
    cam = (slopes.mean((2, 3), keepdim=True) * values).sum(1).relu()
    cam = cam / cam.amax((1, 2), keepdim=True).clamp_min(1e-12)
    maps: NDArray[np.float32] = cam.cpu().numpy()
    return maps


def _find_module(network: Network, image: torch.Tensor) -> str | None:
    """Name of the module whose output Grad-CAM uses, found by a forward pass."""
    shapes: list[tuple[str, bool, int]] = []  # name, whether it has tokens, positions on the shorter side

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            if isinstance(output, torch.Tensor) and output.ndim in (3, 4):
                shapes.append((name, output.ndim == 3, min(network.as_maps(output, module).shape[2:])))

        return hook

    handles = [
        network.trunk.get_submodule(block.output).register_forward_hook(record(block.output), prepend=True)
        for block in network.blocks
    ]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    if shapes and shapes[-1][1]:
        return shapes[max(0, len(shapes) - 2)][0]
    large = [name for name, _, side in shapes if side >= _MIN_SIDE]
    return large[-1] if large else max(shapes, key=lambda shape: shape[2], default=(None,))[0]
