"""Folding BatchNorm into convolutions keeps predictions; networks that cannot be folded stay as they are."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

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


class CountOperations(TorchDispatchMode):
    """Counts the operations that are computed; views of a tensor are none."""

    num = 0
    views = ("view", "permute", "t.", "transpose", "detach", "expand", "slice", "select", "split")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += not str(func).startswith(tuple(f"aten.{name}" for name in self.views))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_in_half_precision_weights_are_cast_once() -> None:
    """ResNet50 takes 288 operations under autocast, 127 when it is folded and cast."""
    network, images = make_network("resnet50"), pictures(4, 64, 64, 3)
    forward = Forward(network, "logits", num_images=79_726, precision="bf16")
    log_probs = forward(images).log_softmax(1)
    with CountOperations() as counted:
        forward(images)
    assert counted.num <= 130
    exact = network(images).log_softmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        error = (network(images).float().log_softmax(1) - exact).abs().max()
    assert (log_probs - exact).abs().max() <= 2 * error
    assert network.trunk.conv1.weight.dtype == torch.float32  # type: ignore[union-attr]


@torch.no_grad()
def test_normalisation_and_head_stay_in_full_precision() -> None:
    network, images = make_network("test_resnet"), pictures(4, 64, 64, 3)
    network.cast_trunk(torch.bfloat16)
    seen: list[torch.dtype] = []
    network.head.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    assert network(images).dtype == torch.float32 and seen == [torch.float32, torch.float32]
    assert network.mean.dtype == network.head.classifier.weight.dtype == torch.float32


@torch.no_grad()
def test_a_network_that_cannot_be_cast_stays_under_autocast() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.float()).mean((2, 3))

    network, images = make_network("test_resnet"), pictures(4, 64, 64, 3)
    network.trunk, network.head = Mixed().eval(), nn.Linear(4, 5)  # type: ignore[assignment]
    forward = Forward(network, "logits", num_images=1000, precision="bf16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = network(images)
    assert torch.equal(forward(images), expected.float())
