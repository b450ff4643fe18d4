"""Write rendered scenes as a competition with State Farm's folders and files."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from distracted.errors import DataError
from distracted.progress import Progress, silent
from distracted.sample._canvas import Pixels
from distracted.sample._clip import make_stage, render_clip
from distracted.sample._poses import NUM_CLASSES
from distracted.sample._subject import Nuisance

CLASS_NAMES = tuple(f"c{label}" for label in range(NUM_CLASSES))
MAX_CLIP_FRAMES = 8
MIN_CLIPS = 2  # per subject and class, if there are enough frames: people vary how they do things
JPEG_QUALITY = 85
NAME_SPACE = 100_000  # image numbers are drawn from at least this many
USUAL = Nuisance()
COLUMNS = ["subject", "classname", "img"]


class _Stream(IntEnum):
    """Independent random streams of one seed."""

    TRAIN = 0
    TEST = 1
    NAMES = 2


def render_sample(
    folder: Path,
    *,
    num_subjects: int = 12,
    num_test_subjects: int = 8,
    num_frames: int = 5,
    width: int = 320,
    seed: int = 0,
    progress: Progress = silent,
) -> None:
    """Render a competition of driver scenes in State Farm's layout; the same arguments give the same bytes.

    A subject's images depend only on `seed`, its number among the training (or test) subjects, `num_frames`
    and `width`. `test_labels.csv` (`subject,classname,img`) holds the labels that a competition hides.

    Args:
        folder: Must not exist; appears when everything is rendered.
        num_subjects: Drivers in the training set, at least 2.
        num_test_subjects: Other drivers in the test set, at least 1.
        num_frames: Images per class and subject, at least 1.
        width: Image width in pixels, at least 64; the height is three quarters of it.
        seed: At least 0.

    Raises:
        DataError: `folder` exists or a number is out of range.
    """
    _check(num_subjects=(num_subjects, 2), num_test_subjects=(num_test_subjects, 1))
    _check(num_frames=(num_frames, 1), width=(width, 64), seed=(seed, 0))
    if folder.exists() or folder.is_symlink():
        raise DataError(f"{folder}: expected a new folder, but it exists; remove it or choose another")
    total = (num_subjects + num_test_subjects) * NUM_CLASSES * num_frames
    names_rng = np.random.default_rng([seed, _Stream.NAMES])
    numbers = names_rng.permutation(max(NAME_SPACE, 2 * total))[:total]
    rendered = _render(num_subjects, num_test_subjects, num_frames, width, seed)
    rows = []
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        build = Path(scratch) / folder.name  # renamed at the end: readers see the complete folder or none
        with progress("rendering", total=total, unit="img") as step:
            for number, (stream, subject, classname, picture) in zip(numbers, rendered, strict=True):
                img = f"img_{number}.jpg"
                part = "test" if stream is _Stream.TEST else f"train/{classname}"
                _write_jpeg(build / "imgs" / part / img, picture)
                rows.append((stream, subject, classname, img))
                step()
        _write_lists(build, pd.DataFrame(rows, columns=["stream", *COLUMNS]))
        build.rename(folder)


def _check(**bounds: tuple[int, int]) -> None:
    for name, (value, minimum) in bounds.items():
        if value < minimum:
            raise DataError(f"{name}: expected at least {minimum}, got {value}")


def render_subject(
    key: Sequence[int], *, num_frames: int, width: int, nuisance: Nuisance = USUAL
) -> Iterator[tuple[int, Pixels]]:
    """Labels and pictures of one subject, class by class; the same arguments give the same bytes.

    Args:
        key: Integers that identify the subject.
        num_frames: Images per class.
        nuisance: How much subjects differ in camera, light and habits.

    Returns:
        Pictures are uint8 RGB, shape (0.75 * width, width, 3).
    """
    stage = make_stage(width, nuisance, np.random.default_rng([*key]))
    for label in range(NUM_CLASSES):
        for clip, length in enumerate(_clip_lengths(num_frames)):
            rng = np.random.default_rng([*key, 1 + label, clip])
            for picture in render_clip(stage, label, num_frames=length, rng=rng):
                yield label, picture


def _render(
    num_subjects: int, num_test_subjects: int, num_frames: int, width: int, seed: int
) -> Iterator[tuple[_Stream, str, str, Pixels]]:
    """Stream, subject, class and picture of every frame: training subjects first, numbered from 1."""
    people = [(_Stream.TRAIN, index) for index in range(num_subjects)]
    people += [(_Stream.TEST, index) for index in range(num_test_subjects)]
    for number, (stream, index) in enumerate(people, start=1):
        pictures = render_subject([seed, stream, index], num_frames=num_frames, width=width)
        for label, picture in pictures:
            yield stream, f"p{number:03}", CLASS_NAMES[label], picture


def _clip_lengths(num_frames: int) -> list[int]:
    """Split a subject's frames of one class into clips of nearly equal length."""
    num_clips = max(min(MIN_CLIPS, num_frames // 2), math.ceil(num_frames / MAX_CLIP_FRAMES), 1)
    return [len(part) for part in np.array_split(np.arange(num_frames), num_clips)]


def _write_jpeg(path: Path, picture: Pixels) -> None:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def _write_lists(build: Path, table: pd.DataFrame) -> None:
    """Write the lists of training and test images and the sample submission, each sorted."""
    train, test = (
        table.loc[table["stream"] == stream, COLUMNS].sort_values(COLUMNS)
        for stream in (_Stream.TRAIN, _Stream.TEST)
    )
    submission = pd.DataFrame({"img": test["img"].sort_values(), **dict.fromkeys(CLASS_NAMES, "0.1")})
    names = ("driver_imgs_list.csv", "test_labels.csv", "sample_submission.csv")
    for name, rows in zip(names, (train, test, submission), strict=True):
        rows.to_csv(build / name, index=False, lineterminator="\n")
