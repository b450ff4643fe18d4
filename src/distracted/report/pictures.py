"""Sheets of pictures: what the data looks like, and what a policy makes of it."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from distracted.data.augment import Augmenter, Policy, resize_and_crop
from distracted.data.competition import Competition
from distracted.data.images import Image, read_rgb
from distracted.files import write_bytes


def data_sheet(competition: Competition, *, num_subjects: int = 5, size: int = 144) -> Image:
    """One picture of each class (columns) for some subjects (rows), squeezed to squares of `size` pixels."""
    subjects = sorted(competition.train["subject"].unique())[:num_subjects]
    paths = dict(zip(competition.train["img"], competition.train_paths(), strict=True))
    blank = np.full((size, size, 3), 255, np.uint8)
    rows = []
    for subject in subjects:
        own = competition.train[competition.train["subject"] == subject]
        first = own.groupby("classname")["img"].first()
        pictures = [
            resize_and_crop(read_rgb(paths[first[name]]), size=size, crop=1.0) if name in first else blank
            for name in competition.classes
        ]
        rows.append(np.hstack(pictures))
    return np.vstack(rows)


def augmentation_sheet(
    competition: Competition, policies: Mapping[str, Policy], *, num_draws: int = 8, size: int = 144
) -> Image:
    """One training picture under each policy (rows), drawn anew in each column."""
    image = read_rgb(competition.train_paths()[0])
    rows = []
    for policy in policies.values():
        augmenter = Augmenter(policy, size=size, crop=1.0, seed=0)
        rows.append(np.hstack([augmenter(image, epoch=epoch, index=0) for epoch in range(num_draws)]))
    return np.vstack(rows)


def save_jpeg(path: Path, image: Image) -> None:
    """Write an RGB picture atomically."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    write_bytes(path, data.tobytes())
