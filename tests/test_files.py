"""Files are written atomically, and hashes are SHA-256."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distracted.files import (
    atomic_path,
    create_text,
    remove_leftovers,
    sha256_file,
    sha256_json,
    write_bytes,
    write_json,
    write_text,
)

EMPTY_DIGEST = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ABC_DIGEST = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestAtomicPath:
    def test_the_file_appears_at_the_end_of_the_block(self, tmp_path: Path) -> None:
        path = tmp_path / "new/folder/a.txt"
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == path.parent  # so the rename stays on one file system
            assert not path.exists()
        assert path.read_text() == "half"
        assert names(path.parent) == {"a.txt"}

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_an_error_leaves_the_old_file_and_no_temporary_one(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        path = tmp_path / "a.txt"
        write_text(path, "old")
        with pytest.raises(error), atomic_path(path) as temporary:
            temporary.write_text("half of the new")
            raise error
        assert path.read_text() == "old"
        assert names(tmp_path) == {"a.txt"}

    def test_an_error_before_anything_is_written(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt"):
            raise RuntimeError
        assert names(tmp_path) == set()

    def test_a_block_that_writes_nothing_is_an_error(self, tmp_path: Path) -> None:
        write_text(tmp_path / "a.txt", "old")
        with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
            pass
        assert (tmp_path / "a.txt").read_text() == "old"

    def test_two_writers_do_not_share_a_temporary_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        with atomic_path(path) as first, atomic_path(path) as second:
            first.write_text("first")
            second.write_text("second")
            assert first != second
        assert path.read_text() == "first"  # the outer block ends last
        assert names(tmp_path) == {"a.txt"}

    def test_readers_never_see_half_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        contents = [bytes([value]) * 200_000 for value in range(20)]
        write_bytes(path, contents[0])

        def write() -> None:
            for content in contents:
                write_bytes(path, content)

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            while not writing.done():
                assert path.read_bytes() in contents
            writing.result()
        assert path.read_bytes() == contents[-1]


class TestWriters:
    def test_bytes_and_text(self, tmp_path: Path) -> None:
        write_bytes(tmp_path / "a", b"\0\xff")
        write_text(tmp_path / "b", "Müller 日本\n")
        assert (tmp_path / "a").read_bytes() == b"\0\xff"
        assert (tmp_path / "b").read_bytes() == "Müller 日本\n".encode()

    def test_json_reads_back(self, tmp_path: Path) -> None:
        value = {"b": [1, 2.5, None, "Müller"], "a": {"x": True}}
        write_json(tmp_path / "a.json", value)
        text = (tmp_path / "a.json").read_text(encoding="utf-8")
        assert json.loads(text) == value
        assert "Müller" in text
        assert text.endswith("\n")

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
    def test_an_invalid_value_leaves_the_old_file(self, tmp_path: Path, value: object) -> None:
        write_json(tmp_path / "a.json", 1)
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "a.json", {"value": value})
        assert json.loads((tmp_path / "a.json").read_text()) == 1
        assert names(tmp_path) == {"a.json"}


class TestCreateText:
    def test_the_first_wins(self, tmp_path: Path) -> None:
        path = tmp_path / "new/a.txt"
        assert create_text(path, "Müller")
        assert not create_text(path, "second")
        assert path.read_bytes() == "Müller".encode()
        assert names(path.parent) == {"a.txt"}

    def test_exactly_one_of_many_threads_wins(self, tmp_path: Path) -> None:
        """And the file holds the winner's complete text."""
        num = 8
        for attempt in range(20):
            path, barrier = tmp_path / f"{attempt}/a.txt", Barrier(num)

            def create(number: int, path: Path = path, barrier: Barrier = barrier) -> bool:
                barrier.wait()
                return create_text(path, str(number) * 10_000)

            with ThreadPoolExecutor(num) as pool:
                won = list(pool.map(create, range(num)))
            assert sum(won) == 1
            assert path.read_text() == str(won.index(True)) * 10_000
            assert names(path.parent) == {"a.txt"}


class TestHashes:
    @pytest.mark.parametrize(("data", "digest"), [(b"", EMPTY_DIGEST), (b"abc", ABC_DIGEST)])
    def test_known_answers(self, tmp_path: Path, data: bytes, digest: str) -> None:
        (tmp_path / "a").write_bytes(data)
        assert sha256_file(tmp_path / "a") == digest

    def test_a_file_of_several_chunks(self, tmp_path: Path) -> None:
        """The third test vector of FIPS 180-2 (a million times the letter a), and longer files."""
        (tmp_path / "a").write_bytes(b"a" * 1_000_000)
        assert sha256_file(tmp_path / "a") == (
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
        )
        (tmp_path / "b").write_bytes(b"a" * 3_000_000)
        (tmp_path / "c").write_bytes(b"a" * 2_999_999 + b"b")
        assert sha256_file(tmp_path / "b") != sha256_file(tmp_path / "c")

    def test_canonical_json(self) -> None:
        known = "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777"  # {"a":1,"b":2}
        assert sha256_json({"b": 2, "a": 1}) == known

    @settings(max_examples=30, deadline=None)
    @given(st.dictionaries(st.text("abc", max_size=3), st.integers() | st.text("ab", max_size=3), max_size=5))
    def test_the_order_of_keys_does_not_matter(self, value: dict[str, int | str]) -> None:
        reordered = dict(reversed(value.items()))
        assert sha256_json({"x": reordered}) == sha256_json({"x": value})

    def test_the_order_of_lists_and_the_type_of_values_matter(self) -> None:
        values = [[1, 2], [2, 1], ["1", 2], [1, 2.5], [[1], 2], {"1": 2}, [1, 2, None], [True, 2]]
        assert len({sha256_json(value) for value in values}) == len(values)

    def test_nan_has_no_hash(self) -> None:
        with pytest.raises(ValueError, match="JSON"):
            sha256_json([float("nan")])


def test_the_winner_may_remove_the_losers_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winner holds the lock by then and removes leftovers."""
    path, link = tmp_path / "lock.json", os.link

    def link_too_late(source: Path, target: Path) -> None:
        path.write_text("first")
        remove_leftovers(tmp_path, of="lock.json")
        link(source, target)

    monkeypatch.setattr(os, "link", link_too_late)
    assert create_text(path, "second") is False
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_exclusive_creation_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise PermissionError("operation not supported")

    monkeypatch.setattr(os, "link", fail)
    path = tmp_path / "folds.csv"
    assert create_text(path, "first") is True
    assert create_text(path, "second") is False
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
