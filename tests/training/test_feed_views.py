"""Batches of whole images that a device makes views of are bounded by the largest image of all."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from distracted.data.picture_sets import Images
from distracted.errors import ImageError
from distracted.inference.device_views import DeviceViewer
from distracted.inference.views import VIEWS
from distracted.models.network import Network
from distracted.progress import silent
from distracted.schema import RunConfig
from distracted.training import feed as feed_module
from distracted.training.feed import Feed
from distracted.training.resolve import resolve

SMALL, NUM_SMALL = (30, 40), 95
Predict = Callable[..., np.ndarray]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Bytes of the images in each batch that a device made views of."""
    seen: list[list[int]] = []

    def spy(viewer: DeviceViewer, images: Sequence[torch.Tensor]) -> torch.Tensor:
        seen.append([image.nbytes for image in images])
        return make(viewer, images)

    make = DeviceViewer.__call__
    monkeypatch.setattr(DeviceViewer, "__call__", spy)
    monkeypatch.setattr(feed_module, "_BATCH_BYTES", 2**18)
    return seen


@pytest.fixture
def predict(network: Network, configure: Callable[..., RunConfig], tmp_path: Path) -> Predict:
    """Views of small images and a large one among them, on a CPU that counts as another device."""

    def run(*large: int, device: str = "mps", batch: int = 64, damaged: bool = False) -> np.ndarray:
        settings = [f"runtime.prediction_batch_size={batch}", "runtime.num_workers=0"]
        resolved = resolve(configure(*settings), num_folds=3, device=torch.device("cpu"))
        resolved = dataclasses.replace(resolved, device=torch.device(device))
        rng = np.random.default_rng(0)
        paths = [tmp_path / f"{number}.png" for number in range(NUM_SMALL)]
        for number, path in enumerate(paths):
            shape = large if large and number == 37 else SMALL
            cv2.imwrite(str(path), rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        if damaged:
            paths[5].write_bytes(b"\x89PNG\r\n\x1a\n")
        images = Images(paths, [""] * len(paths))
        feed = Feed(resolved, tmp_path, silent)
        return feed.log_probs_of_views([network], images, images.rows, VIEWS["five_crops"], "views")

    return run


def test_small_images_go_to_the_device_as_they_are(predict: Predict, batches: list[list[int]]) -> None:
    predict()
    assert sum(map(len, batches)) == NUM_SMALL and max(map(len, batches)) == 48  # 95 in batches of at most 64


def test_one_larger_image_among_many_makes_all_batches_smaller(
    predict: Predict, batches: list[list[int]]
) -> None:
    largest = 3 * 45 * 50
    predict(45, 50)
    assert largest in [size for batch in batches for size in batch]
    assert max(map(len, batches)) * largest <= 2**18
    assert max(map(len, batches)) >= 24


def test_a_large_photograph_leaves_the_views_to_the_cpu(predict: Predict, batches: list[list[int]]) -> None:
    on_cpu = predict(200, 300, device="cpu")
    assert np.array_equal(predict(200, 300), on_cpu)
    assert not batches


def test_a_batch_that_is_asked_to_be_small_goes_to_the_device(
    predict: Predict, batches: list[list[int]]
) -> None:
    predict(60, 100, batch=4)
    assert max(map(len, batches)) == 4
    np.testing.assert_allclose(predict(60, 100, batch=4), predict(60, 100, device="cpu"), atol=0.02)


def test_views_of_the_cpu_are_batched_by_their_bytes(
    predict: Predict, monkeypatch: pytest.MonkeyPatch, batches: list[list[int]]
) -> None:
    sizes: list[int] = []

    class Loader(feed_module.Loader):
        def epoch(self, *arguments: int, **settings: int):  # type: ignore[no-untyped-def]
            for batch in super().epoch(*arguments, **settings):
                sizes.append(batch.images.nbytes)
                yield batch

    monkeypatch.setattr(feed_module, "Loader", Loader)
    predict(200, 300)
    assert max(sizes) <= 2**18 < 64 * sizes[0]
    assert sum(sizes) == NUM_SMALL * 5 * 32 * 32 * 3


@pytest.mark.parametrize("device", ["mps", "cpu"])
def test_a_damaged_image_is_named(predict: Predict, device: str) -> None:
    with pytest.raises(ImageError, match=r"5\.png: the image is truncated"):
        predict(device=device, damaged=True)
