"""Sheets of pictures: what the data looks like, its regions, and what a policy makes of it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from distracted.data.augment import Augmenter, Policy, cut_region, resize_and_crop
from distracted.data.competition import Competition
from distracted.data.images import Image, read_rgb
from distracted.files import write_bytes
from distracted.schema import Box

_MARGIN = 26  # pixels for the names above columns


def data_sheet(competition: Competition, *, num_subjects: int = 5, size: int = 144) -> Image:
    """One picture of each class (columns) for some subjects (rows), squeezed to squares of `size` pixels."""
    subjects = sorted(competition.train["subject"].unique())[:num_subjects]
    paths = dict(zip(competition.train["img"], competition.train_paths(), strict=True))
    blank = np.full((size, size, 3), 255, np.uint8)
    rows = []
    for subject in subjects:
        own = competition.train[competition.train["subject"] == subject]
        first = own.groupby("classname")["img"].first()
        rows.append(
            [
                resize_and_crop(read_rgb(paths[first[name]]), size=size, crop=1.0) if name in first else blank
                for name in competition.classes
            ]
        )
    return _sheet(rows, columns=competition.classes)


def augmentation_sheet(
    competition: Competition, policies: Mapping[str, Policy], *, num_draws: int = 4, size: int = 144
) -> Image:
    """One training picture as each policy draws it anew: some columns a policy, under its name."""
    image = read_rgb(competition.train_paths()[0])
    columns: list[str] = []
    rows: list[list[Image]] = [[], []]
    for name, policy in policies.items():
        augmenter = Augmenter(policy, size=size, crop=1.0, seed=0)
        num_columns = num_draws if policy else 1  # without transforms every draw is the same
        columns += [name, *[""] * (num_columns - 1)]
        for number, row in enumerate(rows):
            row += [augmenter(image, epoch=number * num_columns + i, index=0) for i in range(num_columns)]
    return _sheet(rows, columns=columns)


def region_sheet(
    competition: Competition, regions: Mapping[str, Box], *, num_subjects: int = 3, size: int = 208
) -> Image:
    """A picture of each of some subjects (rows): whole, with the regions outlined, and each region's cut."""
    paths = dict(zip(competition.train["img"], competition.train_paths(), strict=True))
    rows = []
    for number, subject in enumerate(sorted(competition.train["subject"].unique())[:num_subjects]):
        own = competition.train[competition.train["subject"] == subject].sort_values(["classname", "img"])
        image = read_rgb(paths[own["img"].iloc[number * len(own) // num_subjects]])  # of another class each
        views = [_outlined(image, regions.values()), *(cut_region(image, box) for box in regions.values())]
        rows.append([resize_and_crop(view, size=size, crop=1.0) for view in views])
    return _sheet(rows, columns=["whole", *regions])


def _outlined(image: Image, boxes: Iterable[Box]) -> Image:
    drawn = image.copy()
    height, width = image.shape[:2]
    for x0, y0, x1, y1 in boxes:
        corners = (round(x0 * width), round(y0 * height)), (round(x1 * width) - 1, round(y1 * height) - 1)
        cv2.rectangle(drawn, *corners, (255, 40, 40), thickness=max(1, width // 160))
    return drawn


def _sheet(rows: Sequence[Sequence[Image]], *, columns: Sequence[str]) -> Image:
    """Pictures of one size in rows, with a name above each column."""
    body = np.vstack([np.hstack(list(row)) for row in rows])
    width = body.shape[1] // len(columns)
    header = np.full((_MARGIN, body.shape[1], 3), 255, np.uint8)
    for number, name in enumerate(columns):
        at = (number * width + 4, _MARGIN - 8)
        cv2.putText(header, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
    sheet: Image = np.vstack([header, body])
    return sheet


def save_jpeg(path: Path, image: Image) -> None:
    """Write an RGB picture atomically."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    write_bytes(path, data.tobytes())
