"""Contact sheets: example images of the data, its regions, and augmented images."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from distracted.data.augment import Augmenter, cut_region, resize_and_crop
from distracted.data.competition import Competition
from distracted.data.images import Image, read_rgb
from distracted.data.transforms import Policy
from distracted.files import write_bytes
from distracted.schema import Box

_MARGIN = 26  # pixels for the names above columns


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of images of equal size, one tuple per row; `columns` and `rows` are their names, or ""."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    pictures: tuple[tuple[Image, ...], ...]

    @cached_property
    def body(self) -> Image:
        """The whole grid as one image."""
        return np.vstack([np.hstack(row) for row in self.pictures])

    def sheet(self) -> Image:
        """The whole grid as one image, with the columns' names above it."""
        body = self.body
        width = body.shape[1] // len(self.columns)
        header = np.full((_MARGIN, body.shape[1], 3), 255, np.uint8)
        for number, name in enumerate(self.columns):
            at = (number * width + 4, _MARGIN - 8)
            cv2.putText(header, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
        sheet: Image = np.vstack([header, body])
        return sheet


def data_grid(competition: Competition, *, num_subjects: int = 5, size: int = 144) -> Grid:
    """One image per class (columns) of some subjects (rows), resized to squares of `size` pixels."""
    train = competition.train
    if not competition.config.has_subjects:  # without subjects, rows are the classes' first images
        train = train.assign(subject=train.groupby("classname").cumcount().astype(str).str.zfill(6))
    subjects = sorted(train["subject"].unique())[:num_subjects]
    paths = dict(zip(train["img"], competition.train_paths(), strict=True))
    blank = np.full((size, size, 3), 255, np.uint8)
    rows = []
    for subject in subjects:
        own = train[train["subject"] == subject]
        first = own.groupby("classname")["img"].first()
        rows.append(
            tuple(
                resize_and_crop(read_rgb(paths[first[name]]), size=size, crop=1.0) if name in first else blank
                for name in competition.classes
            )
        )
    return Grid(competition.classes, tuple(map(str, subjects)), tuple(rows))


def augmentation_grid(
    competition: Competition, policies: Mapping[str, Policy], *, num_draws: int = 4, size: int = 144
) -> Grid:
    """The first training image under random draws of each policy, in two rows and some columns per policy."""
    image = read_rgb(competition.train_paths()[0])
    columns: list[str] = []
    rows: list[list[Image]] = [[], []]
    for name, policy in policies.items():
        augmenter = Augmenter(policy, size=size, crop=1.0, seed=0)
        num_columns = num_draws if policy else 1  # without transforms all draws are equal
        columns += [name, *[""] * (num_columns - 1)]
        for number, row in enumerate(rows):
            row += [augmenter(image, epoch=number * num_columns + i, index=0) for i in range(num_columns)]
    return Grid(tuple(columns), ("", ""), tuple(map(tuple, rows)))


def region_grid(
    competition: Competition, regions: Mapping[str, Box], *, num_subjects: int = 3, size: int = 208
) -> Grid:
    """One image per subject (rows): whole, with the regions outlined, then each region on its own."""
    paths = dict(zip(competition.train["img"], competition.train_paths(), strict=True))
    subjects = sorted(competition.train["subject"].unique())[:num_subjects]
    rows = []
    for number, subject in enumerate(subjects):
        own = competition.train[competition.train["subject"] == subject].sort_values(["classname", "img"])
        img = own["img"].iloc[number * len(own) // num_subjects]  # a different class for each subject
        image = read_rgb(paths[img])
        views = [_outlined(image, regions.values()), *(cut_region(image, box) for box in regions.values())]
        rows.append(tuple(resize_and_crop(view, size=size, crop=1.0) for view in views))
    return Grid(("whole", *regions), tuple(map(str, subjects)), tuple(rows))


def _outlined(image: Image, boxes: Iterable[Box]) -> Image:
    drawn = image.copy()
    height, width = image.shape[:2]
    for x0, y0, x1, y1 in boxes:
        corners = (round(x0 * width), round(y0 * height)), (round(x1 * width) - 1, round(y1 * height) - 1)
        cv2.rectangle(drawn, *corners, (255, 40, 40), thickness=max(1, width // 160))
    return drawn


def shrink(image: Image, *, width: int) -> Image:
    """Shrink an image to at most `width` pixels on its longer side, keeping the aspect ratio."""
    share = width / max(image.shape[:2])
    if share >= 1:
        return image
    size = max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share))
    shrunk: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return shrunk


def encode_jpeg(image: Image, *, quality: int = 88) -> bytes:
    """Encode an RGB image as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert encoded
    return data.tobytes()


def save_jpeg(path: Path, image: Image) -> None:
    """Write an RGB image atomically."""
    write_bytes(path, encode_jpeg(image))


def as_uri(image: Image, *, quality: int = 72) -> str:
    """Encode an RGB image as a data: URI, to embed it in a page."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image, quality=quality)).decode()


def heat_over(image: Image, heat: np.ndarray, *, crop: float) -> Image:
    """Overlay an image with a heat map.

    Args:
        heat: From 0 (image only) to 1, shape (h, w).
        crop: Fraction of each side, around the centre, that the map covers.
    """
    height, width = image.shape[:2]
    crop_height, crop_width = max(1, round(height * crop)), max(1, round(width * crop))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    resized = cv2.resize(heat.astype(np.float32), (crop_width, crop_height), interpolation=cv2.INTER_CUBIC)
    full = np.zeros((height, width), np.float32)
    full[top : top + crop_height, left : left + crop_width] = np.clip(resized, 0, 1)
    colours = cv2.applyColorMap((255 * full).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = 0.7 * full[..., None]
    mixed = 0.85 * image * (1 - opacity) + colours * opacity
    result: Image = np.clip(mixed, 0, 255).astype(np.uint8)
    return result
