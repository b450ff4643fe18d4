"""Views that a device makes are those of the CPU within rounding, for images of any size."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distracted.data.augment import resize_interpolation
from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.inference import device_views
from distracted.inference.device_views import DeviceViewer, resize_weights
from distracted.inference.predict import Together
from distracted.inference.views import VIEWS, Viewer
from distracted.models.network import Network

ALL = tuple(dict.fromkeys(view for views in VIEWS.values() for view in views))
REGION = (0.4, 0.35, 1.0, 1.0)
# Where a colour's curve is steep, a rounding of 1 becomes more.
TOLERANCE = [3 if view.gamma != 1 or view.contrast != 1 else 1 for view in ALL]


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes with noise on them."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), dtype=np.uint8)
    smooth = cv2.resize(shapes, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(smooth + rng.integers(-10, 11, smooth.shape), 0, 255).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(5, 500),
    width=st.integers(5, 500),
    size=st.integers(20, 160),
    crop=st.sampled_from([0.875, 0.95, 1.0]),
    regions=st.sampled_from([(), (REGION,)]),
)
def test_a_device_makes_the_pixels_of_the_cpu(
    height: int, width: int, size: int, crop: float, regions: tuple[tuple[float, float, float, float], ...]
) -> None:
    image = photograph(height, width, seed=height)
    expected = Viewer(ALL, size=size, crop=crop, regions=regions)(image, epoch=0, index=0)
    [views] = DeviceViewer(ALL, size=size, crop=crop, regions=regions)([torch.from_numpy(image)])
    whole = expected.reshape(views.shape)
    for view, ours, theirs, tolerance in zip(ALL, views.numpy(), whole, TOLERANCE, strict=True):
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= tolerance, view.name
        assert difference.mean() < 0.3, view.name


def weights_differ(height: int, width: int, size: int) -> float:
    """The largest difference between an image resized by weights and by OpenCV, as floats from 0 to 1.

    OpenCV has positions in float32, so that a cubic weight at pixel 1,900 is off by up to 1e-4.
    """
    image = np.random.default_rng(height * width).random((height, width), dtype=np.float32)
    interpolation = resize_interpolation(height, width, size)
    expected = cv2.resize(image, (size, size), interpolation=interpolation)
    by_row, by_column = resize_weights(height, width, size, torch.device("cpu"))
    assert (by_row.shape, by_column.shape) == ((size, height), (size, width))
    assert by_row.dtype == by_column.dtype == torch.float32
    for weights in (by_row, by_column):
        np.testing.assert_allclose(weights.double().sum(1), 1, atol=1e-5)
    return float(np.abs((by_row @ torch.from_numpy(image) @ by_column.T).numpy() - expected).max())


@pytest.mark.parametrize("size", [20, 57, 64, 224])
def test_weights_are_those_of_opencv(size: int) -> None:
    """For sides that shrink, also by whole factors, that stay and that grow, in any combination."""
    factors = [size // 2, size, 2 * size, 3 * size, 7 * size]
    sides = [1, 2, 3, size // 3, size - 1, size + 1, size + size // 2, 5 * size // 2, *factors, 1920]
    wrong = [(h, w) for h in sides for w in sides if weights_differ(h, w, size) > 1e-4]
    assert not wrong


# Here OpenCV's rounding puts the begin of an output pixel before that of an input pixel, not at it.
@pytest.mark.parametrize(
    ("length", "size"), [(510, 100), (507, 57), (495, 160), (1960, 224), (65, 100), (200, 224), (506, 518)]
)
def test_weights_follow_opencvs_rounding(length: int, size: int) -> None:
    other = size // 2 if length > size else 3 * size * size // length
    assert weights_differ(length, other, size) < 1e-4
    assert weights_differ(other, length, size) < 1e-4


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 1500), width=st.integers(1, 1500), size=st.integers(1, 300))
def test_weights_of_any_size_are_those_of_opencv(height: int, width: int, size: int) -> None:
    assert weights_differ(height, width, size) < 1e-4


def test_images_of_several_sizes_keep_their_order() -> None:
    sizes = [(60, 80), (90, 50), (60, 80), (30, 30), (90, 50)]
    images = [torch.from_numpy(photograph(*size, seed=n)) for n, size in enumerate(sizes)]
    viewer = DeviceViewer(VIEWS["rotations"], size=32, crop=0.9)
    together = viewer(images)
    assert together.shape == (5, 2, 32, 32, 3) and together.dtype == torch.uint8
    for views, image in zip(together, images, strict=True):
        assert torch.equal(views, viewer([image])[0])


def test_large_images_are_transformed_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 photographs of 12 megapixels are 37 GB as floats."""
    viewer = DeviceViewer(VIEWS["rotations"], size=32, crop=0.9)
    images = [torch.from_numpy(photograph(60, 80, seed=n)) for n in range(5)]
    expected, taken, of_one_size = viewer(images), [], viewer._of_one_size
    monkeypatch.setattr(device_views, "_PIXELS", 2 * 60 * 80)
    monkeypatch.setattr(viewer, "_of_one_size", lambda some: taken.append(len(some)) or of_one_size(some))
    assert torch.equal(viewer(images), expected)
    assert taken == [2, 2, 1]
    monkeypatch.setattr(device_views, "_PIXELS", 1)
    assert torch.equal(viewer(images), expected)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_predictions_of_a_devices_views(network: Network, competition: Competition, num_workers: int) -> None:
    rows = np.array([11, 0, 5, 4, 30, 2, 53])
    files, views = Files(competition.train_paths()), VIEWS["five_crops"]

    def load(transform: Viewer | None) -> Loader:
        return Loader(files, rows, transform, batch_size=3, num_workers=num_workers)

    expected = Together([network], 12, "fp32").all_of(load(Viewer(views, size=32, crop=0.9)), "views")
    viewer = DeviceViewer(views, size=32, crop=0.9)
    log_probs = Together([network], 7, "fp32", viewer).all_of(load(None), "views")
    assert log_probs.shape == (1, 5, 7, 3)
    np.testing.assert_allclose(log_probs, expected, atol=0.02)
