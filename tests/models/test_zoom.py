"""The second look: where the window lies, and what the network makes of it."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from conftest import model_config
from distracted.errors import ConfigError
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights
from distracted.models.zoom import Zoom, reduce


def build(backbone: str, size: int, **settings: float) -> Network:
    torch.manual_seed(0)
    config = model_config(backbone, size).model_copy(update=settings)
    return build_network(config, Weights("none"), num_classes=3).eval()


def zoomed(backbone: str = "test_resnet", size: int = 32) -> Network:
    network = build(backbone, size, zoom=0.5)
    assert network.zoom is not None
    nn.init.normal_(network.zoom.classifier.weight)
    return network


def pictures(number: int, size: int) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (number, size, size, 3), dtype=np.uint8)
    )


def evidence(height: int, width: int, *hot: tuple[int, int]) -> tuple[Zoom, torch.Tensor]:
    """A zoom whose single feature speaks for class 1, and a map with evidence in some cells."""
    zoom = Zoom(1, 2, 0.5)
    with torch.no_grad():
        zoom.classifier.weight.copy_(torch.tensor([[0.0], [1.0]]))
    maps = torch.zeros(1, 1, height, width)
    for row, column in hot:
        maps[0, 0, row, column] = 1
    return zoom, maps


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 2), (3, 3), (0, 3)])
def test_the_place_is_the_cell_with_the_evidence(row: int, column: int) -> None:
    zoom, maps = evidence(4, 4, (row, column))
    [[down, across]] = zoom.find(maps, torch.ones(1, 1)).tolist()
    assert abs(down - (row + 0.5) / 4) < 0.1 and abs(across - (column + 0.5) / 4) < 0.1


def test_two_cells_side_by_side_outweigh_one() -> None:
    zoom, maps = evidence(7, 7, (0, 6), (5, 1), (6, 1))
    [[down, across]] = zoom.find(maps, torch.ones(1, 1)).tolist()
    assert down > 0.6 and across < 0.4


def test_evidence_for_another_class_does_not_count() -> None:
    """With a feature of -1 the classifier predicts class 0, for which the map has nothing to say."""
    zoom, maps = evidence(4, 4, (0, 0))
    assert zoom.find(maps, -torch.ones(1, 1)).tolist() == [[0.5, 0.5]]


def test_without_evidence_the_window_is_in_the_middle() -> None:
    zoom, maps = evidence(4, 4)
    assert zoom.find(maps, torch.ones(1, 1)).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("place", "top", "left"),
    [((0.5, 0.5), 16, 16), ((0.0, 1.0), 0, 32), ((0.3, 0.9), 3, 32), ((0.6, 0.1), 22, 0)],
)
def test_the_window_lies_around_the_place_and_within_the_image(
    place: tuple[float, float], top: int, left: int
) -> None:
    images = torch.rand(2, 3, 64, 64)
    cut = Zoom(1, 2, 0.5).cut(images, torch.tensor([place, place]), 32)
    assert torch.equal(cut, images[:, :, top : top + 32, left : left + 32])


def test_each_image_has_its_own_window() -> None:
    images = torch.rand(2, 3, 8, 8)
    cut = Zoom(1, 2, 0.5).cut(images, torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 4)
    assert torch.equal(cut[0], images[0, :, :4, :4]) and torch.equal(cut[1], images[1, :, 4:, 4:])


@pytest.mark.parametrize("side", [64, 48, 37])
def test_images_are_reduced_by_area_means(side: int) -> None:
    [image] = pictures(1, 96)
    reduced = reduce(image.permute(2, 0, 1)[None].float(), side)[0].permute(1, 2, 0).numpy()
    expected = cv2.resize(image.numpy(), (side, side), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(reduced, expected, atol=0.51)  # which is rounded


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_the_features_are_those_of_the_reduced_image_and_of_the_window(backbone: str) -> None:
    network, plain = zoomed(backbone, 64), build(backbone, 64)
    plain.trunk.load_state_dict(network.trunk.state_dict())
    assert network.zoom is not None
    nn.init.zeros_(network.zoom.classifier.weight)  # no evidence: the window is in the middle
    images = pictures(3, 128)
    reduced = nn.functional.avg_pool2d(images.permute(0, 3, 1, 2).float(), 2)
    whole, window = network.features(images).chunk(2, dim=1)
    torch.testing.assert_close(whole, plain.features(reduced.permute(0, 2, 3, 1)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(window, plain.features(images[:, 32:96, 32:96]), atol=1e-4, rtol=1e-4)
    assert network.head.classifier.in_features == 2 * plain.head.classifier.in_features


def test_both_classifiers_learn_and_a_frozen_base_does_not() -> None:
    network = zoomed().train()
    network.freeze_first(99)
    images, targets = pictures(4, 64), torch.tensor([0, 1, 2, 0])
    outputs = network.weighted_logits(images)
    assert len(outputs) == 2
    torch.stack(
        [weight * nn.functional.cross_entropy(logits, targets) for weight, logits in outputs]
    ).sum().backward()
    assert network.zoom is not None and network.zoom.classifier.weight.grad is not None
    assert network.head.classifier.weight.grad is not None
    assert all(parameter.grad is None for parameter in network.trunk.parameters())


def test_the_window_is_part_of_what_features_depend_on() -> None:
    network = zoomed()
    before = network.trunk_identity()
    assert network.zoom is not None
    with torch.no_grad():
        network.zoom.classifier.weight += 1
    assert network.trunk_identity() != before


@pytest.mark.parametrize("backbone", ["mlp", "cnn"])
def test_a_network_without_a_map_is_refused(backbone: str) -> None:
    with pytest.raises(ConfigError, match=f"model.zoom: {backbone} cannot say where to look"):
        zoomed(backbone)
