"""Images are read again if anything by which the file system tells a change has changed."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import pandas as pd
import pytest

from conftest import RecordedProgress
from distracted import files
from distracted.data.competition import load_competition
from distracted.data.contents import digest_images
from distracted.data.images import read_bytes
from distracted.errors import DataError
from distracted.schema import DataConfig


@pytest.fixture
def paths(folder: Path) -> list[Path]:
    return sorted((folder / "imgs").rglob("*.jpg"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache/contents.parquet"


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files count as written long before they are read: their change time cannot be set."""
    monkeypatch.setattr(files, "_SETTLED_NS", -3_600_000_000_000)


def read_by(paths: list[Path], folder: Path, cache: Path) -> tuple[list[str], int]:
    """Digests, and how many files were read for them."""
    progress = RecordedProgress()
    digests = digest_images(paths, root=folder, cache=cache, progress=progress)
    return digests, sum(total for _, total in progress.tasks)


def digest(path: Path) -> str:
    return blake2b(path.read_bytes(), digest_size=16).hexdigest()


def change_a_byte(path: Path) -> bytes:
    """The file's bytes with another one in the middle: an image of the same size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    return bytes(data)


def overwrite(path: Path) -> None:
    path.write_bytes(change_a_byte(path))


def replace_by_rename(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(change_a_byte(path))
    new.replace(path)


def replace_by_link(path: Path) -> None:
    """A link to a file elsewhere, as tools that share files between folders make it."""
    new = path.parents[3] / f"elsewhere_{path.name}"
    new.write_bytes(change_a_byte(path))
    path.unlink()
    path.symlink_to(new)


def swap_with_neighbour(path: Path) -> None:
    """Two files of one size change places."""
    other = path.with_suffix(".other")
    other.write_bytes(change_a_byte(path))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    path.rename(path.with_suffix(".kept"))
    other.rename(path)


def overwrite_in_place(path: Path) -> None:
    data = change_a_byte(path)
    with path.open("r+b") as file:
        file.write(data)


@pytest.mark.usefixtures("long_ago")
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


@pytest.mark.usefixtures("long_ago")
def test_unchanged_files_are_not_read_again(folder: Path, paths: list[Path], cache: Path) -> None:
    before, read = read_by(paths, folder, cache)
    assert read == len(paths)
    written = cache.stat().st_mtime_ns
    assert read_by(paths, folder, cache) == (before, 0)
    assert cache.stat().st_mtime_ns == written


@pytest.mark.usefixtures("long_ago")
@pytest.mark.parametrize(
    "change", [overwrite, overwrite_in_place, replace_by_rename, replace_by_link, swap_with_neighbour]
)
def test_a_replaced_file_of_the_same_size_and_time_is_read_again(
    folder: Path, paths: list[Path], cache: Path, change: Callable[[Path], None]
) -> None:
    """Archives, rsync and cp -p set the modification time; nobody can set the change time and the inode."""
    before = digest_images(paths, root=folder, cache=cache)
    stat = paths[0].stat()
    change(paths[0])
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (paths[0].stat().st_size, paths[0].stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after, read = read_by(paths, folder, cache)
    assert after == [digest(path) for path in paths]
    assert after[0] != before[0]
    assert (after[1:], read) == (before[1:], 1)


def test_files_that_have_just_changed_are_not_remembered(
    folder: Path, paths: list[Path], cache: Path
) -> None:
    """They may change again within the file system's smallest step of time."""
    digest_images(paths, root=folder, cache=cache)
    assert len(pd.read_parquet(cache)) == 0
    assert read_by(paths, folder, cache)[1] == len(paths)


@pytest.mark.usefixtures("long_ago")
def test_a_cache_of_an_earlier_version_is_replaced(folder: Path, paths: list[Path], cache: Path) -> None:
    """It knew files by name, size and modification time."""
    stats = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    rows = [(str(path.relative_to(folder)), *stat, "0" * 32) for path, stat in zip(paths, stats, strict=True)]
    cache.parent.mkdir()
    pd.DataFrame(rows, columns=["name", "size", "mtime_ns", "digest"]).to_parquet(cache, index=False)
    assert read_by(paths, folder, cache) == ([digest(path) for path in paths], len(paths))
    assert read_by(paths, folder, cache)[1] == 0


@pytest.mark.usefixtures("long_ago")
def test_only_new_files_are_read(folder: Path, paths: list[Path], cache: Path) -> None:
    digest_images(paths[:10], root=folder, cache=cache)
    digests, read = read_by(paths, folder, cache)
    assert (digests, read) == ([digest(path) for path in paths], len(paths) - 10)


@pytest.mark.usefixtures("long_ago")
def test_the_cache_stays_valid_if_the_folder_is_moved(folder: Path, paths: list[Path], cache: Path) -> None:
    """Names are relative to the root."""
    before = digest_images(paths, root=folder, cache=cache)
    moved = folder.rename(folder.with_name("moved"))
    assert read_by([moved / path.relative_to(folder) for path in paths], moved, cache) == (before, 0)


@pytest.mark.usefixtures("long_ago")
def test_why_the_same_images_are_read_again_is_said(
    folder: Path, paths: list[Path], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy has other inodes, and so has the same folder after each mount on some network drives."""
    caplog.set_level("INFO")
    before = digest_images(paths, root=folder, cache=cache)
    assert not caplog.messages  # new images need no reason
    shutil.copytree(folder, folder.with_name("copy"))  # keeps times
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)
    assert read_by(paths, folder, cache) == (before, len(paths))
    [message] = caplog.messages
    assert message.startswith(
        "most images are read again: their sizes and times are as before, but not their"
    )
    overwrite(paths[0])
    assert read_by(paths, folder, cache)[1] == 1
    assert len(caplog.messages) == 1


def test_a_cache_that_cannot_be_written_costs_only_time(
    folder: Path, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Such as on a full disk, or in a read-only folder."""
    (folder.parent / "file").touch()
    cache = folder.parent / "file/contents.parquet"
    assert digest_images(paths, root=folder, cache=cache) == [digest(path) for path in paths]
    assert "cannot be written" in caplog.text and "the next command reads the images again" in caplog.text


def test_a_file_that_changed_since_its_digest_was_computed_is_an_error(paths: list[Path]) -> None:
    content = digest(paths[0])
    assert read_bytes(paths[0], content=content) == read_bytes(paths[0]) == paths[0].read_bytes()
    overwrite(paths[0])
    with pytest.raises(DataError, match=f"^{re.escape(str(paths[0]))}: the file has changed"):
        read_bytes(paths[0], content=content)


@pytest.mark.usefixtures("long_ago")
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


@pytest.mark.usefixtures("long_ago")
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


@pytest.mark.usefixtures("long_ago")
def test_progress_counts_the_files_that_are_read(folder: Path, paths: list[Path], cache: Path) -> None:
    progress = RecordedProgress()
    digest_images(paths, root=folder, cache=cache, progress=progress)
    digest_images(paths, root=folder, cache=cache, progress=progress)
    assert progress.tasks == [(len(paths), len(paths))]
