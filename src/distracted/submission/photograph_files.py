"""Finds the photographs in a folder, by content, and says what else is there."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distracted.cores import decoding_threads
from distracted.data.formats import ENDINGS, other_kind, read_header
from distracted.data.images import check_bytes, read_bytes, read_rgb
from distracted.data.walk import LeftOut, Walk
from distracted.errors import DataError, ImageError
from distracted.progress import Progress, silent

_HEAD = 4096  # bytes that tell what a file is


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        folder: Names are relative to it.
        paths: The readable photographs, in order.
        unreadable: Photographs that cannot be read, with the message as the advice.
        left_out: Everything else but folders.
    """

    folder: Path
    paths: list[Path]
    unreadable: list[LeftOut]
    left_out: list[LeftOut]

    def without_unreadable(self, progress: Progress = silent) -> "Found":
        """Decode all photographs and leave out those that fail."""
        paths, unreadable, _ = _check(self.paths, self.folder, decode=True, progress=progress)
        return Found(self.folder, paths, self.unreadable + unreadable, self.left_out)


def check_folder(folder: Path) -> None:
    """Raise DataError unless there is a folder, or a single file."""
    if not (folder.is_dir() or folder.is_file()):
        raise DataError(f"IMAGES={folder}: no such folder")


def find_photographs(folder: Path, *, progress: Progress = silent) -> Found:
    """The photographs in a folder, its subfolders and linked folders; or a single one, if that is given.

    Only the structure of each is checked.

    Raises:
        DataError: no such folder, or no readable photograph in it.
    """
    check_folder(folder)
    if folder.is_file():
        root, files, left_out = folder.parent, [folder], list[LeftOut]()
    else:
        walk = Walk(folder)
        root, files, left_out = folder, sorted(folder / name for name in walk.files), walk.left_out
    paths, unreadable, others = _check(files, root, decode=False, progress=progress)
    left_out = sorted(left_out + others)
    if not paths and unreadable:
        first = unreadable[0].advice
        raise DataError(
            f"IMAGES={folder}: none of {len(unreadable)} photographs can be read; the first: {first}"
        )
    if not paths:
        kinds = Counter(item.kind for item in left_out)
        others_text = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        holds = f"; it holds: {others_text}" if kinds else ""
        raise DataError(f"IMAGES={folder}: no photographs in it (JPEG, PNG, BMP, WebP, TIFF){holds}")
    return Found(root, paths, unreadable, left_out)


def _check(
    files: Sequence[Path], root: Path, *, decode: bool, progress: Progress
) -> tuple[list[Path], list[LeftOut], list[LeftOut]]:
    """Photographs that can be read, those that cannot, and files that are no photographs."""
    paths, unreadable, others = list[Path](), list[LeftOut](), list[LeftOut]()
    with (
        progress("reading photographs", total=len(files), unit="img") as step,
        ThreadPoolExecutor(decoding_threads()) as pool,
    ):
        for path, verdict in zip(files, pool.map(partial(_judge, decode=decode), files), strict=True):
            name = path.relative_to(root).as_posix()
            if verdict is None:
                paths.append(path)
            elif isinstance(verdict, ImageError):
                unreadable.append(LeftOut(name, "unreadable", str(verdict)))
            else:
                others.append(LeftOut(name, *verdict))
            step()
    return paths, unreadable, others


def _judge(path: Path, *, decode: bool) -> ImageError | tuple[str, str] | None:
    """None for a readable photograph, its error, or kind and advice of a file that is no photograph."""
    try:
        if decode:
            read_rgb(path)
            return None
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if read_header(head) is not None or path.suffix.lower() in ENDINGS:  # named as a photograph: an error
            check_bytes(read_bytes(path), path)
            return None
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(f"{path}: cannot be read ({error.strerror})")
    kind, advice, _ = other_kind(head)
    return (kind, advice) if kind else ("other file", "")
