"""Where in a picture a network sees a class: Grad-CAM (Selvaraju et al. 2017), for maps and for tokens."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distracted.inference.device import move
from distracted.models.network import Network

_LEAST = 4  # positions on a side below which a map shows nothing


class _Kept:
    """A forward hook that keeps a module's output as the start of the graph above it."""

    def __init__(self) -> None:
        self.output = torch.empty(0)

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        self.output = output.detach().requires_grad_(True)
        return self.output.clone()  # what follows may work in place


def class_activation(
    network: Network, images: torch.Tensor, classes: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Where the logits of some classes come from, in the last of the trunk's blocks that still has a map.

    That is the last whose output is at least 4 x 4 positions; of tokens the last but one, since above it a
    class token may be all that is read. With regions the map is that of the whole picture.

    Args:
        network: Its weights stay as they are; left in eval mode.
        images: As the network takes them, uint8, (B, H, W, 3) or (B, R, H, W, 3).
        classes: Class ids, (B, num_asked).

    Returns:
        From 0 (nothing, or against the class) to 1 (each map's own maximum), (B, num_asked, h, w); None
        where no block has a map, as in a multi-layer perceptron.
    """
    network.eval()
    images = move(images, network.mean.device)
    kept, name = _Kept(), _find_map(network, images[:1])
    if name is None:
        return None
    module = network.trunk.get_submodule(name)
    handle = module.register_forward_hook(kept, prepend=True)  # before a hook that ends the forward pass
    try:
        with torch.enable_grad():
            logits = network(images)
            maps = [_activation(network, kept.output, logits, asked, len(images)) for asked in classes.T]
    finally:
        handle.remove()
    return np.stack(maps, axis=1)


def _activation(
    network: Network, output: torch.Tensor, logits: torch.Tensor, asked: NDArray[np.int64], num: int
) -> NDArray[np.float32]:
    chosen = logits[torch.arange(num), torch.as_tensor(asked, device=logits.device)]
    (gradient,) = torch.autograd.grad(chosen.sum(), output, retain_graph=True)
    values, slopes = (_as_maps(network, tensor.detach().float()) for tensor in (output, gradient))
    values, slopes = (tensor.reshape(num, -1, *tensor.shape[1:])[:, 0] for tensor in (values, slopes))
    found = (slopes.mean((2, 3), keepdim=True) * values).sum(1).relu()
    found = found / found.amax((1, 2), keepdim=True).clamp_min(1e-12)
    maps: NDArray[np.float32] = found.cpu().numpy()
    return maps


def _find_map(network: Network, image: torch.Tensor) -> str | None:
    """Name of the module whose output is looked at."""
    shapes: list[tuple[str, bool, int]] = []  # name, whether it is tokens, positions on the shorter side

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            if isinstance(output, torch.Tensor) and output.ndim in (3, 4):
                shapes.append((name, output.ndim == 3, min(_as_maps(network, output).shape[2:])))

        return hook

    blocks = network.blocks
    handles = [
        network.trunk.get_submodule(block.output).register_forward_hook(look(block.output), prepend=True)
        for block in blocks
    ]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    if shapes and shapes[-1][1]:
        return shapes[max(0, len(shapes) - 2)][0]
    large = [name for name, _, side in shapes if side >= _LEAST]
    return large[-1] if large else max(shapes, key=lambda shape: shape[2], default=(None,))[0]


def _as_maps(network: Network, output: torch.Tensor) -> torch.Tensor:
    """A block's output as (B, C, h, w): maps, some transformers' (B, h, w, C), or tokens (B, N, C)."""
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if getattr(network.trunk, "output_fmt", "") == "NHWC" else output
    num_prefix = getattr(network.trunk, "num_prefix_tokens", 0)
    tokens = output[:, num_prefix:]
    side = int(tokens.shape[1] ** 0.5)
    return tokens[:, : side * side].transpose(1, 2).reshape(len(tokens), -1, side, side)
