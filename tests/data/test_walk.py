"""Each file is found once and under its own name, and everything else is named with a reason."""

import os
import socket
from pathlib import Path

import pytest

from distracted.data.walk import LeftOut, Walk, by_kind


@pytest.fixture
def folder(public_folder: Path) -> Path:
    return public_folder


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def left_out(folder: Path) -> dict[str, str]:
    return {item.name: item.kind for item in Walk(folder).left_out}


def test_files_have_their_paths_and_empty_folders_none(folder: Path) -> None:
    for name in ("b", "a/c.jpg", "a/b/\xe4 c.jpg"):
        touch(folder / name)
    (folder / "empty").mkdir()
    walk = Walk(folder)
    assert walk.files == ["a/b/\xe4 c.jpg", "a/c.jpg", "b"]
    assert sorted(walk.folders) == ["a", "a/b", "empty"] and not walk.left_out
    assert Walk(folder / "empty").files == []


def test_hidden_and_system_files(folder: Path) -> None:
    touch(folder / "a.jpg")
    hidden = [".b.jpg", "._a.jpg", "Thumbs.db", ".thumbnails/c.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg"]
    hidden += ["lost+found/a.jpg", "$RECYCLE.BIN/a.jpg"]
    for name in hidden:
        touch(folder / name)
    assert Walk(folder).files == ["a.jpg"]
    assert left_out(folder) == dict.fromkeys((name.split("/")[0] for name in hidden), "hidden or system file")
    assert Walk(folder / ".thumbnails").files == ["c.jpg"]  # given by name


def test_linked_files_and_folders_are_followed(folder: Path) -> None:
    touch(folder / "elsewhere/deep/a.jpg")
    (folder / "top").mkdir()
    (folder / "top/linked").symlink_to(folder / "elsewhere")
    (folder / "top/b.jpg").symlink_to(folder / "elsewhere/deep/a.jpg")
    assert Walk(folder / "top").files == ["b.jpg", "linked/deep/a.jpg"] and not left_out(folder / "top")


def test_each_folder_is_visited_once_and_under_its_own_name(folder: Path) -> None:
    touch(folder / "real/a.jpg")
    (folder / "again").symlink_to("real")
    (folder / "real/loop").symlink_to("..")
    (folder / "real/self").symlink_to(".")
    assert Walk(folder).files == ["real/a.jpg"]
    assert left_out(folder) == dict.fromkeys(
        ("again", "real/loop", "real/self"), "folder that is linked twice"
    )


def test_of_two_links_to_a_folder_the_first_by_name_counts(folder: Path) -> None:
    touch(folder / "elsewhere/a.jpg")
    (folder / "top").mkdir()
    for name in ("z", "m", "b"):
        (folder / "top" / name).symlink_to(folder / "elsewhere")
    assert Walk(folder / "top").files == ["b/a.jpg"]


def test_a_folder_around_this_one_is_not_searched(folder: Path) -> None:
    touch(folder / "private.jpg")
    touch(folder / "photographs/a.jpg")
    (folder / "photographs/up").symlink_to(folder)
    assert Walk(folder / "photographs").files == ["a.jpg"]
    assert left_out(folder / "photographs") == {"up": "link to a folder around this one"}


def test_dead_links_and_circles(folder: Path) -> None:
    touch(folder / "a.jpg")
    (folder / "dead.jpg").symlink_to("nowhere.jpg")
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    assert Walk(folder).files == ["a.jpg"]
    assert left_out(folder) == dict.fromkeys(("dead.jpg", "one", "two"), "dead link")


def test_pipes_and_sockets_do_not_block(folder: Path) -> None:
    touch(folder / "a.jpg")
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s.jpg"))
        (folder / "null.jpg").symlink_to("/dev/null")
        assert Walk(folder).files == ["a.jpg"]
    assert left_out(folder) == dict.fromkeys(("null.jpg", "pipe.jpg", "s.jpg"), "pipe, socket or device")


@pytest.mark.skipif(os.geteuid() != 0, reason="root may become another user")
def test_folders_without_permission(folder: Path) -> None:
    touch(folder / "a.jpg")
    touch(folder / "closed/c.jpg").parent.chmod(0)
    os.seteuid(65534)
    try:
        walk = Walk(folder)
    finally:
        os.seteuid(0)
    assert walk.files == ["a.jpg"]
    assert walk.left_out == [("closed", "folder that cannot be read", "Permission denied")]


def test_what_is_left_out_is_counted_by_kind() -> None:
    items = [LeftOut(f"{number}.gif", "GIF image", "convert it") for number in range(4)]
    items += [LeftOut("two\nlines", "dead link"), LeftOut("caf\udce9", "dead link")]
    assert by_kind(items, 2) == [
        "GIF image (4): 0.gif, 1.gif, ...; convert it",
        "dead link (2): 'two\\nlines', 'caf\\udce9'",
    ]
    assert by_kind([], 2) == []
