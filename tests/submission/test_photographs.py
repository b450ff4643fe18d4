"""New photographs are predicted as the test set was: through blends, calibrations and views alike."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conftest import calibrate
from distracted import submission
from distracted.ensemble.blend import blend_runs
from distracted.errors import DataError, StoreError
from distracted.inference.views import find_views
from distracted.postprocess.tta import augment_run
from distracted.predictions.store import Store
from distracted.submission.photograph_files import Found, find_photographs
from distracted.submission.photographs import predict_photographs, write_left_out, write_photographs
from untrained import RUNTIME, write_untrained

pytestmark = pytest.mark.slow  # networks in each


@pytest.fixture
def photographs(store: Store, tmp_path: Path) -> Path:
    """The test set's first images, in other folders and under other names."""
    folder = tmp_path / "photographs"
    for number, path in enumerate(store.competition.test_paths()[:7]):
        target = folder / f"day{number % 2}" / f"{number}{path.suffix.upper()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def make(store: Store, kind: str) -> str:
    """Write a run of some kind; returns its name."""
    write_untrained(store)
    match kind:
        case "model":
            return "tiny"
        case "views":
            augment_run(store, run="tiny", views=find_views(["scales"]), average="log_probs", runtime=RUNTIME)
            return "tiny_tta"
        case "calibrated":
            return calibrate(store, "tiny", parts=["temperature", "clip"]).name
        case "blend":
            write_untrained(store, "other")
            calibrate(store, "other", parts=["temperature"], name="soft")
            return blend_runs(store, runs=["tiny", "soft"]).name
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["model", "views", "calibrated", "blend"])
def test_the_test_sets_own_images_get_their_predictions(store: Store, photographs: Path, kind: str) -> None:
    run = store.read_run(make(store, kind))
    predicted = predict_photographs(store, run, photographs, runtime=RUNTIME)
    numbers = [int(Path(name).stem) for name in predicted.names]
    assert sorted(numbers) == list(range(7)) and predicted.errors == []
    assert predicted.names[0].startswith("day0/")
    np.testing.assert_allclose(predicted.probs, np.exp(run.test_log_probs[numbers]), atol=1e-5)
    np.testing.assert_allclose(predicted.probs.sum(axis=1), 1)


def test_an_unreadable_photograph_is_named_and_the_others_are_predicted(
    store: Store, photographs: Path, tmp_path: Path
) -> None:
    (photographs / "day0/0.JPG").write_bytes(b"")
    (photographs / "notes.txt").write_text("no photograph")
    predicted = predict_photographs(store, store.read_run(make(store, "model")), photographs, runtime=RUNTIME)
    [error] = predicted.errors
    assert error.startswith(f"{photographs}/day0/0.JPG: the file is empty")
    write_photographs(tmp_path / "predicted.csv", predicted, store.competition.classes)
    table = pd.read_csv(tmp_path / "predicted.csv")
    assert table.columns.tolist() == ["img", *store.competition.classes]
    assert table["img"].tolist() == predicted.names and len(table) == 6


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (b"caf\xe9.jpg", "caf\\xe9.jpg"),
        (b"two\nlines, 'quoted' \"twice\".jpg", "two\nlines, 'quoted' \"twice\".jpg"),
        (b"a\rb.jpg", "a\rb.jpg"),
        (b"=1+1.jpg", "=1+1.jpg"),
        ("Zu\u0308rich \U0001f697.jpg".encode(), "Zu\u0308rich \U0001f697.jpg"),
        (b"NA", "NA"),
    ],
)
def test_names_of_any_bytes_are_written(
    store: Store, photographs: Path, tmp_path: Path, name: bytes, written: str
) -> None:
    (photographs / "day0/0.JPG").rename(photographs / os.fsdecode(name))
    predicted = predict_photographs(store, store.read_run(make(store, "model")), photographs, runtime=RUNTIME)
    write_photographs(tmp_path / "predicted.csv", predicted, store.competition.classes)
    table = pd.read_csv(tmp_path / "predicted.csv", keep_default_na=False)
    assert len(table) == 7 and written in table["img"].tolist()
    np.testing.assert_allclose(table[list(store.competition.classes)], predicted.probs, rtol=1e-6)


def test_a_photograph_that_vanishes_meanwhile_is_left_out(
    store: Store, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def and_then_vanish(folder: Path, **options: Any) -> Found:
        found = find_photographs(folder, **options)
        (photographs / "day0/0.JPG").unlink()
        return found

    monkeypatch.setattr(submission.photographs, "find_photographs", and_then_vanish)
    predicted = predict_photographs(store, store.read_run(make(store, "model")), photographs, runtime=RUNTIME)
    assert len(predicted.names) == 6 and [item.name for item in predicted.unreadable] == ["day0/0.JPG"]


def test_all_that_is_left_out_is_listed(store: Store, photographs: Path, tmp_path: Path) -> None:
    (photographs / "day0/0.JPG").write_bytes(b"")
    (photographs / "a.gif").write_bytes(b"GIF89a")
    predicted = predict_photographs(store, store.read_run(make(store, "model")), photographs, runtime=RUNTIME)
    write_left_out(tmp_path / "left_out.csv", predicted)
    table = pd.read_csv(tmp_path / "left_out.csv", keep_default_na=False)
    assert table[["name", "kind"]].to_numpy().tolist() == [
        ["day0/0.JPG", "unreadable"],
        ["a.gif", "GIF image"],
    ]


def test_each_photograph_is_decoded_once_for_all_folds(
    store: Store, photographs: Path, decoded: Counter[Path]
) -> None:
    run = store.read_run(make(store, "model"))
    decoded.clear()
    predict_photographs(store, run, photographs, runtime=RUNTIME)
    assert sorted(count for path, count in decoded.items() if photographs in path.parents) == [1] * 7


def test_a_complete_file_that_is_not_an_image_is_named(store: Store, photographs: Path) -> None:
    (photographs / "day0/0.JPG").write_bytes(b"\xff\xd8\xff\xda\x00\x02 no image \xff\xd9")
    predicted = predict_photographs(store, store.read_run(make(store, "model")), photographs, runtime=RUNTIME)
    [error] = predicted.errors
    assert error.startswith(f"{photographs}/day0/0.JPG: not a readable image")
    assert len(predicted.names) == 6


@pytest.mark.parametrize("content", [None, "nothing", "garbage"])
def test_a_folder_without_photographs_is_refused(store: Store, tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "photographs"
    if content is not None:
        folder.mkdir()
    if content == "garbage":
        (folder / "a.jpg").write_bytes(b"garbage")
    with pytest.raises(DataError, match=f"IMAGES={folder}: no"):
        predict_photographs(store, store.read_run(make(store, "model")), folder, runtime=RUNTIME)


def test_steps_that_need_all_test_images_are_refused(store: Store, photographs: Path) -> None:
    write_untrained(store)
    name = calibrate(store, "tiny").name
    blend = blend_runs(store, runs=["tiny", name]).name
    with pytest.raises(StoreError, match=f"NAME={blend}: {name} meets the classes' shares"):
        predict_photographs(store, store.read_run(blend), photographs, runtime=RUNTIME)
