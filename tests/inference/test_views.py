"""Views are the crops, rotations and colours that their names say, and averages follow their formula."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distracted.data.augment import Augmenter, resize_and_crop
from distracted.data.competition import Competition
from distracted.data.images import read_rgb
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.errors import ConfigError
from distracted.inference.predict import Together, predict_log_probs
from distracted.inference.views import AVERAGES, VIEWS, View, Viewer, average_views, check_average, find_views
from distracted.models.network import Network

ALL = {view.name: view for group in VIEWS.values() for view in group}
CPU = torch.device("cpu")


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """An image without edges: red increases to the right, green downwards, blue is constant."""
    down, across = np.mgrid[0:height, 0:width]
    ramps = [across * 250 / width, down * 250 / height, np.full((height, width), 99)]
    return np.stack(ramps, axis=2).astype(np.uint8)


# Single views


@pytest.mark.parametrize("crop", [0.5, 0.875, 1.0])
def test_the_centre_view_is_the_evaluation_transform(picture: np.ndarray, crop: float) -> None:
    seen = ALL["centre"](picture, size=32, crop=crop)
    assert (seen == resize_and_crop(picture, size=32, crop=crop)).all()


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("crop_top_left", slice(0, 45), slice(0, 45)),
        ("crop_top_right", slice(0, 45), slice(5, 50)),
        ("crop_bottom_left", slice(5, 50), slice(0, 45)),
        ("crop_bottom_right", slice(5, 50), slice(5, 50)),
        ("crop_centre", slice(2, 47), slice(2, 47)),
    ],
)
def test_a_corner_crop_is_the_pictures_corner(name: str, rows: slice, columns: slice) -> None:
    """A crop of 45 of 50 pixels, without resizing."""
    picture = np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)
    assert (ALL[name](picture, size=45, crop=1.0) == picture[rows, columns]).all()


def test_corners_reach_the_border_where_evaluation_crops() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)
    assert (ALL["crop_bottom_right"](picture, size=36, crop=0.8) == picture[14:, 14:]).all()


def test_a_scale_is_a_smaller_window_in_the_middle(picture: np.ndarray) -> None:
    """85% of 60 x 80 pixels are 51 x 68."""
    seen = ALL["scale_0.85"](picture, size=24, crop=1.0)
    assert (seen == resize_and_crop(picture[4:55, 6:74], size=24, crop=1.0)).all()


def test_rotations_by_zero_and_by_next_to_nothing_change_nothing(picture: np.ndarray) -> None:
    centre = ALL["centre"](picture, size=32, crop=1.0)
    assert (View("level", degrees=0)(picture, size=32, crop=1.0) == centre).all()
    assert (View("level", degrees=1e-9)(picture, size=32, crop=1.0) == centre).all()


def test_a_quarter_turn_is_counter_clockwise() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    turned = View("turned", degrees=90)(picture, size=20, crop=1.0)
    assert (turned == np.rot90(picture)).all()


def test_rotations_go_both_ways_about_the_centre() -> None:
    """Red increases to the right; after a counter-clockwise rotation also upwards, else also downwards."""
    picture = smooth(61, 61)
    for name, sign in (("rotate_left", 1), ("rotate_right", -1)):
        seen = ALL[name](picture, size=61, crop=1.0).astype(int)
        assert np.sign(seen[20, 30, 0] - seen[40, 30, 0]) == sign
        assert (seen[30, 30] == picture[30, 30]).all()


def test_gamma_moves_the_middle_and_leaves_black_and_white() -> None:
    grey = np.repeat(np.array([0, 128, 255], np.uint8), 3).reshape(1, 3, 3).repeat(3, axis=0)
    for name, middle in (("brighter", 147), ("darker", 108)):  # 255 * (128 / 255) ** gamma
        assert ALL[name](grey, size=3, crop=1.0)[0, :, 0].tolist() == [0, middle, 255]


def test_contrast_is_about_mid_grey_and_clips() -> None:
    grey = np.repeat(np.array([0, 107, 148], np.uint8), 3).reshape(1, 3, 3).repeat(3, axis=0)
    # 127.5 + 0.8 * (0 - 127.5) = 25.5 and so on, to the nearest even integer
    assert ALL["less_contrast"](grey, size=3, crop=1.0)[0, :, 0].tolist() == [26, 111, 144]
    assert ALL["more_contrast"](grey, size=3, crop=1.0)[0, :, 0].tolist() == [0, 102, 153]


def test_no_view_flips_the_image() -> None:
    """Left and right hand are different classes."""
    for view in ALL.values():
        seen = view(smooth(48, 64), size=32, crop=0.875).astype(int)
        assert seen[:, 16:, 0].mean() > seen[:, :16, 0].mean() + 30
        assert seen[16:, :, 1].mean() > seen[:16, :, 1].mean() + 30


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (101, 33), (480, 640)])
def test_any_shape_becomes_a_square(name: str, shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 200, np.uint8)
    seen = ALL[name](picture, size=24, crop=0.875)
    assert (seen.shape, seen.dtype) == ((24, 24, 3), np.uint8)
    assert len(np.unique(seen)) == 1  # reflection at the border leaves no black edge
    assert (picture == 200).all()


# Groups of views


def test_view_names_are_unique() -> None:
    distinct = {view for group in VIEWS.values() for view in group}
    assert len(distinct) == len(ALL) == 14
    assert len({view(smooth(48, 64), size=32, crop=0.875).tobytes() for view in distinct}) == 14


def test_groups_are_joined_without_repetitions() -> None:
    names = [view.name for view in find_views(["centre", "scales", "rotations", "centre"])]
    assert names == ["centre", "scale_0.85", "scale_0.92", "rotate_left", "rotate_right"]


def test_errors_about_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"VIEWS: unknown group 'center'; there are centre \(1\), five_c"):
        find_views(["scales", "center"])
    with pytest.raises(ConfigError, match=r"VIEWS= is empty: .*; there are centre \(1\)"):
        find_views([])
    with pytest.raises(ConfigError, match="AVERAGE=mean: expected probs or log_probs"):
        check_average("mean")


# Views through a loader and a network


@pytest.fixture
def loaded(competition: Competition) -> Callable[..., Loader]:
    def load(*views: View, rows: np.ndarray | None = None) -> Loader:
        viewer = pickle.loads(pickle.dumps(Viewer(views, size=32, crop=0.9)))  # as for a spawned worker
        rows = np.arange(12) if rows is None else rows
        return Loader(Files(competition.train_paths()), rows, viewer, batch_size=5, num_workers=0)

    return load


def test_a_batch_holds_all_views_of_each_image(
    competition: Competition, loaded: Callable[..., Loader]
) -> None:
    views = find_views(["centre", "rotations"])
    [batch] = loaded(*views, rows=np.array([7, 3])).epoch()
    assert batch.images.shape == (2, 3, 32, 32, 3) and batch.indices.tolist() == [7, 3]
    for image, index in zip(batch.images.numpy(), (7, 3), strict=True):
        picture = read_rgb(competition.train_paths()[index])
        for seen, view in zip(image, views, strict=True):
            assert (seen == view(picture, size=32, crop=0.9)).all()


def test_views_together_give_the_predictions_of_views_alone(
    network: Network, loaded: Callable[..., Loader]
) -> None:
    """Exactly, and in the rows' order."""
    views = find_views(["five_crops", "colour"])
    rows = np.array([11, 0, 5, 4, 30, 2, 53])
    [together] = Together([network], 12, "fp32").all_of(loaded(*views, rows=rows), "views")
    assert together.shape == (9, 7, 3) and together.dtype == np.float32
    for log_probs, view in zip(together, views, strict=True):
        batches = loaded(view, rows=rows)
        [alone] = Together([network], 12, "fp32").all_of(batches, "views")
        assert (log_probs == alone[0]).all()


def test_the_centre_view_gives_the_plain_predictions(
    network: Network, competition: Competition, loaded: Callable[..., Loader]
) -> None:
    plain = Augmenter((), size=32, crop=0.9, seed=0)
    loader = Loader(Files(competition.train_paths()), np.arange(12), plain, batch_size=5, num_workers=0)
    expected = predict_log_probs(network, loader, precision="fp32")
    [log_probs] = Together([network], 12, "fp32").all_of(loaded(*VIEWS["centre"]), "views")
    assert (log_probs[0] == expected).all()


# Averages


def test_known_averages() -> None:
    """Both means of (0.8, 0.2) and (0.2, 0.8) are uniform; those of (0.9, 0.1) and (0.5, 0.5) differ."""
    probs = np.array([[[0.8, 0.2], [0.9, 0.1]], [[0.2, 0.8], [0.5, 0.5]]])
    arithmetic, geometric = (np.exp(average_views(np.log(probs), how)) for how in AVERAGES)
    np.testing.assert_allclose(arithmetic, [[0.5, 0.5], [0.7, 0.3]])
    np.testing.assert_allclose(geometric, [[0.5, 0.5], [0.75, 0.25]])  # sqrt(.45) : sqrt(.05) is 3 : 1


@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 1000))
def test_averages_are_predictions_between_the_views(num_views: int, num_classes: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(scale=20, size=(num_views, 6, num_classes))
    log_probs = scores - np.logaddexp.reduce(scores, axis=2, keepdims=True)
    for how in AVERAGES:
        averaged = average_views(log_probs, how)
        np.testing.assert_allclose(np.exp(averaged).sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_allclose(average_views(log_probs[::-1], how), averaged, atol=1e-9)
        np.testing.assert_allclose(average_views(log_probs[:1], how), log_probs[0], atol=1e-9)
    arithmetic = average_views(log_probs, "probs")
    assert (arithmetic <= log_probs.max(axis=0) + 1e-9).all()
    assert (arithmetic >= log_probs.min(axis=0) - 1e-9).all()
