"""The rendered sample is reproducible, in State Farm's layout, and written completely or not at all."""

import csv
import itertools
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import RecordedProgress
from distracted.progress import Advance
from distracted.sample import Nuisance, render_sample, render_subject

CLASSES = [f"c{label}" for label in range(10)]
TINY = {"num_subjects": 2, "num_test_subjects": 1, "num_frames": 2, "width": 64}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train_pictures(folder: Path) -> dict[tuple[str, str], list[bytes]]:
    """File contents by subject and class, sorted, since names differ between competitions."""
    pictures = defaultdict(list)
    for row in read_csv(folder / "driver_imgs_list.csv"):
        path = folder / "imgs" / "train" / row["classname"] / row["img"]
        pictures[row["subject"], row["classname"]].append(path.read_bytes())
    return {key: sorted(contents) for key, contents in pictures.items()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "tiny"
    progress = RecordedProgress()
    render_sample(folder, **TINY, progress=progress)
    assert progress.tasks == [(60, 60)]
    return folder


def test_lists_agree_with_files(sample: Path) -> None:
    rows = read_csv(sample / "driver_imgs_list.csv")
    assert len(rows) == 2 * 10 * 2
    keys = [(row["subject"], row["classname"], row["img"]) for row in rows]
    assert keys == sorted(keys)
    on_disk = {(path.parent.name, path.name) for path in (sample / "imgs" / "train").glob("*/*")}
    assert on_disk == {(row["classname"], row["img"]) for row in rows}


def test_sample_submission_names_every_test_image(sample: Path) -> None:
    rows = read_csv(sample / "sample_submission.csv")
    assert list(rows[0]) == ["img", *CLASSES]
    assert all(row[name] == "0.1" for row in rows for name in CLASSES)
    imgs = [row["img"] for row in rows]
    assert imgs == sorted(path.name for path in (sample / "imgs" / "test").iterdir())
    assert set(imgs) == {row["img"] for row in read_csv(sample / "test_labels.csv")}


def test_image_names_are_unique_over_train_and_test(sample: Path) -> None:
    names = [path.name for path in sample.rglob("*.jpg")]
    assert len(set(names)) == len(names) == 3 * 10 * 2


def test_test_subjects_are_other_people(sample: Path) -> None:
    train = {row["subject"] for row in read_csv(sample / "driver_imgs_list.csv")}
    test = {row["subject"] for row in read_csv(sample / "test_labels.csv")}
    assert train == {"p001", "p002"}
    assert test == {"p003"}


def test_images_have_the_requested_size(sample: Path) -> None:
    shapes = {cv2.imread(str(path)).shape for path in sample.rglob("*.jpg")}
    assert shapes == {(48, 64, 3)}


def test_same_arguments_give_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    render_sample(tmp_path / "again", **TINY)
    assert all_bytes(tmp_path / "again") == all_bytes(sample)


def test_another_seed_gives_other_pictures(sample: Path, tmp_path: Path) -> None:
    render_sample(tmp_path / "other", **TINY, seed=1)
    ours, others = train_pictures(sample), train_pictures(tmp_path / "other")
    assert not any(set(ours[key]) & set(others[key]) for key in ours)


def test_a_subject_does_not_depend_on_the_number_of_subjects(sample: Path, tmp_path: Path) -> None:
    render_sample(tmp_path / "more", **{**TINY, "num_subjects": 3})
    few, more = train_pictures(sample), train_pictures(tmp_path / "more")
    assert few == {key: more[key] for key in few}


def test_neighbouring_frames_are_more_similar_than_other_people(sample: Path) -> None:
    def decode(data: bytes) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(float)

    frames = {key: list(map(decode, contents)) for key, contents in train_pictures(sample).items()}
    for name in CLASSES:
        first, second = frames["p001", name]
        stranger = frames["p002", name][0]
        assert np.abs(first - second).mean() < 0.7 * np.abs(first - stranger).mean()


def test_an_existing_folder_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious.txt").write_text("keep me")
    with pytest.raises(ValueError, match=r"mine.*exists; remove it or choose another"):
        render_sample(folder, **TINY)
    assert [path.name for path in folder.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    "bad", [{"num_subjects": 1}, {"num_test_subjects": 0}, {"num_frames": 0}, {"width": 63}, {"seed": -1}]
)
def test_numbers_out_of_range_are_errors(tmp_path: Path, bad: dict[str, int]) -> None:
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=rf"{name}: expected at least \d+, got {value}"):
        render_sample(tmp_path / "bad", **{**TINY, **bad})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_render_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    steps = itertools.count(1)

    @contextmanager
    def interrupted(label: str, /, *, total: int, unit: str) -> Iterator[Advance]:
        def step(count: int = 1, /, **fields: float) -> None:
            if next(steps) == 3:
                raise error

        yield step

    with pytest.raises(error):
        render_sample(tmp_path / "half", **TINY, progress=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_nuisance_changes_the_images_and_not_the_labels() -> None:
    def render(**options: Nuisance) -> tuple[list[int], np.ndarray]:
        labels, pictures = zip(*render_subject([0, 0, 3], num_frames=2, width=64, **options), strict=True)
        return list(labels), np.stack(pictures)

    labels, usual = render()
    assert labels == sorted([*range(10)] * 2)
    assert np.array_equal(usual, render(nuisance=Nuisance())[1])
    for part in ("camera", "light", "habits"):
        same_labels, other = render(nuisance=Nuisance(**{part: 2.0}))
        assert same_labels == labels
        assert other.shape == usual.shape and not np.array_equal(other, usual)


def test_the_light_nuisance_makes_people_differ_in_brightness() -> None:
    """Clothes, cars and noise contribute the rest of the difference."""

    def brightness(light: float) -> float:
        nuisance = Nuisance(light=light)
        subjects = (render_subject([0, 0, n], num_frames=1, width=64, nuisance=nuisance) for n in range(12))
        return float(np.std([picture.mean() for _, picture in map(next, subjects)]))

    assert brightness(0.1) < brightness(3.0)
