"""Kept pictures are those that would be decoded, whoever keeps them, and no disk is filled."""

import logging
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import dead_owner, write_owner
from distracted.data.images import read_rgb
from distracted.data.packs import Files, Kept, Pictures, keep_pictures
from distracted.errors import ImageError
from distracted.schema import RunConfig
from distracted.training.resolve import settle


def save(path: Path, *, width: int, height: int, seed: int = 0) -> Path:
    smooth = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Photographs of several sizes, one of them below what is asked for."""
    folder = tmp_path / "imgs"
    folder.mkdir()
    sizes = [(640, 480), (480, 640), (200, 150), (60, 40), (333, 97)]
    return [
        save(folder / f"{n}.{'png' if n == 2 else 'jpg'}", width=w, height=h, seed=n)
        for n, (w, h) in enumerate(sizes)
    ]


def keep(paths: list[Path], folder: Path, **options: object) -> Pictures:
    settings = {"short_side": 64, "limit": "auto", **options}
    return keep_pictures(paths, [f"content of {path.name}" for path in paths], folder=folder, **settings)  # type: ignore[arg-type]


def packs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("short_side", [64, 300, None])
def test_kept_pictures_are_those_that_would_be_decoded(
    paths: list[Path], tmp_path: Path, short_side: int | None
) -> None:
    kept = keep(paths, tmp_path / "cache", short_side=short_side)
    assert isinstance(kept, Kept)
    assert len(kept) == len(paths)
    for path in paths:
        path.unlink()  # nothing is read from there
    again = keep(paths, tmp_path / "cache", short_side=short_side)
    for index in range(len(paths)):
        assert np.array_equal(kept[index], again[index])


@pytest.mark.parametrize("short_side", [64, 300, None])
def test_without_room_the_same_pixels_come(paths: list[Path], tmp_path: Path, short_side: int | None) -> None:
    kept = keep(paths, tmp_path / "cache", short_side=short_side)
    decoded = keep(paths, tmp_path / "none", short_side=short_side, limit=0)
    assert isinstance(decoded, Files)
    assert not (tmp_path / "none").exists()
    for index in range(len(paths)):
        assert np.array_equal(kept[index], decoded[index])


def test_the_shorter_side_is_reduced_and_nothing_is_enlarged(paths: list[Path], tmp_path: Path) -> None:
    kept = keep(paths, tmp_path / "cache")
    assert [kept[index].shape[:2] for index in range(len(paths))] == [
        (64, 85),
        (85, 64),
        (64, 85),
        (40, 60),
        (64, 220),
    ]


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(90, 700),
    height=st.integers(90, 700),
    short_side=st.integers(64, 400),
    kind=st.booleans(),
)
def test_a_reduced_picture_is_the_picture(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, short_side: int, kind: bool
) -> None:
    """It is the area mean of the whole picture, however it is decoded and in whatever steps it shrinks.

    A JPEG decoded at an eighth is stretched by up to 7 of its pixels where its sides are no multiples of 8,
    which shows in pictures of 20 to 40 pixels.
    """
    path = tmp_path_factory.mktemp("one") / f"a.{'jpg' if kind else 'png'}"
    save(path, width=width, height=height, seed=width)
    whole, reduced = read_rgb(path), read_rgb(path, short_side=short_side)
    assert min(reduced.shape[:2]) == min(short_side, width, height)
    plain = cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(plain.astype(int) - reduced).mean() < 4  # of 255


def test_a_turned_photograph_is_reduced_as_it_is_seen(tmp_path: Path) -> None:
    """By EXIF's orientation 6, a quarter to the right."""
    path = save(tmp_path / "a.jpg", width=400, height=200)
    plain = path.read_bytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    path.write_bytes(plain[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + plain[2:])
    assert read_rgb(path).shape == (400, 200, 3)
    assert read_rgb(path, short_side=50).shape == (100, 50, 3)


def test_only_what_is_missing_is_decoded(paths: list[Path], tmp_path: Path) -> None:
    keep(paths[:3], tmp_path / "cache")
    for path in paths[:3]:
        path.unlink()
    kept = keep([*paths, paths[4]], tmp_path / "cache")
    assert np.array_equal(kept[5], read_rgb(paths[4], short_side=64))
    assert kept[1].shape == (85, 64, 3)
    assert len(packs(tmp_path / "cache")) == 4  # two packs, each with its table


def test_another_size_is_another_pack(paths: list[Path], tmp_path: Path) -> None:
    small, large = keep(paths, tmp_path, short_side=30), keep(paths, tmp_path, short_side=90)
    assert (min(small[0].shape[:2]), min(large[0].shape[:2])) == (30, 90)


def test_a_picture_that_cannot_be_read_is_an_error_for_whoever_needs_it(
    paths: list[Path], tmp_path: Path
) -> None:
    paths[2].write_bytes(b"garbage")
    for _ in range(2):
        kept = keep(paths, tmp_path / "cache")
        assert kept[3].shape == (40, 60, 3)
        with pytest.raises(ImageError, match=r"2\.png: not an image"):
            kept[2]


def test_a_limit_is_respected_and_said(
    paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        kept = keep(paths, tmp_path / "cache", limit=1e-5)
    assert np.array_equal(kept[1], read_rgb(paths[1], short_side=64))
    assert "5 decoded pictures take about 0.1 MB, and there is room for 0.0 MB" in caplog.text
    assert packs(tmp_path / "cache") == []


def test_what_is_kept_already_counts_for_the_limit(paths: list[Path], tmp_path: Path) -> None:
    keep(paths, tmp_path / "cache")
    taken = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    keep(paths, tmp_path / "cache", short_side=60, limit=1.5 * taken / 1e9)
    assert len(packs(tmp_path / "cache")) == 2
    keep(paths, tmp_path / "cache", short_side=60, limit=2.5 * taken / 1e9)
    assert len(packs(tmp_path / "cache")) == 4


@pytest.mark.parametrize("harm", ["short", "gone", "no table", "table of garbage"])
def test_a_damaged_pack_is_made_anew(
    paths: list[Path], tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    keep(paths, tmp_path)
    [table] = tmp_path.glob("*.parquet")
    pixels = table.with_suffix(".u8")
    match harm:
        case "short":
            os.truncate(pixels, 100)
        case "gone":
            pixels.unlink()
        case "no table":
            table.unlink()
        case _:
            table.write_bytes(b"garbage")
    kept = keep(paths, tmp_path)
    for index, path in enumerate(paths):
        assert np.array_equal(kept[index], read_rgb(path, short_side=64))
    assert ("damaged" in caplog.text) == (harm != "no table")


def test_it_survives_the_way_to_another_process(paths: list[Path], tmp_path: Path) -> None:
    """Not as so many bytes of pixels: where processes are not forked, the loader is pickled."""
    kept = keep(paths * 40, tmp_path / "cache")
    assert kept[0].shape == (64, 85, 3)
    data = pickle.dumps(kept)
    assert len(data) < 40_000
    assert np.array_equal(pickle.loads(data)[1], kept[1])


def test_two_at_once_decode_once(paths: list[Path], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: keep(paths, tmp_path / "cache"), range(4)))
    assert all(isinstance(kept, Kept) for kept in found)
    assert len(packs(tmp_path / "cache")) == 2


def test_what_a_killed_process_left_is_removed(paths: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    write_owner(folder / "pictures.lock", dead_owner())
    (folder / ".1-64-0123.u8.4567.tmp").write_bytes(b"half")
    keep(paths, folder)
    assert {Path(name).suffix for name in packs(folder)} == {".u8", ".parquet"}


def test_a_stop_leaves_nothing_half_made(paths: list[Path], tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop() -> None:
        raise Enough

    with pytest.raises(Enough):
        keep(paths, tmp_path / "cache", after_chunk=stop)
    assert packs(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("model.image_size=224",), 256),
        (("model.image_size=224", "augment.short_side=300"), 300),
        (("model.image_size=224", "augment.short_side=null"), None),
        (("model.image_size=224", "model.regions=[head]"), 465),  # 55% of the height is 256
    ],
)
def test_to_how_many_pixels_a_run_reduces(
    configure: Callable[..., RunConfig], overrides: tuple[str, ...], expected: int | None
) -> None:
    config = configure(*overrides, tiny=["model.weights=none"], model="mobilenet_v1")
    assert settle(config, num_folds=3).config.augment.short_side == expected
