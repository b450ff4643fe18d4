"""Grad-CAM: a known answer, maps of every kind of network, and a network that is left as it was."""

import numpy as np
import pytest
import torch

from conftest import model_config
from distracted.inference.gradcam import class_activation
from distracted.models.network import Network, build_network, fingerprint
from distracted.models.weights import Weights


def pictures(num: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, size, size, 3), dtype=torch.uint8, generator=generator)


def test_the_map_is_what_the_definition_says(network: Network) -> None:
    """With a linear head on a mean over positions the gradient is the head's weight over their number."""
    images = pictures(2, 32)
    before = fingerprint(network)
    found = class_activation(network, images, np.array([[0, 1], [2, 2]]))
    assert found is not None and found.shape == (2, 2, 4, 4)
    outputs: list[torch.Tensor] = []
    trunk = network.trunk
    trunk.get_submodule("layer2").register_forward_hook(lambda m, i, output: outputs.append(output))
    for image, asked, maps in zip(images, ((0, 1), (2, 2)), found, strict=True):
        for label, heat in zip(asked, maps, strict=True):
            outputs.clear()
            logits = network(image[None])
            slope = torch.autograd.grad(logits[0, label], outputs[0])[0][0]
            expected = (slope.mean((1, 2), keepdim=True) * outputs[0][0]).sum(0).relu().detach()
            np.testing.assert_allclose(heat, expected / expected.max(), rtol=1e-4, atol=1e-6)
    assert fingerprint(network) == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training


def test_what_speaks_against_a_class_is_not_shown(network: Network) -> None:
    with torch.no_grad():
        network.head.classifier.weight.zero_()
    found = class_activation(network, pictures(1, 32), np.array([[0]]))
    assert found is not None and (found == 0).all()


@pytest.mark.parametrize(
    ("backbone", "size", "shape"),
    [
        ("test_vit", 64, (4, 4)),
        ("test_convnext", 64, (4, 4)),
        ("cnn", 32, (4, 4)),
        ("test_resnet", 16, (4, 4)),
    ],
)
def test_maps_and_tokens_both_have_places(backbone: str, size: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_network(model_config(backbone, size), Weights("none"), num_classes=3)
    found = class_activation(network, pictures(2, size), np.array([[0], [1]]))
    assert found is not None and found.shape[2:] == shape
    assert ((found >= 0) & (found <= 1)).all() and np.isfinite(found).all()


def test_of_regions_it_is_the_whole_picture_that_is_shown() -> None:
    torch.manual_seed(0)
    config = model_config("test_resnet", 32).model_copy(update={"regions": ("head",)})
    network = build_network(config, Weights("none"), num_classes=3)
    whole = pictures(2, 32)
    images = torch.stack([whole, whole.flip(1)], dim=1)
    found = class_activation(network, images, np.array([[0], [1]]))
    assert found is not None and found.shape == (2, 1, 4, 4)


def test_a_head_on_an_earlier_block_and_a_network_without_maps() -> None:
    torch.manual_seed(0)
    early = build_network(model_config("test_resnet", 64, block="layer2"), Weights("none"), num_classes=3)
    found = class_activation(early, pictures(1, 64), np.array([[0]]))
    assert found is not None and found.shape[2:] == (8, 8)
    flat = build_network(model_config("mlp", 32), Weights("none"), num_classes=3)
    assert class_activation(flat, pictures(1, 32), np.array([[0]])) is None
