"""Images are read again only if their size or modification time has changed."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import pandas as pd
import pytest

from conftest import RecordedProgress
from distracted.data.competition import load_competition
from distracted.data.contents import digest_images
from distracted.errors import DataError
from distracted.schema import DataConfig


@pytest.fixture
def paths(folder: Path) -> list[Path]:
    return sorted((folder / "imgs").rglob("*.jpg"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache/contents.parquet"


def digest(path: Path) -> str:
    return blake2b(path.read_bytes(), digest_size=16).hexdigest()


def overwrite_unnoticed(path: Path) -> None:
    """Change a byte and restore the modification time."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_stop_keeps_the_digests_so_far(folder: Path, paths: list[Path], cache: Path) -> None:
    """From a slow disk the first pass may take longer than a session."""

    @contextmanager
    def stopping(label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
        steps = iter(range(total))

        def step() -> None:
            if next(steps) == 9:
                raise KeyboardInterrupt

        yield step

    with pytest.raises(KeyboardInterrupt):
        digest_images(paths, root=folder, cache=cache, progress=stopping)
    progress = RecordedProgress()
    assert digest_images(paths, root=folder, cache=cache, progress=progress) == [digest(p) for p in paths]
    assert progress.tasks == [(len(paths) - 10, len(paths) - 10)]


def test_digests_are_those_of_the_files(folder: Path, paths: list[Path], cache: Path) -> None:
    expected = [digest(path) for path in paths]
    assert digest_images(paths, root=folder) == expected
    assert digest_images(paths, root=folder, cache=cache) == expected
    assert digest_images(paths, root=folder, cache=cache) == expected
    assert digest_images(paths[::-1], root=folder, cache=cache) == expected[::-1]


def test_unchanged_files_are_not_read_again(folder: Path, paths: list[Path], cache: Path) -> None:
    """A change that keeps size and time goes unnoticed, so the file was not opened."""
    before = digest_images(paths, root=folder, cache=cache)
    written = cache.stat().st_mtime_ns
    overwrite_unnoticed(paths[0])
    assert digest_images(paths, root=folder, cache=cache) == before
    assert digest(paths[0]) != before[0]
    assert cache.stat().st_mtime_ns == written


@pytest.mark.parametrize("sign", [1, -1])
def test_a_file_with_another_modification_time_is_read_again(
    folder: Path, paths: list[Path], cache: Path, sign: int
) -> None:
    """Newer or older: a backup may have been restored."""
    before = digest_images(paths, root=folder, cache=cache)
    overwrite_unnoticed(paths[0])
    stat = paths[0].stat()
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + sign * 1_000))
    after = digest_images(paths, root=folder, cache=cache)
    assert after == [digest(path) for path in paths]
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_a_file_with_another_size_is_read_again(folder: Path, paths: list[Path], cache: Path) -> None:
    before = digest_images(paths, root=folder, cache=cache)
    stat = paths[0].stat()
    paths[0].write_bytes(paths[0].read_bytes() + b"\0")
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest_images(paths, root=folder, cache=cache)[0] == digest(paths[0]) != before[0]


def test_only_new_files_are_read(folder: Path, paths: list[Path], cache: Path) -> None:
    digest_images(paths[:10], root=folder, cache=cache)
    overwrite_unnoticed(paths[0])
    digests = digest_images(paths, root=folder, cache=cache)
    assert digests[0] != digest(paths[0])  # from the cache
    assert digests[10:] == [digest(path) for path in paths[10:]]


def test_the_cache_stays_valid_if_the_folder_is_moved(folder: Path, paths: list[Path], cache: Path) -> None:
    """Names are relative to the root."""
    before = digest_images(paths, root=folder, cache=cache)
    overwrite_unnoticed(paths[0])
    moved = folder.rename(folder.with_name("moved"))
    there = [moved / path.relative_to(folder) for path in paths]
    assert digest_images(there, root=moved, cache=cache) == before


@pytest.mark.parametrize("content", [b"", b"PAR1 half a file", b"no parquet at all"])
def test_a_damaged_cache_is_replaced(folder: Path, paths: list[Path], cache: Path, content: bytes) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert digest_images(paths, root=folder, cache=cache) == [digest(path) for path in paths]
    assert len(pd.read_parquet(cache)) == len(paths)


def test_a_cache_with_other_columns_is_ignored(folder: Path, paths: list[Path], cache: Path) -> None:
    cache.parent.mkdir()
    pd.DataFrame({"name": ["x"], "hash": ["y"]}).to_parquet(cache)
    assert digest_images(paths, root=folder, cache=cache) == [digest(path) for path in paths]


def test_a_damaged_image_is_not_cached(folder: Path, paths: list[Path], cache: Path) -> None:
    data = paths[3].read_bytes()
    paths[3].write_bytes(data[:-100])
    for _ in range(2):
        with pytest.raises(DataError, match="truncated") as info:
            digest_images(paths, root=folder, cache=cache)
        assert str(info.value).startswith(f"{paths[3]}: ")
    assert len(pd.read_parquet(cache)) == len(paths) - 1  # the other images are cached
    paths[3].write_bytes(data)
    assert digest_images(paths, root=folder, cache=cache)[3] == digest(paths[3])


def test_a_competition_uses_the_given_cache_folder(tmp_path: Path, data: DataConfig) -> None:
    first = load_competition(data, cache=tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["contents.parquet"]
    assert load_competition(data, cache=tmp_path / "cache").index_hash == first.index_hash
    assert load_competition(data).index_hash == first.index_hash


def test_progress_counts_the_files_that_are_read(folder: Path, paths: list[Path], cache: Path) -> None:
    progress = RecordedProgress()
    digest_images(paths, root=folder, cache=cache, progress=progress)
    digest_images(paths, root=folder, cache=cache, progress=progress)
    assert progress.tasks == [(len(paths), len(paths))]
