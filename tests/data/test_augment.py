"""Random draws depend only on (seed, epoch, index), left stays left, and every output is square."""

import pickle
import random
from collections.abc import Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from distracted.config import load_config
from distracted.data.augment import Augmenter, Draws, cut_region, resize_and_crop
from distracted.errors import ConfigError
from distracted.schema import Box

SHIPPED = load_config(model="resnet50", data="sample").augment.policies
RANDOM = [name for name, policy in SHIPPED.items() if policy]
FLIPS = {"HorizontalFlip", "VerticalFlip", "Flip", "Transpose", "RandomRotate90", "D4", "SquareSymmetry"}


def augmenter(
    policy: Any, *, size: int = 32, crop: float = 1.0, seed: int = 0, regions: Sequence[Box] = ()
) -> Augmenter:
    policy = SHIPPED[policy] if isinstance(policy, str) else policy
    return Augmenter(policy, size=size, crop=crop, seed=seed, regions=regions)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (36, 48, 3), dtype=np.uint8)


class TestResizeAndCrop:
    def test_an_image_of_the_right_size_is_unchanged(self) -> None:
        picture = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        assert (resize_and_crop(picture, size=20, crop=1.0) == picture).all()

    def test_the_crop_is_central(self) -> None:
        """Half of each side: 10 of 20 pixels, starting at 5."""
        picture = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        assert (resize_and_crop(picture, size=10, crop=0.5) == picture[5:15, 5:15]).all()

    def test_the_crop_can_be_moved(self) -> None:
        picture = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        corner = resize_and_crop(picture, size=10, crop=0.5, across=1, down=0)
        assert (corner == picture[:10, 10:]).all()

    def test_the_whole_image_is_squeezed(self) -> None:
        """Borders survive, the aspect ratio does not."""
        picture = np.zeros((30, 60, 3), np.uint8)
        picture[:, :20] = 200
        square = resize_and_crop(picture, size=30, crop=1.0)
        assert (square[:, :10] == 200).all()
        assert (square[:, 10:] == 0).all()

    def test_shrinking_averages(self) -> None:
        """A checkerboard becomes grey, not black or white."""
        board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        assert np.abs(resize_and_crop(board, size=16, crop=1.0).astype(int) - 127.5).max() <= 0.5

    @pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2), (480, 640), (101, 33)])
    @pytest.mark.parametrize("crop", [0.01, 0.875, 1.0])
    def test_images_of_any_shape_become_squares(self, shape: tuple[int, int], crop: float) -> None:
        square = resize_and_crop(np.full((*shape, 3), 77, np.uint8), size=24, crop=crop)
        assert (square.shape, square.dtype) == ((24, 24, 3), np.uint8)
        assert (square == 77).all()


class TestDraws:
    KEYS = ((0, 0), (0, 1), (1, 0), (1, 1), (7, 300))

    @pytest.mark.parametrize("policy", RANDOM)
    def test_the_same_key_gives_the_same_picture_in_any_order(self, picture: np.ndarray, policy: str) -> None:
        first, second = augmenter(policy), augmenter(policy)
        expected = {(e, i): first(picture, epoch=e, index=i) for e, i in self.KEYS}
        for epoch, index in [*reversed(self.KEYS), *self.KEYS, *self.KEYS[2:]]:
            for augment in (first, second):
                assert (augment(picture, epoch=epoch, index=index) == expected[epoch, index]).all()

    @pytest.mark.parametrize("policy", SHIPPED)
    def test_a_pickled_copy_draws_the_same(self, picture: np.ndarray, policy: str) -> None:
        """On macOS loader workers get the augmenter pickled."""
        original = augmenter(policy)
        copy = pickle.loads(pickle.dumps(original))
        for epoch, index in self.KEYS:
            expected = original(picture, epoch=epoch, index=index)
            assert (copy(picture, epoch=epoch, index=index) == expected).all()

    def test_the_global_generators_do_not_matter(self, picture: np.ndarray) -> None:
        expected = augmenter("heavy")(picture, epoch=0, index=0)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002 - the generator that a careless library would use
        state = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        assert (augmenter("heavy")(picture, epoch=0, index=0) == expected).all()
        assert state == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002

    @pytest.mark.parametrize("policy", RANDOM)
    def test_another_epoch_index_or_seed_gives_another_picture(
        self, picture: np.ndarray, policy: str
    ) -> None:
        results = [
            augmenter(policy, seed=seed)(picture, epoch=epoch, index=index)
            for seed, epoch, index in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (-1, 0, 0)]
        ]
        assert len({result.tobytes() for result in results}) == len(results)

    def test_neighbouring_keys_draw_independently(self) -> None:
        """The brightness of 200 consecutive images is uniform and not correlated."""
        policy = [{"RandomBrightnessContrast": {"brightness_limit": 0.4, "contrast_limit": 0.0, "p": 1.0}}]
        augment = augmenter(policy, size=4)
        grey = np.full((4, 4, 3), 128, np.uint8)
        for keys in ([(0, i) for i in range(200)], [(e, 0) for e in range(200)]):
            values = np.array([augment(grey, epoch=e, index=i).mean() for e, i in keys])
            assert abs(values.mean() - 128) < 10  # 5 standard errors
            assert values.std() > 20
            assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.3

    def test_the_input_is_not_changed(self, picture: np.ndarray) -> None:
        before = picture.copy()
        for name in SHIPPED:
            for epoch in range(10):
                augmenter(name)(picture, epoch=epoch, index=0)
        assert (picture == before).all()

    def test_an_empty_policy_is_evaluations_transform(self, picture: np.ndarray) -> None:
        result = augmenter("none", size=24, crop=0.8)(picture, epoch=3, index=5)
        assert (result == resize_and_crop(picture, size=24, crop=0.8)).all()


class TestRegions:
    BOXES = ((0.0, 0.0, 0.5, 0.5), (0.25, 0.5, 0.75, 1.0))

    def test_a_region_holds_the_boxs_pixels(self, picture: np.ndarray) -> None:
        assert (cut_region(picture, self.BOXES[1]) == picture[18:36, 12:36]).all()
        assert (cut_region(picture, (0.0, 0.0, 1.0, 1.0)) == picture).all()

    @pytest.mark.parametrize("box", [(0.0, 0.0, 0.01, 0.01), (0.99, 0.99, 1.0, 1.0), (0.4, 0.4, 0.6, 0.6)])
    def test_a_region_has_at_least_one_pixel(self, box: Box) -> None:
        assert cut_region(np.full((1, 2, 3), 7, np.uint8), box).tolist() == [[[7, 7, 7]]]

    def test_the_whole_image_comes_first_then_the_regions_in_order(self, picture: np.ndarray) -> None:
        whole, *regions = augmenter("none", regions=self.BOXES)(picture, epoch=0, index=0)
        assert (whole == resize_and_crop(picture, size=32, crop=1.0)).all()
        for region, box in zip(regions, self.BOXES, strict=True):
            assert (region == resize_and_crop(cut_region(picture, box), size=32, crop=1.0)).all()

    @pytest.mark.parametrize("policy", RANDOM)
    def test_regions_change_no_byte_of_the_whole_image(self, picture: np.ndarray, policy: str) -> None:
        without, with_regions = augmenter(policy), augmenter(policy, regions=self.BOXES)
        for epoch in range(5):
            views = with_regions(picture, epoch=epoch, index=3)
            assert views.shape == (3, 32, 32, 3)
            assert (views[0] == without(picture, epoch=epoch, index=3)).all()

    @pytest.mark.parametrize("policy", RANDOM)
    def test_a_region_holds_nothing_outside_of_its_box(self, picture: np.ndarray, policy: str) -> None:
        augment = augmenter(policy, regions=self.BOXES[:1])
        other = np.full_like(picture, 99)
        other[:18, :24] = picture[:18, :24]
        for epoch in range(5):
            first, second = (augment(image, epoch=epoch, index=0) for image in (picture, other))
            assert (first[1] == second[1]).all() and (first[0] != second[0]).any()

    def test_each_region_has_its_own_reproducible_draws(self, picture: np.ndarray) -> None:
        augment = augmenter("heavy", regions=[(0.0, 0.0, 1.0, 1.0)] * 2)
        before = picture.copy()
        views = augment(picture, epoch=1, index=2)
        assert len({view.tobytes() for view in views}) == 3
        assert (augment(picture, epoch=1, index=2) == views).all()
        assert (picture == before).all()


class TestShippedPolicies:
    @pytest.mark.parametrize("name", SHIPPED)
    def test_no_policy_flips(self, name: str) -> None:
        assert not {kind for transform in SHIPPED[name] for kind in transform} & FLIPS

    @pytest.mark.parametrize("name", SHIPPED)
    def test_left_stays_left_and_up_stays_up(self, name: str) -> None:
        """Left and right hand are different classes: the bright side stays on its side."""
        ramp = np.linspace(250, 5, 48).astype(np.uint8)
        across = np.broadcast_to(ramp[None, :, None], (48, 48, 3)).copy()
        down = np.broadcast_to(ramp[:, None, None], (48, 48, 3)).copy()
        augment = augmenter(name)
        for epoch in range(60):
            result = augment(across, epoch=epoch, index=0)
            assert result[:, :16].mean() > result[:, 16:].mean()
            result = augment(down, epoch=epoch, index=0)
            assert result[:16].mean() > result[16:].mean()

    @pytest.mark.parametrize("name", SHIPPED)
    @pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 200), (36, 48)])
    @pytest.mark.parametrize("value", [0, 127, 255, None])
    def test_every_output_is_square(self, name: str, shape: tuple[int, int], value: int | None) -> None:
        """Tiny, long, black, white, grey, or random with three equal channels."""
        gray = np.random.default_rng(1).integers(0, 255, (*shape, 1), dtype=np.uint8)
        picture = np.full((*shape, 3), value, np.uint8) if value is not None else gray.repeat(3, axis=2)
        augment = augmenter(name, crop=0.875)
        for epoch in range(8):
            result = augment(picture, epoch=epoch, index=0)
            assert (result.shape, result.dtype) == ((32, 32, 3), np.uint8)


class TestGroups:
    """Transforms that choose among others."""

    def test_one_of_takes_each_of_its_transforms_alone(self, picture: np.ndarray) -> None:
        light, dark = (
            {"RandomBrightnessContrast": {"brightness_limit": [by, by], "contrast_limit": [0, 0], "p": 1.0}}
            for by in (0.25, -0.25)
        )
        augment = augmenter([{"OneOf": {"transforms": [light, dark], "p": 1.0}}])
        expected = {augmenter([one])(picture, epoch=0, index=0).tobytes() for one in (light, dark)}
        assert {augment(picture, epoch=0, index=index).tobytes() for index in range(20)} == expected

    @pytest.mark.parametrize("group", ["OneOf", "SomeOf", "RandomOrder", "Sequential"])
    def test_draws_depend_on_the_image_only(self, picture: np.ndarray, group: str) -> None:
        inner = [
            {"RandomResizedCrop": {"scale": [0.5, 1.0]}},
            {"GaussNoise": {"p": 1.0}},
            {"Affine": {"rotate": [-9, 9]}},
        ]
        nested = {"OneOf": {"transforms": [{"ColorJitter": {"p": 1.0}}, {"Blur": None}], "p": 1.0}}
        policy = [{group: {"transforms": [*inner, nested], "p": 1.0}}]
        first, again = augmenter(policy), augmenter(policy)
        forward = [first(picture, epoch=1, index=index).tobytes() for index in range(12)]
        backward = [again(picture, epoch=1, index=index).tobytes() for index in reversed(range(12))]
        assert forward == backward[::-1] and len(set(forward)) > 6


class TestConfigErrors:
    @pytest.mark.parametrize(
        ("transform", "message"),
        [
            ({"GausNoise": {}}, "albumentations has no transform 'GausNoise'"),
            ({"Compose": {}}, "albumentations' Compose cannot be part of a policy; .* OneOf, SomeOf"),
            ({"OneOf": {}}, "OneOf: expected transforms as a list, such as {transforms: "),
            ({"OneOf": {"transforms": "Blur"}}, "OneOf: expected transforms as a list"),
            ({"OneOf": {"transforms": ["Blur"]}}, "OneOf: expected transforms as a list"),
            ({"OneOf": {"transforms": [{"Blurr": {}}]}}, "albumentations has no transform 'Blurr'"),
            ({"OneOf": {"transforms": [{3: {}}]}}, "albumentations has no transform 3"),
            ({"OneOf": {"transforms": [{"Blur": 3}]}}, "Blur: expected arguments by name, got 3"),
            ({"OneOf": {"transforms": [{"OneOf": [{}]}]}}, r"OneOf: expected arguments by name, got \[{}\]"),
            ({"SomeOf": {"transforms": [{"Blur": {}}], "m": 1}}, "SomeOf has no argument 'm'"),
            ({"OneOf": {"transforms": [{"Blur": {}}], "p": 2}}, "OneOf: expected p from 0 to 1, got 2"),
            ({"OneOf": {"transforms": [{"Blur": {"p": 0}}]}}, "OneOf: .*zero"),
            ({"cv2": None}, "albumentations has no transform 'cv2'"),
            ({"GaussNoise": {"sigma": 3}}, "GaussNoise has no argument 'sigma'"),
            ({"GaussNoise": {"std_range": 3}}, "GaussNoise: .*std_range"),
            ({"GaussNoise": {"std_range": [0.5, 0.1]}}, "GaussNoise: .*std_range"),
            ({"RandomCrop": {}}, "RandomCrop: .*height.*width"),
        ],
    )
    def test_unknown_transforms_and_arguments(self, transform: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=rf"^augment\.policies: {message}") as info:
            augmenter([transform])
        assert "\n" not in str(info.value)

    @pytest.mark.parametrize(
        ("transform", "got"),
        [
            ({"Normalize": {"p": 1.0}}, r"float32 of shape \(32, 32, 3\)"),
            ({"ToTensorV2": {"p": 1.0}}, r"torch\.uint8 of shape \(3, 32, 32\)"),
            ({"CenterCrop": {"height": 10, "width": 12, "p": 1.0}}, r"uint8 of shape \(10, 12, 3\)"),
        ],
    )
    def test_outputs_that_are_no_uint8_squares(
        self, picture: np.ndarray, transform: dict[str, Any], got: str
    ) -> None:
        """Normalised images, for example, would be normalised again by the network."""
        with pytest.raises(ConfigError, match=rf"expected uint8 images of shape \(32, 32, 3\), got {got}"):
            augmenter([transform])(picture, epoch=0, index=0)

    def test_arguments_are_optional(self, picture: np.ndarray) -> None:
        result = augmenter([{"HorizontalFlip": None}, {"GaussNoise": {}}])(picture, epoch=0, index=0)
        assert result.shape == (32, 32, 3)

    def test_the_size_is_filled_in(self, picture: np.ndarray) -> None:
        for name in ("RandomResizedCrop", "RandomSizedCrop"):
            arguments = {"min_max_height": [10, 30]} if name == "RandomSizedCrop" else {}
            assert augmenter([{name: arguments}])(picture, epoch=0, index=0).shape == (32, 32, 3)


class TestAgainstAlbumentations:
    """Our faster transforms draw the same random numbers as albumentations and differ only by rounding."""

    @pytest.mark.parametrize("policy", RANDOM)
    @pytest.mark.parametrize("shape", [(120, 160, 3), (40, 30, 3)])
    def test_a_shipped_policy(self, policy: str, shape: tuple[int, ...]) -> None:
        picture = smooth(shape)
        ours = augmenter(policy, size=48, seed=5)
        plain = A.Compose(
            [getattr(A, name)(**_arguments(name, a)) for t in SHIPPED[policy] for name, a in t.items()]
        )
        draws, total = Draws(seed=5), 0.0
        plain.set_random_state(*draws.generators)
        for index in range(60):
            draws.key(1, index)
            error = np.abs(plain(image=picture)["image"].astype(int) - ours(picture, epoch=1, index=index))
            assert error.mean() < 6 and np.median(error) <= 2
            total += error.mean() / 60
        assert total < 2

    @pytest.mark.parametrize(
        "arguments",
        [
            {"rotate": [-40, 40], "fill": 128},
            {"rotate": [-40, 40], "fill": [255, 0, 9]},
            {"shear": [-20, 20], "border_mode": 4},
            {"scale": [0.5, 2], "fit_output": True},
        ],
    )
    def test_affine_is_identical_byte_for_byte(self, arguments: dict[str, Any]) -> None:
        """A single affine transform is one warp in both. The resize makes its output square."""
        resize = {"Resize": {"height": 24, "width": 24, "p": 1.0}}
        arguments = {**arguments, "p": 1.0}
        ours = augmenter([{"Affine": arguments}, resize], size=24)
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
        plain = A.Compose([A.Affine(**tuples), A.Resize(24, 24)])
        draws = Draws(seed=0)
        plain.set_random_state(*draws.generators)
        picture = smooth((24, 24, 3))
        for index in range(20):
            draws.key(0, index)
            expected = plain(image=picture)["image"]
            assert np.array_equal(ours(picture, epoch=0, index=index), expected)


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC)


def _arguments(name: str, arguments: Any) -> dict[str, Any]:
    """Arguments as a user of albumentations would write them."""
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    return {"size": (48, 48), **tuples} if name == "RandomResizedCrop" else tuples


def test_a_read_only_image_is_not_changed(picture: np.ndarray) -> None:
    """It may be part of a memory-mapped file."""
    policy = [{"CoarseDropout": {"p": 1.0}}, {"RandomResizedCrop": {"p": 1.0}}]
    before = picture.copy()
    picture.flags.writeable = False
    assert augmenter(policy)(picture, epoch=0, index=0).shape == (32, 32, 3)
    assert np.array_equal(picture, before)
