"""Views that a device makes are those of the CPU within rounding, for images of any size."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.inference import device_views
from distracted.inference.device_views import DeviceViewer
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
