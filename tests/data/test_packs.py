"""The cache holds the pixels that decoding gives, is filled once, and respects its size limit."""

import logging
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, current_thread, main_thread
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import dead_owner, write_owner
from distracted.data import packs as packs_module
from distracted.data.contents import digest_bytes
from distracted.data.images import Image, read_rgb
from distracted.data.packs import CachedPictures, cached_pictures
from distracted.data.picture_sets import Files, Pictures
from distracted.errors import DataError, ImageError
from distracted.schema import RunConfig
from distracted.training.resolve import resolve


def save(path: Path, *, width: int, height: int, seed: int = 0) -> Path:
    smooth = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Images of several sizes, one of them smaller than the cache's size."""
    folder = tmp_path / "imgs"
    folder.mkdir()
    sizes = [(640, 480), (480, 640), (200, 150), (60, 40), (333, 97)]
    return [
        save(folder / f"{n}.{'png' if n == 2 else 'jpg'}", width=w, height=h, seed=n)
        for n, (w, h) in enumerate(sizes)
    ]


def cache_images(paths: list[Path], folder: Path, **options: object) -> Pictures:
    settings: dict[str, Any] = {"short_side": 64, "limit": "auto", **options}
    short_side, contents = settings.pop("short_side"), [f"content of {path.name}" for path in paths]
    files = Files(paths, short_side=short_side)
    return cached_pictures(files, contents, kind=str(short_side or "full"), folder=folder, **settings)


def packs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("short_side", [64, 300, None])
def test_cached_images_need_no_files(paths: list[Path], tmp_path: Path, short_side: int | None) -> None:
    cached = cache_images(paths, tmp_path / "cache", short_side=short_side)
    assert isinstance(cached, CachedPictures)
    assert len(cached) == len(paths)
    for path in paths:
        path.unlink()
    again = cache_images(paths, tmp_path / "cache", short_side=short_side)
    for index in range(len(paths)):
        assert np.array_equal(cached[index], again[index])


@pytest.mark.parametrize("short_side", [64, 300, None])
def test_without_a_cache_the_pixels_are_the_same(
    paths: list[Path], tmp_path: Path, short_side: int | None
) -> None:
    cached = cache_images(paths, tmp_path / "cache", short_side=short_side)
    decoded = cache_images(paths, tmp_path / "none", short_side=short_side, limit=0)
    assert isinstance(decoded, Files)
    assert not (tmp_path / "none").exists()
    for index in range(len(paths)):
        assert np.array_equal(cached[index], decoded[index])


def test_a_cache_that_is_deleted_meanwhile_costs_only_time(paths: list[Path], tmp_path: Path) -> None:
    """Workers open the packs when they first need them, at each start of an epoch."""
    cached = cache_images(paths, tmp_path / "cache")
    expected = [np.array(cached[index]) for index in range(len(paths))]
    worker: Pictures = pickle.loads(pickle.dumps(cached))
    shutil.rmtree(tmp_path / "cache")
    for index in range(len(paths)):
        assert np.array_equal(worker[index], expected[index])
        assert np.array_equal(cached[index], expected[index])


def test_the_shorter_side_is_shrunk_and_nothing_is_enlarged(paths: list[Path], tmp_path: Path) -> None:
    cached = cache_images(paths, tmp_path / "cache")
    shapes = [cached[index].shape[:2] for index in range(len(paths))]
    assert shapes == [(64, 85), (85, 64), (64, 85), (40, 60), (64, 220)]


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(90, 700),
    height=st.integers(90, 700),
    short_side=st.integers(64, 400),
    kind=st.booleans(),
)
def test_a_shrunk_image_is_close_to_the_area_mean(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, short_side: int, kind: bool
) -> None:
    """Whatever the reduced decoding and the steps of shrinking."""
    path = tmp_path_factory.mktemp("one") / f"a.{'jpg' if kind else 'png'}"
    save(path, width=width, height=height, seed=width)
    whole, shrunk = read_rgb(path), read_rgb(path, short_side=short_side)
    assert min(shrunk.shape[:2]) == min(short_side, width, height)
    expected = cv2.resize(whole, shrunk.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(expected.astype(int) - shrunk).mean() < 4  # of 255


def test_a_rotated_photograph_is_shrunk_by_its_visible_size(tmp_path: Path) -> None:
    """With EXIF orientation 6, a quarter turn to the right."""
    path = save(tmp_path / "a.jpg", width=400, height=200)
    plain = path.read_bytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    path.write_bytes(plain[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + plain[2:])
    assert read_rgb(path).shape == (400, 200, 3)
    assert read_rgb(path, short_side=50).shape == (100, 50, 3)


def test_only_missing_images_are_decoded(paths: list[Path], tmp_path: Path) -> None:
    cache_images(paths[:3], tmp_path / "cache")
    for path in paths[:3]:
        path.unlink()
    cached = cache_images([*paths, paths[4]], tmp_path / "cache")
    assert np.array_equal(cached[5], read_rgb(paths[4], short_side=64))
    assert cached[1].shape == (85, 64, 3)
    assert len(packs(tmp_path / "cache")) == 4  # two packs with a table each


def test_another_size_is_another_pack(paths: list[Path], tmp_path: Path) -> None:
    small, large = cache_images(paths, tmp_path, short_side=30), cache_images(paths, tmp_path, short_side=90)
    assert (min(small[0].shape[:2]), min(large[0].shape[:2])) == (30, 90)


def test_an_unreadable_image_is_an_error_only_when_it_is_accessed(paths: list[Path], tmp_path: Path) -> None:
    paths[2].write_bytes(b"garbage")
    for _ in range(2):
        cached = cache_images(paths, tmp_path / "cache")
        assert cached[3].shape == (40, 60, 3)
        with pytest.raises(ImageError, match=r"2\.png: not an image"):
            cached[2]


@pytest.mark.parametrize("limit", ["auto", 0])
def test_a_file_that_changed_since_its_digest_was_computed_is_never_used(
    paths: list[Path], tmp_path: Path, limit: str | int
) -> None:
    """Else the cache would keep its pixels under the old digest, and runs would train on mixed pixels."""
    contents = [digest_bytes(path.read_bytes()) for path in paths]
    save(paths[1], width=480, height=640, seed=77)
    with pytest.raises(DataError, match=r"1\.jpg: the file has changed") as info:
        cached_pictures(
            Files(paths, contents), contents, kind="full", folder=tmp_path / "cache", limit=limit
        )[1]
    assert not isinstance(info.value, ImageError)  # which the cache would take for an unreadable image
    assert not list((tmp_path / "cache").glob("*.u8"))


def test_a_limit_is_respected_with_a_warning(
    paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        cached = cache_images(paths, tmp_path / "cache", limit=1e-5)
    assert np.array_equal(cached[1], read_rgb(paths[1], short_side=64))
    assert "5 decoded images take about 0.1 MB, but there is room for 0.0 MB" in caplog.text
    assert packs(tmp_path / "cache") == []


def test_existing_packs_count_towards_the_limit(paths: list[Path], tmp_path: Path) -> None:
    cache_images(paths, tmp_path / "cache")
    taken = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    cache_images(paths, tmp_path / "cache", short_side=60, limit=1.5 * taken / 1e9)
    assert len(packs(tmp_path / "cache")) == 2
    cache_images(paths, tmp_path / "cache", short_side=60, limit=2.5 * taken / 1e9)
    assert len(packs(tmp_path / "cache")) == 4


@pytest.mark.parametrize("damage", ["short", "missing", "no table", "damaged table"])
def test_a_damaged_pack_is_replaced(
    paths: list[Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache_images(paths, tmp_path)
    [table] = tmp_path.glob("*.parquet")
    pixels = table.with_suffix(".u8")
    match damage:
        case "short":
            os.truncate(pixels, 100)
        case "missing":
            pixels.unlink()
        case "no table":
            table.unlink()
        case _:
            table.write_bytes(b"garbage")
    cached = cache_images(paths, tmp_path)
    for index, path in enumerate(paths):
        assert np.array_equal(cached[index], read_rgb(path, short_side=64))
    assert ("damaged" in caplog.text) == (damage != "no table")


def test_a_pickled_cache_is_small_and_works(paths: list[Path], tmp_path: Path) -> None:
    """The pixels are left out. Loaders are pickled where workers are not forked."""
    cached = cache_images(paths * 40, tmp_path / "cache")
    assert cached[0].shape == (64, 85, 3)
    data = pickle.dumps(cached)
    assert len(data) < 40_000
    assert np.array_equal(pickle.loads(data)[1], cached[1])


@pytest.mark.slow
def test_simultaneous_callers_decode_once(paths: list[Path], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: cache_images(paths, tmp_path / "cache"), range(4)))
    assert all(isinstance(result, CachedPictures) for result in results)
    assert len(packs(tmp_path / "cache")) == 2


def test_files_left_by_a_killed_process_are_removed(paths: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    write_owner(folder / "pictures.lock", dead_owner())
    (folder / ".1-64-0123.u8.4567.tmp").write_bytes(b"half")
    cache_images(paths, folder)
    assert {Path(name).suffix for name in packs(folder)} == {".u8", ".parquet"}


def test_a_stopped_decoding_leaves_no_files(paths: list[Path], tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop() -> None:
        raise Enough

    with pytest.raises(Enough):
        cache_images(paths, tmp_path / "cache", after_chunk=stop)
    assert packs(tmp_path / "cache") == []


def test_a_stop_does_not_wait_for_a_disk(tmp_path: Path) -> None:
    """One image cannot be read now; the lock is free again, and no file is left."""
    is_back, asked = Event(), Event()

    class Stalled:
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> Image:
            if index == 3 and current_thread() is not main_thread():
                asked.set()
                assert is_back.wait(60)
            return np.full((8, 8, 3), index, np.uint8)

    def stop() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    contents = [f"content {number}" for number in range(40)]
    folder = tmp_path / "cache"
    try:
        with pytest.raises(KeyboardInterrupt):
            cached_pictures(Stalled(), contents, kind="8", folder=folder, limit="auto", after_chunk=stop)
        assert not is_back.is_set() and packs(folder) == []
    finally:
        is_back.set()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("model.image_size=224",), 256),
        (("model.image_size=224", "augment.short_side=300"), 300),
        (("model.image_size=224", "augment.short_side=null"), None),
        (("model.image_size=224", "model.regions=[head]"), 465),  # the region has 55% of the height: 256
    ],
)
def test_the_short_side_that_a_run_uses(
    configure: Callable[..., RunConfig], overrides: tuple[str, ...], expected: int | None
) -> None:
    config = configure(*overrides, tiny=["model.weights=none"], model="mobilenet_v1")
    assert resolve(config, num_folds=3).config.augment.short_side == expected


class Meeting:
    """Pictures of which none is made before two threads want one."""

    def __init__(self, paths: list[Path]) -> None:
        self._files, self._barrier = Files(paths), Barrier(2)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Image:
        if current_thread() is not main_thread():  # which samples the sizes alone
            self._barrier.wait(timeout=30)
        return self._files[index]


def test_all_cores_decode_though_torch_has_one_thread(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs_module, "decoding_threads", lambda: 2)
    assert torch.get_num_threads() == 1
    cached = cached_pictures(
        Meeting(paths[:4]), list("abcd"), kind="a", folder=tmp_path / "cache", limit="auto"
    )
    assert isinstance(cached, CachedPictures) and cached.is_complete
