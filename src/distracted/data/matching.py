"""Which file each listed image is."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from distracted.data.image_files import ImageFiles, plain
from distracted.data.names import check_unique, rows_of
from distracted.errors import DataError

_SHOWN = 5


def match_images(imgs: "pd.Series[str]", files: ImageFiles, path: Path) -> "pd.Series[str]":
    """The file of each listed image, as its path relative to the data folder; "" for a missing one.

    Args:
        path: The list, for messages.

    Raises:
        DataError: a name fits several files, or several names fit one.
    """
    return _one_each(imgs, [files.find(img) for img in imgs.tolist()], path)


def match_training_images(
    imgs: "pd.Series[str]",
    labels: "pd.Series[str]",
    classes: "pd.Series[str]",
    files: ImageFiles,
    path: Path,
) -> tuple["pd.Series[str]", "pd.Series[str]"]:
    """The name and the file of each training image.

    A name stays as it is listed. If classes share names, each with a file in its own folder, all images are
    named by their paths in the folder of images.

    Args:
        labels, classes: Each image's label in the list, and the name of its class: its folder has either.

    Raises:
        DataError: as `match_images`; or an image is listed twice.
    """
    rows = list(zip(imgs.tolist(), labels.tolist(), classes.tolist(), strict=True))
    found_by_row = {row: files.find(row[0], folders=row[1:]) for row in set(rows)}  # names may repeat
    found = [found_by_row[row] for row in rows]
    if imgs.is_unique:
        return imgs, _one_each(imgs, found, path)
    again = imgs.duplicated(keep=False)
    repeated = [paths for paths, is_repeated in zip(found, again, strict=True) if is_repeated]
    if any(len(paths) != 1 for paths in repeated) or len({path for [path] in repeated}) < len(repeated):
        img = imgs[imgs.duplicated()].iloc[0]
        if len(same := files.of_name(img)) > 1:
            raise DataError(
                f"{path}: image {img!r} is listed more than once {rows_of(imgs, img)}, and there are "
                f"{len(same)} files of that name ({', '.join(same[:_SHOWN])}); write their paths in the list"
            )
        check_unique(imgs, path)
    paths = _one_each(imgs, found, path)
    names = [files.name(one) if one else img for img, one in zip(imgs, paths, strict=True)]
    return pd.Series(names, index=imgs.index, dtype=str), paths


def missing_images(
    imgs: "pd.Series[str]",
    paths: "pd.Series[str]",
    files: ImageFiles,
    *,
    key: str,
    labels: "pd.Series[str] | None" = None,
) -> tuple[list[str], str]:
    """Where the files of missing images were expected, and a hint at what may be wrong, or "".

    Args:
        key: The setting that names the folder of images.
        labels: Classes, each of which may have a folder.
    """
    missing, place = imgs[paths == ""], files.places[0]
    if missing.empty:
        return [], ""
    folders = [place] * len(imgs) if labels is None else [f"{place}/{label}" for label in labels]
    expected = [
        f"{folder if (files.folder / folder).is_dir() else place}/{img}"
        for folder, img, path in zip(folders, imgs, paths, strict=True)
        if path == ""
    ]
    places = ", ".join(files.places)
    for name, kind, advice in files.left_out:
        if f"{expected[0]}/".startswith(f"{name}/") or f"/{name}".endswith(f"/{missing.iloc[0]}"):
            return expected, f", or mend {name}: {kind}{f' ({advice})' if advice else ''}"
    if near := files.of_stem(missing.iloc[0]):
        return expected, f" ({near[0]} is there; is it the same image?)"
    if not files.paths:
        return expected, f" (no files in {places}; data.{key} names the folder)"
    first = plain(missing.iloc[0])
    if begins := [path for path in files.paths if path.rpartition("/")[2].startswith(f"{first}_")]:
        return expected, (
            f" (files such as {begins[0]} begin with the name; one answer for several images is not "
            "supported)"
        )
    if key == "train_images" and len(missing) < len(imgs) / 2:
        return expected, ", or leave the rows of images that nobody has out of the list"
    if len(missing) == len(imgs):
        example = f"{len(files.paths)} files, such as {next(iter(files.paths))}"
        return expected, f" ({places} holds {example}; is data.{key} the right folder?)"
    return expected, ""


def check_none_missing(folder: Path, missing: Sequence[str], hint: str) -> None:
    """Raise DataError if files of listed images are missing."""
    if missing:
        rest = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        names = ", ".join(missing[:_SHOWN])
        raise DataError(f"{folder}: listed but not on disk: {names}{rest}; fetch the data again{hint}")


def _one_each(imgs: "pd.Series[str]", found: Sequence[Sequence[str]], path: Path) -> "pd.Series[str]":
    """The one file of each image; "" for a missing one."""
    for row, (img, candidates) in enumerate(zip(imgs.tolist(), found, strict=True), start=2):
        if len(candidates) > 1:
            raise DataError(
                f"{path}, row {row}: image {img!r} may be {' or '.join(candidates[:_SHOWN])}; write its path "
                "in the list, or say in configs/data/ which files count (data.train_images, "
                "data.test_images: a folder, or a pattern such as photos/*.jpg)"
            )
    ones = [next(iter(candidates), "") for candidates in found]
    paths = pd.Series(ones, index=imgs.index, dtype=str)
    listed = paths[paths != ""]
    if (again := listed.duplicated()).any():
        one = listed[again].iloc[0]
        names = " and ".join(dict.fromkeys(map(repr, imgs[paths == one])))
        raise DataError(f"{path}: {names} are one file, {one} {rows_of(paths, one)}; keep one of the rows")
    return paths
