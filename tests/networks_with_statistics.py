"""Untrained networks with the BatchNorm statistics and head of a trained one, and images for them."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distracted.config import load_config
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights
from distracted.schema import ModelConfig


def make_network(backbone: str, size: int = 64, **model: Any) -> Network:
    """A network with random statistics, scales and shifts in each BatchNorm, in eval mode."""
    settings = load_config(model="resnet50", data="sample").model.model_dump(by_alias=True)
    settings |= {"backbone": backbone, "image_size": size, "crop": 1.0, **model}
    torch.manual_seed(0)
    network = build_network(ModelConfig.model_validate(settings), Weights("none"), num_classes=5)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def pictures(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


#: Backbones, and whether they have BatchNorm that can be folded into convolutions.
BACKBONES = {
    "cnn": 0,
    "test_resnet": 1,
    "test_efficientnet": 1,
    "densenet121": 1,
    "mobilenetv2_100": 1,
    "googlenet": 1,
    "test_convnext": 0,
}
