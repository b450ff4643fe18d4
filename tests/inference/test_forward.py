"""Folding BatchNorm into convolutions keeps predictions; networks that cannot be folded stay as they are."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distracted.inference.forward import Forward, Output, fold_batchnorm, worth_folding
from networks_with_statistics import BACKBONES, make_network, pictures


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_a_folded_network_gives_the_same_predictions(backbone: str) -> None:
    network, images = make_network(backbone), pictures(6, 64, 64, 3)
    folded = fold_batchnorm(network, images[:2])
    if not BACKBONES[backbone]:
        assert folded is None
        return
    assert folded is not None
    assert num_norms(folded) < num_norms(network)
    assert not any(module.training for module in network.modules())
    expected = network(images)
    assert (folded(images).log_softmax(1) - expected.log_softmax(1)).abs().max() < 1e-4
    assert expected.std(0).min() > 0  # predictions depend on the image


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


@torch.no_grad()
def test_folding_leaves_the_network_as_it_was() -> None:
    network, images = make_network("test_resnet"), pictures(2, 64, 64, 3)
    before, hooks = network(images), sum(len(m._forward_hooks) for m in network.modules())
    fold_batchnorm(network, images)
    assert torch.equal(network(images), before)
    assert sum(len(m._forward_hooks) for m in network.modules()) == hooks


@torch.no_grad()
def test_a_convolution_with_a_skip_past_its_norm_is_not_folded() -> None:
    """Its output goes to the BatchNorm and around it, so folding would change the network."""

    class SkipsNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return (x + self.norm(x)).mean((2, 3))

    network, images = make_network("test_resnet"), pictures(5, 64, 64, 3)
    network.trunk = SkipsNorm()
    network.trunk.norm.running_mean = torch.full((4,), 0.5)
    network.trunk.eval()
    network.head = nn.Linear(4, 5)  # type: ignore[assignment]
    forward = Forward(network, "logits", num_images=1000, precision="fp32")
    assert torch.equal(forward(images), network(images))


@pytest.mark.parametrize("output", ["logits", "features"])
@torch.no_grad()
def test_the_network_is_folded_for_many_images_only(output: Output) -> None:
    network, images = make_network("test_resnet"), pictures(5, 64, 64, 3)
    expected = network(images) if output == "logits" else network.features(images)
    few = Forward(network, output, num_images=100, precision="fp32")
    many = Forward(network, output, num_images=79_726, precision="fp32")
    assert torch.equal(few(images), expected)
    assert not torch.equal(many(images), expected)
    assert torch.allclose(many(images), expected, atol=1e-4)


def test_folding_pays_for_many_images() -> None:
    assert not worth_folding(100)
    assert worth_folding(79_726)
