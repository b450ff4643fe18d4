"""Hashes are kept between commands, only for files that cannot have changed since they were read."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distracted import files
from distracted.files import sha256_file
from distracted.predictions import _hashed_files
from distracted.predictions._hashed_files import HashedFiles

LONG_AGO = time.time_ns() - 3_600_000_000_000


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as written an hour ago: nobody can set the time of a file's inode back."""
    monkeypatch.setattr(files, "_SETTLED_NS", -3_600_000_000_000)
    monkeypatch.setattr(_hashed_files, "_WORTH_WRITING", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "store/run/fold0/test.parquet"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"predictions")
    return made


def open_files(tmp_path: Path) -> HashedFiles:
    """As a new command does."""
    return HashedFiles(tmp_path / "store", tmp_path / "cache/hashes.json")


def known(tmp_path: Path, path: Path) -> str | None:
    files = open_files(tmp_path)
    return files.sha256(files.at(path))


def test_a_hash_is_known_to_the_next_command(tmp_path: Path, path: Path, later: None) -> None:
    assert known(tmp_path, path) is None
    _, content = open_files(tmp_path).read(path)
    assert content == b"predictions"
    assert known(tmp_path, path) == sha256_file(path)


def write_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"P")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"Predictions")
    other.replace(path)


@pytest.mark.parametrize("change", [write_in_place, replace])
@pytest.mark.parametrize("restored", [False, True], ids=["", "time set back"])
def test_a_changed_file_is_not_known(
    tmp_path: Path, path: Path, later: None, change: Callable[[Path], None], restored: bool
) -> None:
    """Its size is the same."""
    open_files(tmp_path).read(path)
    stat = path.stat()
    while (
        path.stat().st_ctime_ns == stat.st_ctime_ns
    ):  # within a tick of the clock; see `FileState.is_settled`
        change(path)
    assert path.stat().st_size == stat.st_size
    if restored:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert known(tmp_path, path) is None
    files = open_files(tmp_path)
    file, content = files.read(path)
    assert content == b"Predictions" and files.sha256(file) == sha256_file(path)


def test_a_file_that_was_written_just_now_is_not_kept(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be written again within the same tick of the clock."""
    monkeypatch.setattr(_hashed_files, "_WORTH_WRITING", 1)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))  # the inode's time shows it
    files = open_files(tmp_path)
    file, _ = files.read(path)
    assert files.sha256(file) == sha256_file(path)  # in this command
    assert known(tmp_path, path) is None


def test_little_is_not_worth_a_file(
    tmp_path: Path, path: Path, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hashed_files, "_WORTH_WRITING", 100)
    open_files(tmp_path).read(path)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"a": 1}', b'{"a": []}', b'{"a": [1, 2]}', b'{"a": [[], 2, 3, 4, 5, 6]}']
)
def test_damaged_hashes_are_written_again(tmp_path: Path, path: Path, later: None, content: bytes) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/hashes.json").write_bytes(content)
    assert known(tmp_path, path) is None
    open_files(tmp_path).read(path)
    assert known(tmp_path, path) == sha256_file(path)


def test_a_wrong_hash_that_is_kept_does_not_outlive_the_reading(
    tmp_path: Path, path: Path, later: None
) -> None:
    open_files(tmp_path).read(path)
    kept = tmp_path / "cache/hashes.json"
    [(name, values)] = json.loads(kept.read_text()).items()
    kept.write_text(json.dumps({name: [*values[:-1], "0" * 64]}))
    files = open_files(tmp_path)
    file, _ = files.read(path)
    assert files.sha256(file) == sha256_file(path)
