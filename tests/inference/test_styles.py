"""Moments of a network's first maps, whatever the layout of its maps and wherever its head is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import model_config
from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.inference.styles import cached_styles
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights


def network_of(backbone: str, size: int = 32, **head: object) -> Network:
    torch.manual_seed(0)
    return build_network(model_config(backbone, size, **head), Weights("none"), num_classes=3)


def styles_of(network: Network, competition: Competition, folder: Path) -> np.ndarray:
    augmenter, rows = Augmenter((), size=32, crop=1.0, seed=0), np.array([4, 2])
    loader = Loader(Files(competition.train_paths()), rows, augmenter, batch_size=2, num_workers=0)
    return cached_styles(network, lambda: loader, contents=["a", "b"], size=32, crop=1.0, folder=folder)


def test_they_are_mean_and_deviation_of_each_channel(competition: Competition, tmp_path: Path) -> None:
    network = network_of("test_resnet")
    images = np.stack([np.asarray(batch) for batch in _inputs(competition)])
    maps: list[torch.Tensor] = []
    hooks = [
        network.trunk.get_submodule(block.output).register_forward_hook(lambda *call: maps.append(call[2]))
        for block in network.blocks[:3]
    ]
    with torch.no_grad():
        network.eval().features(torch.from_numpy(images))
    for hook in hooks:
        hook.remove()
    expected = [np.r_[m.mean((2, 3)).T, m.std((2, 3), correction=0).T].T for m in maps]
    found = styles_of(network, competition, tmp_path)
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-4)


def _inputs(competition: Competition) -> list[np.ndarray]:
    augmenter = Augmenter((), size=32, crop=1.0, seed=0)
    files = Files(competition.train_paths())
    [batch] = Loader(files, np.array([4, 2]), augmenter, batch_size=2, num_workers=0).epoch()
    return [image.numpy() for image in batch.images]


@pytest.mark.parametrize(
    ("backbone", "num_channels"),
    [
        ("vit_small_patch16_dinov3", 3 * 384),  # its patches alone are channels-last
        ("test_vit", 3 * 64),
        ("test_efficientnet", 16 + 24 + 24),
    ],
)
def test_any_layout_of_maps_gives_two_numbers_a_channel(
    backbone: str, num_channels: int, competition: Competition, tmp_path: Path
) -> None:
    styles = styles_of(network_of(backbone), competition, tmp_path)
    assert styles.shape == (2, 2 * num_channels) and np.isfinite(styles).all()


def test_a_head_on_an_early_block(competition: Competition, tmp_path: Path) -> None:
    whole, cut = network_of("test_resnet"), network_of("test_resnet", block="layer1")
    early = styles_of(cut, competition, tmp_path)
    assert 0 < early.shape[1] < styles_of(whole, competition, tmp_path).shape[1]
    patches = network_of("vit_small_patch16_dinov3", block="stem")
    assert patches.features(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (2, 384)
