"""Grad-CAM has a known answer, works for every kind of network, and changes no network."""

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


def test_the_map_follows_the_definition(network: Network) -> None:
    """ReLU of the feature map's channels, weighted by the mean gradient of the class's logit."""
    images = pictures(2, 32)
    before = fingerprint(network)
    cams = class_activation(network, images, np.array([[0, 1], [2, 2]]))
    assert cams is not None and cams.shape == (2, 2, 4, 4)
    outputs: list[torch.Tensor] = []
    trunk = network.trunk
    trunk.get_submodule("layer2").register_forward_hook(lambda m, i, output: outputs.append(output))
    for image, labels, maps in zip(images, ((0, 1), (2, 2)), cams, strict=True):
        for label, cam in zip(labels, maps, strict=True):
            outputs.clear()
            logits = network(image[None])
            gradient = torch.autograd.grad(logits[0, label], outputs[0])[0][0]
            expected = (gradient.mean((1, 2), keepdim=True) * outputs[0][0]).sum(0).relu().detach()
            np.testing.assert_allclose(cam, expected / expected.max(), rtol=1e-4, atol=1e-6)
    assert fingerprint(network) == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training


def test_layers_before_the_map_keep_nothing_for_a_gradient(network: Network) -> None:
    """For ResNet50 at 224 pixels they would keep 86 MB an image."""
    kept: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        class_activation(network, pictures(2, 32), np.array([[0], [1]]))
    maps = [shape for shape in kept if len(shape) == 4 and shape[0] == 2]  # (B, C, h, w)
    assert maps and all(max(shape[2:]) <= 4 for shape in maps)


def test_without_evidence_for_a_class_the_map_is_zero(network: Network) -> None:
    with torch.no_grad():
        network.head.classifier.weight.zero_()
    cams = class_activation(network, pictures(1, 32), np.array([[0]]))
    assert cams is not None and (cams == 0).all()


@pytest.mark.parametrize(
    ("backbone", "size", "shape"),
    [
        ("test_vit", 64, (4, 4)),
        ("test_convnext", 64, (4, 4)),
        ("cnn", 32, (4, 4)),
        ("test_resnet", 16, (4, 4)),
    ],
)
def test_feature_maps_and_tokens_both_work(backbone: str, size: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_network(model_config(backbone, size), Weights("none"), num_classes=3)
    cams = class_activation(network, pictures(2, size), np.array([[0], [1]]))
    assert cams is not None and cams.shape[2:] == shape
    assert ((cams >= 0) & (cams <= 1)).all() and np.isfinite(cams).all()


def test_with_regions_the_map_covers_the_whole_image() -> None:
    torch.manual_seed(0)
    config = model_config("test_resnet", 32).model_copy(update={"regions": ("head",)})
    network = build_network(config, Weights("none"), num_classes=3)
    whole = pictures(2, 32)
    images = torch.stack([whole, whole.flip(1)], dim=1)
    cams = class_activation(network, images, np.array([[0], [1]]))
    assert cams is not None and cams.shape == (2, 1, 4, 4)


def test_a_head_on_an_earlier_block_and_a_network_without_maps() -> None:
    torch.manual_seed(0)
    early = build_network(model_config("test_resnet", 64, block="layer2"), Weights("none"), num_classes=3)
    cams = class_activation(early, pictures(1, 64), np.array([[0]]))
    assert cams is not None and cams.shape[2:] == (8, 8)
    flat = build_network(model_config("mlp", 32), Weights("none"), num_classes=3)
    assert class_activation(flat, pictures(1, 32), np.array([[0]])) is None
