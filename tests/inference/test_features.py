"""Frozen features: computed once, found by what they were made from, anew when any of it changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import model_config
from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.errors import ConfigError
from distracted.inference.device import find_device, find_precision, find_workers
from distracted.inference.features import cached_features
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights

CPU = torch.device("cpu")


def extract(network: Network, competition: Competition, folder: Path, **changes: object) -> np.ndarray:
    settings = {"size": 32, "crop": 1.0, "contents": competition.train["content"].tolist(), **changes}
    augmenter = Augmenter((), size=32, crop=1.0, seed=0)
    rows = np.arange(len(competition.train))
    loader = Loader(competition.train_paths(), rows, augmenter, batch_size=8, num_workers=0)
    return cached_features(
        network, loader, folder=folder / "features", device=CPU, precision="fp32", **settings
    )  # type: ignore[arg-type]


def test_they_are_the_networks_own(network: Network, competition: Competition, tmp_path: Path) -> None:
    features = extract(network, competition, tmp_path)
    augmenter = Augmenter((), size=32, crop=1.0, seed=0)
    loader = Loader(competition.train_paths(), np.array([4, 2]), augmenter, batch_size=2, num_workers=0)
    [batch] = loader.epoch()
    with torch.no_grad():
        expected = network.eval().features(batch.images).numpy()
    np.testing.assert_allclose(features[[4, 2]], expected, atol=1e-5)


def test_the_second_time_they_come_from_disk(
    network: Network, competition: Competition, tmp_path: Path
) -> None:
    first = np.array(extract(network, competition, tmp_path))  # not the file itself
    [path] = (tmp_path / "features").iterdir()
    np.save(path, first + 1)
    np.testing.assert_array_equal(extract(network, competition, tmp_path), first + 1)


@pytest.mark.parametrize(
    "change",
    ["weights", "size", "crop", "regions", "box", "content", "normalisation", "backbone", "block", "pooling"],
)
def test_any_change_computes_them_anew(
    change: str, network: Network, competition: Competition, tmp_path: Path
) -> None:
    first = {"regions": [(0.0, 0.0, 0.5, 0.6)]} if change == "box" else {}
    extract(network, competition, tmp_path, **first)
    changes: dict[str, object] = {}
    if change in ("regions", "box"):
        changes["regions"] = [(0.0, 0.0, 0.5, 0.5)]
    elif change == "weights":
        with torch.no_grad():
            next(network.trunk.parameters()).mul_(1.5)
    elif change == "backbone":  # another architecture may have tensors of the same names and shapes
        network.backbone = replace(network.backbone, name="test_resnet_same_pad")
    elif change in ("block", "pooling"):  # where and how the features leave the same trunk
        head = {"block": network.blocks[-2].name} if change == "block" else {"pooling": "flatten"}
        state = network.trunk.state_dict()
        network = build_network(model_config("test_resnet", 32, **head), Weights("none"), num_classes=3)
        network.trunk.load_state_dict(state)
    elif change == "normalisation":
        network.mean += 1
    elif change == "content":
        changes["contents"] = ["other", *competition.train["content"].tolist()[1:]]
    else:
        changes[change] = 0.9 if change == "crop" else 31
    extract(network, competition, tmp_path, **changes)
    assert len(list((tmp_path / "features").iterdir())) == 2


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_file_is_replaced(
    cut: bool, network: Network, competition: Competition, tmp_path: Path
) -> None:
    first = np.array(extract(network, competition, tmp_path))  # the file itself is about to be damaged
    [path] = (tmp_path / "features").iterdir()
    path.write_bytes(path.read_bytes()[:-4] if cut else b"half a file")
    np.testing.assert_array_equal(extract(network, competition, tmp_path), first)
    np.testing.assert_array_equal(np.load(path), first)


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    assert find_precision("auto", CPU) == "fp32"
    assert find_workers("auto", CPU) == 0 and find_workers(3, CPU) == 3
    with pytest.raises(ConfigError, match=r"runtime\.device=nonsense"):
        find_device("nonsense")
    with pytest.raises(ConfigError, match=r"training\.precision=fp16"):
        find_precision("fp16", CPU)
