"""A competition of State Farm's size and shape from the embedded sample's renderer, for benchmarks.

Each driver has a few rendered frames. Each file is one of them with its own shift, brightness and JPEG
quality, so that no two files are the same; most have 40 to 50 kB.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import console
from distracted.errors import DataError
from distracted.files import atomic_path
from distracted.sample import render_subject

CLASSES = [f"c{label}" for label in range(10)]
CLASS_SIZES = (2489, 2267, 2317, 2346, 2326, 2312, 2325, 2002, 1911, 2129)  # State Farm's training images
NUM_TEST, NUM_DRIVERS, NUM_TEST_DRIVERS = 79_726, 26, 80
WIDTH, FRAMES, TEST_FRAMES = 640, 8, 3  # rendered frames of a class and driver
_QUALITIES, _SHIFT, _GAINS = (82, 88), 10, (0.9, 1.1)


@dataclass(frozen=True)
class Picture:
    """A file of the competition: whose it is, its label, and its number among all files."""

    driver: int
    label: int
    number: int
    test: bool

    def path(self, folder: Path) -> Path:
        part = "test" if self.test else f"train/{CLASSES[self.label]}"
        return folder / "imgs" / part / f"img_{self.number}.jpg"


def simulate(folder: Path, *, counts: Path | None = None, share: float = 1.0) -> None:
    """Write the competition; what is there of an interrupted call is kept.

    Args:
        counts: CSV of training images by driver and class (`driver,c0,...,c9`); without it each class is
            spread evenly over the drivers.
        share: Fraction of State Farm's number of images.
    """
    if (folder / "sample_submission.csv").is_file():
        return
    train, test = read_counts(counts, share), spread(round(NUM_TEST * share))
    total = int(train.sum() + test.sum())
    with console.progress("making photographs", total=total, unit="img") as step:
        for stream, numbers, frames in ((0, train, FRAMES), (1, test, TEST_FRAMES)):
            first = 0 if stream == 0 else int(train.sum())
            for driver, pictures in by_driver(numbers, first, test=stream == 1):
                write_driver(folder, (stream, driver), pictures, frames)
                step(len(pictures))
    write_lists(folder, train, test)


def read_counts(counts: Path | None, share: float) -> NDArray[np.int64]:
    """Training images by driver and class, shape (num_drivers, 10)."""
    if counts is None:
        even = [[size // NUM_DRIVERS + (d < size % NUM_DRIVERS) for size in CLASS_SIZES] for d in range(26)]
        numbers = np.array(even)
    else:
        table = pd.read_csv(counts)
        if list(table.columns) != ["driver", *CLASSES]:
            raise DataError(f"{counts}: expected the columns driver,c0,...,c9, got {','.join(table.columns)}")
        numbers = table[CLASSES].to_numpy(dtype=np.int64)
    return np.maximum(1, np.rint(numbers * share)).astype(np.int64)


def spread(num_test: int) -> NDArray[np.int64]:
    """Test images by driver and class, nearly even, shape (num_drivers, 10)."""
    drivers = min(NUM_TEST_DRIVERS, max(2, num_test // 30))
    cells = np.full(drivers * 10, num_test // (drivers * 10))
    cells[: num_test % (drivers * 10)] += 1
    return cells.reshape(drivers, 10)


def by_driver(numbers: NDArray[np.int64], first: int, *, test: bool) -> Iterator[tuple[int, list[Picture]]]:
    """Each driver's pictures, numbered from `first`."""
    for driver, row in enumerate(numbers):
        labels = np.repeat(np.arange(10), row).tolist()
        yield driver, [Picture(driver, label, first + n, test) for n, label in enumerate(labels)]
        first += len(labels)


def write_driver(folder: Path, key: tuple[int, int], pictures: list[Picture], frames: int) -> None:
    """Write the pictures of a driver that are missing."""
    missing = [picture for picture in pictures if not picture.path(folder).exists()]
    if not missing:
        return
    frames = min(frames, max(Counter(picture.label for picture in pictures).values()))
    rendered: dict[int, list[NDArray[np.uint8]]] = {label: [] for label in range(10)}
    for label, frame in render_subject([0, *key], num_frames=frames, width=WIDTH):
        rendered[label].append(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    for picture in missing:
        rng = np.random.default_rng([1, picture.number])
        frame = rendered[picture.label][int(rng.integers(frames))]
        path = picture.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(vary(frame, rng))
        part.rename(path)


def vary(frame: NDArray[np.uint8], rng: np.random.Generator) -> bytes:
    """A JPEG of the frame with a shift, brightness and quality of its own."""
    across, down = rng.integers(-_SHIFT, _SHIFT + 1, 2).tolist()
    matrix = np.array([[1, 0, across], [0, 1, down]], dtype=np.float32)
    moved = cv2.warpAffine(frame, matrix, (WIDTH, len(frame)), borderMode=cv2.BORDER_REFLECT_101)
    lit = cv2.convertScaleAbs(moved, alpha=rng.uniform(*_GAINS), beta=rng.uniform(-10, 10))
    _, data = cv2.imencode(".jpg", lit, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*_QUALITIES))])
    return data.tobytes()


def write_lists(folder: Path, train: NDArray[np.int64], test: NDArray[np.int64]) -> None:
    """Write the list of training images and, last, the sample submission."""
    pictures = [picture for _, pictures in by_driver(train, 0, test=False) for picture in pictures]
    rows = [(f"p{one.driver:03}", CLASSES[one.label], f"img_{one.number}.jpg") for one in pictures]
    with atomic_path(folder / "driver_imgs_list.csv") as path:
        pd.DataFrame(rows, columns=["subject", "classname", "img"]).to_csv(path, index=False)
    imgs = [f"img_{len(pictures) + number}.jpg" for number in range(int(test.sum()))]
    with atomic_path(folder / "sample_submission.csv") as path:
        pd.DataFrame({"img": imgs} | dict.fromkeys(CLASSES, 0.1)).to_csv(path, index=False)
