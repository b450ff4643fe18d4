"""What is folded or exported predicts what the network predicts, and what cannot be is left as it is."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distracted.config import load_config
from distracted.errors import ConfigError
from distracted.inference.engine import Ready, by_onnx_runtime, find_way, fold_batchnorm
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights
from distracted.schema import ModelConfig

CPU = torch.device("cpu")


def make_network(backbone: str, size: int = 64, **model: Any) -> Network:
    """With statistics and a head as if it had learned."""
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


BACKBONES = {
    "cnn": 0,
    "test_resnet": 1,
    "test_efficientnet": 1,
    "densenet121": 1,
    "mobilenetv2_100": 1,
    "googlenet": 1,
    "test_convnext": 0,
}


@pytest.mark.parametrize("way", ["folded", "onnx"])
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_every_way_gives_the_same_predictions(backbone: str, way: str) -> None:
    network, images = make_network(backbone), pictures(6, 64, 64, 3)
    if way == "onnx":
        found = by_onnx_runtime(network, "logits", images[:2])(images)
    else:
        folded = fold_batchnorm(network, images[:2])
        if not BACKBONES[backbone]:
            assert folded is None
            return
        assert folded is not None
        assert num_norms(folded) < num_norms(network)
        found = folded(images)
    assert not any(module.training for module in network.modules())
    expected = network(images)
    assert (found.log_softmax(1) - expected.log_softmax(1)).abs().max() < 1e-4
    assert expected.std(0).min() > 0  # they do say something


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


@torch.no_grad()
def test_folding_leaves_the_network_as_it_was() -> None:
    network, images = make_network("test_resnet"), pictures(2, 64, 64, 3)
    before, hooks = network(images), sum(len(m._forward_hooks) for m in network.modules())
    fold_batchnorm(network, images)
    assert torch.equal(network(images), before)
    assert sum(len(m._forward_hooks) for m in network.modules()) == hooks


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"regions": ["head", "hands"]}, (3, 64, 64, 3)),
        ({"head": {"block": "layer2", "dropout": 0.2}}, (64, 64, 3)),
        ({"head": {"pooling": "flatten", "hidden": 7, "dropout": 0.2}}, (64, 64, 3)),
    ],
)
@pytest.mark.parametrize("part", ["logits", "features"])
@torch.no_grad()
def test_regions_and_other_heads_go_through_onnx(settings: Any, shape: tuple[int, ...], part: Any) -> None:
    network = make_network("test_resnet", **settings)
    images = pictures(5, *shape)
    expected = network(images) if part == "logits" else network.features(images)
    found = by_onnx_runtime(network, part, images[:2])(images)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4)


@torch.no_grad()
def test_what_has_no_export_is_said_and_torch_predicts(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x @ x.mT).abs()[..., None]

    network, images = make_network("test_resnet"), pictures(5, 64, 64, 3)
    network.trunk = nn.Sequential(nn.AdaptiveAvgPool2d(4), Odd(), nn.Flatten())
    network.head = nn.Linear(12, 5)  # type: ignore[assignment]
    ready = Ready(network, "logits", num_images=1000, device=CPU, precision="fp32", engine="onnx")
    with caplog.at_level(logging.INFO):
        assert torch.equal(ready(images), network(images))
    assert "ONNX Runtime cannot take test_resnet" in caplog.text


@torch.no_grad()
def test_a_norm_that_is_not_all_that_follows_is_not_folded() -> None:
    """What a convolution gives goes to its BatchNorm and past it: folded it would be another network."""

    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return (x + self.norm(x)).mean((2, 3))

    network, images = make_network("test_resnet"), pictures(5, 64, 64, 3)
    network.trunk = Past()
    network.trunk.norm.running_mean = torch.full((4,), 0.5)
    network.trunk.eval()
    network.head = nn.Linear(4, 5)  # type: ignore[assignment]
    ready = Ready(network, "logits", num_images=1000, device=CPU, precision="fp32", engine="torch")
    assert torch.equal(ready(images), network(images))


def test_the_way_depends_on_what_there_is_to_do() -> None:
    assert find_way(100, device=CPU, precision="fp32") == "plain"
    assert find_way(79_726, device=CPU, precision="fp32") == "folded"
    assert find_way(79_726, device=CPU, precision="bf16") == "folded"
    assert find_way(100, device=CPU, precision="fp32", engine="onnx") == "onnx"
    with pytest.raises(ConfigError, match=r"runtime.engine=onnx: expected .* got bf16 on cpu"):
        find_way(100, device=CPU, precision="bf16", engine="onnx")
