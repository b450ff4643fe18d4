"""How images look apart from what they show: moments of a pretrained network's first maps."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distracted.data.loading import Batch, Loader
from distracted.inference.cached_rows import cached_rows
from distracted.models.network import Network
from distracted.progress import Progress, silent
from distracted.schema import Box

_NUM_BLOCKS = 3  # from the input on


def cached_styles(
    network: Network,
    loader: Callable[[], Loader],
    *,
    contents: list[str],
    size: int,
    crop: float,
    regions: Sequence[Box] = (),
    folder: Path,
    progress: Progress = silent,
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Mean and standard deviation of each channel of the first blocks' outputs, (num_images, num_features).

    They tell light, colours and background (Huang and Belongie, ICCV 2017, call them style). With regions,
    those of all views are averaged. Arguments are those of `cached_features`.
    """
    device = network.mean.device
    inputs = [
        *network.trunk_identity(),
        _NUM_BLOCKS,
        size,
        crop,
        *regions,
        network.normalisation,
        device.type,
    ]
    key = sha256(repr(["styles 2", *inputs, *contents]).encode()).hexdigest()[:32]

    def start() -> tuple[Loader, Callable[[Batch], NDArray[np.float32]]]:
        styles = _Styles(network)
        return loader(), lambda batch: styles(batch.images).cpu().numpy()

    return cached_rows(
        folder / f"{key}.npy",
        len(contents),
        start=start,
        device=device,
        label="light and colours of the images",
        progress=progress,
        after_batch=after_batch,
    )


class _LastBlockError(Exception):
    """Ends the forward pass, so that later blocks are not computed."""


class _Styles:
    """Moments of the first blocks' outputs for a batch of uint8 images."""

    def __init__(self, network: Network) -> None:
        self._network = network.eval()
        self._moments: list[torch.Tensor] = []
        blocks = network.blocks[:_NUM_BLOCKS]
        self._is_last = {block.output: block is blocks[-1] for block in blocks}

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        views = images.flatten(0, -4)
        modules = {name: self._network.trunk.get_submodule(name) for name in self._is_last}
        # Before a hook of the network that ends the pass at the head's block.
        hooks = [
            module.register_forward_hook(self._hook(name), prepend=True) for name, module in modules.items()
        ]
        try:
            self._network.features(views)
        except _LastBlockError:
            styles = torch.cat(self._moments, dim=1)
        else:
            raise AssertionError("the last block's hook was not reached")
        finally:
            self._moments.clear()
            for hook in hooks:
                hook.remove()
        return styles.reshape(len(images), -1, styles.shape[1]).mean(1)

    def _hook(self, name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def save(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            maps = self._network.as_maps(output.float(), module)
            variance, mean = torch.var_mean(maps, (2, 3), correction=0)
            self._moments.append(torch.cat([mean, variance.sqrt()], dim=1))
            if self._is_last[name]:
                raise _LastBlockError

        return save
