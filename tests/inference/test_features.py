"""Frozen features: computed once, cached by their inputs, resumed after an interruption."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import RecordedProgress, dead_owner, model_config, write_owner
from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.errors import TrainingError
from distracted.inference.features import cached_features
from distracted.locks import this_process
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights

CPU = torch.device("cpu")


def extract(
    network: Network, competition: Competition, folder: Path, *, batch_size: int = 8, **changes: object
) -> np.ndarray:
    settings: dict[str, object] = {"size": 32, "crop": 1.0, "precision": "fp32"}
    settings |= {"contents": competition.train["content"].tolist(), **changes}
    augmenter = Augmenter((), size=32, crop=1.0, seed=0)
    rows = np.arange(len(competition.train))
    loader = Loader(Files(competition.train_paths()), rows, augmenter, batch_size=batch_size, num_workers=0)
    return cached_features(network, lambda: loader, folder=folder / "features", **settings)  # type: ignore[arg-type]


def test_cached_features_equal_those_of_the_network(
    network: Network, competition: Competition, tmp_path: Path
) -> None:
    features = extract(network, competition, tmp_path)
    augmenter = Augmenter((), size=32, crop=1.0, seed=0)
    loader = Loader(
        Files(competition.train_paths()), np.array([4, 2]), augmenter, batch_size=2, num_workers=0
    )
    [batch] = loader.epoch()
    with torch.no_grad():
        expected = network.eval().features(batch.images).numpy()
    np.testing.assert_allclose(features[[4, 2]], expected, atol=1e-5)


def test_the_second_call_reads_the_file(network: Network, competition: Competition, tmp_path: Path) -> None:
    first = np.array(extract(network, competition, tmp_path))  # a copy, since the file is overwritten below
    [path] = (tmp_path / "features").iterdir()
    np.save(path, first + 1)
    np.testing.assert_array_equal(extract(network, competition, tmp_path), first + 1)


@pytest.mark.parametrize(
    "change",
    ["weights", "size", "crop", "regions", "box", "content", "normalisation", "backbone", "block", "pooling"],
)
def test_a_change_of_any_input_makes_a_new_file(
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
    elif change in ("block", "pooling"):  # other features of the same trunk
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
    first = np.array(extract(network, competition, tmp_path))  # a copy, since the file is damaged below
    [path] = (tmp_path / "features").iterdir()
    path.write_bytes(path.read_bytes()[:-4] if cut else b"half a file")
    np.testing.assert_array_equal(extract(network, competition, tmp_path), first)
    np.testing.assert_array_equal(np.load(path), first)


class Killed(BaseException):
    pass


def stops_after(batches: int) -> Callable[[], None]:
    left = iter(range(batches - 1))

    def after_batch() -> None:
        if next(left, None) is None:
            raise Killed

    return after_batch


@pytest.mark.parametrize("batch_size", [8, 5])
def test_an_interrupted_pass_is_resumed(
    network: Network, competition: Competition, tmp_path: Path, batch_size: int
) -> None:
    """With another batch size it starts over."""
    whole = np.array(extract(network, competition, tmp_path / "whole", batch_size=batch_size))
    progress = RecordedProgress()
    with pytest.raises(Killed):
        extract(network, competition, tmp_path, after_batch=stops_after(3))
    features = extract(network, competition, tmp_path, progress=progress, batch_size=batch_size)
    num_images = len(competition.train)
    left = num_images - 3 * 8 if batch_size == 8 else num_images
    assert progress.tasks == [(left, left)]
    np.testing.assert_array_equal(features, whole)
    assert [path.suffix for path in (tmp_path / "features").iterdir()] == [".npy"]


@pytest.mark.parametrize("file", ["part", "proven"])
def test_rows_that_may_not_be_on_disk_are_computed_again(
    network: Network, competition: Competition, tmp_path: Path, file: str
) -> None:
    with pytest.raises(Killed):
        extract(network, competition, tmp_path, after_batch=stops_after(3))
    [path] = (tmp_path / "features").glob(f"*.{file}")
    path.write_bytes(path.read_bytes()[:-9])
    whole = extract(network, competition, tmp_path / "whole")
    np.testing.assert_array_equal(extract(network, competition, tmp_path), whole)


def test_a_full_disk_is_an_error_and_leaves_no_features(
    network: Network, competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def full(self: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            extract(network, competition, tmp_path)
    assert not list((tmp_path / "features").glob("*.npy"))
    assert len(extract(network, competition, tmp_path)) == len(competition.train)


def test_a_second_process_waits_for_the_first(
    network: Network, competition: Competition, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process holds the lock, and has finished the file when it releases it."""
    whole = np.array(extract(network, competition, tmp_path))
    [path] = (tmp_path / "features").iterdir()
    ready = path.rename(tmp_path / "ready")
    lock = path.with_suffix(".lock")
    write_owner(lock, replace(this_process(), host="elsewhere"))

    def while_waiting() -> None:
        ready.rename(path)
        lock.unlink()

    with caplog.at_level(logging.INFO):
        features = extract(network, competition, tmp_path, after_batch=while_waiting)
    assert "being computed by process" in caplog.text
    np.testing.assert_array_equal(features, whole)


def test_leftovers_of_a_process_killed_at_its_very_end_are_removed(
    network: Network, competition: Competition, tmp_path: Path
) -> None:
    whole = np.array(extract(network, competition, tmp_path))
    [path] = (tmp_path / "features").iterdir()
    write_owner(path.with_suffix(".lock"), dead_owner())
    path.with_suffix(".proven").write_text("{}")
    for name in (f"{path.stem}.lock", f"{path.stem}.proven"):
        (path.parent / f".{name}.0a1b2c3d.tmp").touch()
    progress = RecordedProgress()
    np.testing.assert_array_equal(extract(network, competition, tmp_path, progress=progress), whole)
    assert progress.tasks == []
    assert list(path.parent.iterdir()) == [path]


def test_features_that_overflow_in_fp16_are_an_error_and_nothing_is_cached(
    network: Network, competition: Competition, tmp_path: Path
) -> None:
    """A few images are dark enough not to overflow, so that rows are written before the error."""
    with torch.no_grad():
        network.eval()
        whole = extract(network, competition, tmp_path / "before", batch_size=2)
        norm = [module for module in network.trunk.modules() if isinstance(module, torch.nn.BatchNorm2d)][-1]
        factor = 65504 / np.sort(np.abs(whole).max(axis=1))[-3]  # the largest that fp16 holds
        norm.weight.mul_(factor)
        norm.bias.mul_(factor)
    paths = competition.train_paths()
    with pytest.raises(TrainingError, match=r"not finite in fp16; SET='training\.precision=fp32'") as error:
        extract(network, competition, tmp_path, batch_size=2, precision="fp16", paths=paths)
    assert str(error.value).partition(": ")[0] in map(str, paths)
    assert list((tmp_path / "features").iterdir()) == []
    features = extract(network, competition, tmp_path, batch_size=2)
    assert np.isfinite(features).all() and np.abs(features).max() > 65504
    [path] = (tmp_path / "features").iterdir()
    assert path.suffix == ".npy"


def test_an_interrupted_pass_that_meets_features_that_are_not_finite_leaves_nothing(
    network: Network, competition: Competition, tmp_path: Path
) -> None:
    batches = []

    def stop_at_the_second() -> None:
        batches.append(1)
        if len(batches) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(network, competition, tmp_path, after_batch=stop_at_the_second)
    assert {path.suffix for path in (tmp_path / "features").iterdir()} == {".part", ".proven"}
    before = network.trunk.forward

    def infinite(images: torch.Tensor) -> torch.Tensor:
        return before(images) * torch.inf

    network.trunk.forward = infinite  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"image 16: .* 7 others .* in fp32; the weights are damaged"):
        extract(network, competition, tmp_path)
    assert list((tmp_path / "features").iterdir()) == []
