"""Photographs are recognised by content, and everything else in the folder is named."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from distracted.errors import DataError
from distracted.submission.photograph_files import find_photographs


def encode(kind: str) -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (8, 6), (200, 10, 10)).save(buffer, kind)
    return buffer.getvalue()


JPEG = encode("JPEG")


@pytest.fixture
def folder(public_folder: Path) -> Path:
    return public_folder


def write(path: Path, data: bytes = JPEG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_photographs(folder).paths]


def left_out(folder: Path) -> dict[str, str]:
    return {item.name: item.kind for item in find_photographs(folder).left_out}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "name", ["a.jfif", "a.jpe", "a", "A.JPG", "a.heic", "a.jpg.txt", "IMG.0001", "ä b.png"]
)
def test_the_content_counts_and_not_the_name(folder: Path, name: str, kind: str) -> None:
    write(folder / "sub" / name, encode(kind))
    assert names(folder) == [f"sub/{name}"] and not left_out(folder)


def test_other_files_are_named_with_what_they_are(folder: Path) -> None:
    write(folder / "a.jpg")
    for name in ("a.gif", "b.avif"):
        write(folder / name, encode(name[2:].upper()))
    write(folder / "c.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    write(folder / "d.zip", b"PK\3\4" + bytes(40))
    write(folder / "e.mp4", b"\0\0\0\x18ftypisom\0\0\2\0isommp41")
    write(folder / "f.csv", b"img,c0\n")
    write(folder / "g", b"")
    found = find_photographs(folder)
    assert [path.name for path in found.paths] == ["a.jpg"] and not found.unreadable
    kinds = ["GIF image", "AVIF image", "HEIC image", "zip archive", "video or sound"]
    kinds += ["other file", "empty file"]
    assert [item.kind for item in found.left_out] == kinds
    advice = ["convert it to JPEG or PNG"] * 3 + ["extract it first", "save its frames as JPEG or PNG"]
    advice += ["", "fetch it again"]
    assert [item.advice for item in found.left_out] == advice


def test_what_is_named_like_a_photograph_and_is_none_is_an_error(folder: Path) -> None:
    write(folder / "good.jpg")
    for name, data in {
        "cut.jpe": JPEG[:-30],
        "empty.PNG": b"",
        "gif.jpg": encode("GIF"),
        "page.jfif": b"<html>",
        "cut": JPEG[:-30],
    }.items():
        write(folder / name, data)
    found = find_photographs(folder)
    assert [path.name for path in found.paths] == ["good.jpg"] and not found.left_out
    messages = {item.name: item.advice for item in found.unreadable}
    assert "truncated" in messages["cut.jpe"] and "truncated" in messages["cut"]
    assert "empty" in messages["empty.PNG"] and "a web page" in messages["page.jfif"]
    assert messages["gif.jpg"].endswith("GIF image, which is not supported; convert it to JPEG or PNG")


def test_hidden_and_system_files(folder: Path) -> None:
    write(folder / "a.jpg")
    hidden = [".b.jpg", "._a.jpg", "Thumbs.db", ".thumbnails/c.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg"]
    for name in hidden:
        write(folder / name)
    assert names(folder) == ["a.jpg"]
    assert left_out(folder) == dict.fromkeys((name.split("/")[0] for name in hidden), "hidden or system file")


def test_a_hidden_folder_that_is_given_is_read(folder: Path) -> None:
    write(folder / ".photographs/a.jpg")
    assert names(folder / ".photographs") == ["a.jpg"]


def test_links_are_followed_and_what_cannot_be_is_named(folder: Path) -> None:
    write(folder / "elsewhere/deep/a.jpg")
    photographs = folder / "photographs"
    photographs.mkdir()
    (photographs / "linked").symlink_to(folder / "elsewhere")
    (photographs / "b.jpg").symlink_to(folder / "elsewhere/deep/a.jpg")
    (photographs / "dead.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(photographs / "pipe.jpg")
    assert names(photographs) == ["b.jpg", "linked/deep/a.jpg"]
    assert left_out(photographs) == {"dead.jpg": "dead link", "pipe.jpg": "pipe, socket or device"}
    assert names(photographs / "linked") == ["deep/a.jpg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="root may become another user")
def test_what_may_not_be_read_is_named(folder: Path) -> None:
    write(folder / "a.jpg")
    write(folder / "b.jpg").chmod(0)
    write(folder / "closed/c.jpg")
    (folder / "closed").chmod(0)
    find_photographs(folder)  # everything is imported
    os.seteuid(65534)
    try:
        found = find_photographs(folder)
    finally:
        os.seteuid(0)
    assert [path.name for path in found.paths] == ["a.jpg"]
    [unreadable] = found.unreadable
    assert unreadable.advice == f"{folder}/b.jpg: cannot be read (Permission denied)"
    assert found.left_out == [("closed", "folder that cannot be read", "Permission denied")]


def test_a_file_that_vanishes_before_it_is_decoded(folder: Path) -> None:
    gone = write(folder / "gone.jpg")
    write(folder / "a.jpg")
    found = find_photographs(folder)
    gone.unlink()
    decoded = found.without_unreadable()
    assert [path.name for path in decoded.paths] == ["a.jpg"]
    assert [item.name for item in decoded.unreadable] == ["gone.jpg"]


def test_a_single_photograph(folder: Path) -> None:
    found = find_photographs(write(folder / "a"))
    assert found.folder == folder and [path.name for path in found.paths] == ["a"]
    with pytest.raises(
        DataError, match=r"none of 1 photographs can be read.*a zip archive; extract it first"
    ):
        find_photographs(write(folder / "a.jpg", b"PK\3\4"))
    with pytest.raises(DataError, match=r"no photographs in it.*; it holds: zip archive \(1\)"):
        find_photographs(write(folder / "a.zip", b"PK\3\4"))


def test_a_folder_without_photographs_says_what_it_holds(folder: Path) -> None:
    for name in ("a.gif", "b.gif"):
        write(folder / name, encode("GIF"))
    write(folder / ".hidden")
    with pytest.raises(DataError, match=r"it holds: hidden or system file \(1\), GIF image \(2\)"):
        find_photographs(folder)
    with pytest.raises(DataError, match="no such folder"):
        find_photographs(folder / "nowhere")
