"""Pictures on disk that no list names are counted and named, wherever a cut list would go unnoticed."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import folds
from distracted.data.audit import audit_folds
from distracted.data.competition import load_competition, read_lists
from distracted.data.folds import ensure_folds, make_folds
from distracted.data.image_files import ImageFiles
from distracted.paths import Workspace
from distracted.predictions.store import Store
from distracted.schema import DataConfig


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def unlisted_in(folder: Path, listed: list[Path]) -> tuple[str, ...]:
    return ImageFiles(folder, ".").without({str(path.relative_to(folder)) for path in listed})


def test_a_whole_list_leaves_nothing(data: DataConfig) -> None:
    competition = load_competition(data)
    assert competition.unlisted == {"train": (), "test": ()}
    assert not [f for f in audit_folds(competition, make_folds(competition, 3)) if "no list" in f.text]


@pytest.mark.parametrize("kept", [1, 10, 40])
def test_a_list_that_ends_early_at_a_lines_end(folder: Path, data: DataConfig, kept: int) -> None:
    """It is a valid list: only the disk shows that rows are missing."""
    file = folder / "driver_imgs_list.csv"
    table = pd.read_csv(file)
    first = table.groupby("classname").head(1)  # every class stays
    rest = table.drop(first.index).iloc[:kept]
    pd.concat([first, rest]).to_csv(file, index=False)
    competition = load_competition(data)
    gone = table.drop(first.index).iloc[kept:]
    names = sorted(f"imgs/train/{row.classname}/{row.img}" for row in gone.itertuples())
    assert list(competition.unlisted["train"]) == names
    assert competition.unlisted["test"] == ()


def test_a_cut_sample_submission(folder: Path, data: DataConfig) -> None:
    file = folder / "sample_submission.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-2]))
    competition = load_competition(data)
    assert competition.unlisted == {
        "train": (),
        "test": tuple(sorted(f"imgs/test/{line.partition(',')[0]}" for line in lines[-2:])),
    }
    [finding] = [f for f in audit_folds(competition, make_folds(competition, 3)) if "no list" in f.text]
    assert finding.level == "warning"
    assert finding.text.startswith("2 pictures on disk that no list names (imgs/test/")
    assert "sample_submission.csv names 5" in finding.text


def test_pictures_in_other_folders_and_with_other_endings_count(tmp_path: Path) -> None:
    listed = [touch(tmp_path / "c0/a.jpg"), touch(tmp_path / "c1/a.heic")]
    more = ["c0/b.JPG", "c2/deep/er/c.png", "d.webp", "c1/e.heic"]
    for name in more:
        touch(tmp_path / name)
    assert unlisted_in(tmp_path, listed) == tuple(sorted(more))


def test_what_is_no_picture_does_not_count(tmp_path: Path) -> None:
    listed = [touch(tmp_path / "c0/a.jpg")]
    for name in (
        "c0/._a.jpg",
        ".hidden/b.jpg",
        "__MACOSX/c0/a.jpg",
        "c0/Thumbs.db",
        "readme.txt",
        "c0/.DS_Store",
    ):
        touch(tmp_path / name)
    assert unlisted_in(tmp_path, listed) == ()


def test_a_folder_that_holds_both_parts(tmp_path: Path) -> None:
    listed = [touch(tmp_path / "train_1.jpg"), touch(tmp_path / "test_1.jpg")]
    touch(tmp_path / "other.jpg")
    assert unlisted_in(tmp_path, listed) == ("other.jpg",)


@pytest.mark.parametrize("places", [("imgs", "imgs/test"), (".", "imgs/test"), ("imgs/train", "imgs")])
def test_folders_within_each_other_count_each_picture_once(
    folder: Path, data: DataConfig, places: tuple[str, str]
) -> None:
    touch(folder / "imgs/train/c0/new.jpg")
    touch(folder / "imgs/test/new.jpg")
    config = data.model_copy(update={"train_images": places[0], "test_images": places[1]})
    unlisted = {"train": ("imgs/train/c0/new.jpg",), "test": ("imgs/test/new.jpg",)}
    assert read_lists(config).unlisted == unlisted


def test_names_without_endings(tmp_path: Path) -> None:
    """Then a file without an ending may be anything; one with an image's ending counts."""
    listed = [touch(tmp_path / "0001")]
    touch(tmp_path / "README")
    touch(tmp_path / "0002.png")
    assert unlisted_in(tmp_path, listed) == ("0002.png",)


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    """A loop ends, and a linked class folder counts."""
    root = tmp_path / "imgs"
    listed = [touch(root / "c0/a.jpg")]
    touch(tmp_path / "elsewhere/b.jpg")
    (root / "c1").symlink_to(tmp_path / "elsewhere")
    (root / "c0/loop").symlink_to(root)
    (root / "c2").symlink_to(tmp_path / "elsewhere")
    assert unlisted_in(root, listed) in (("c1/b.jpg",), ("c2/b.jpg",))


def test_files_that_are_links_are_listed_under_their_own_names(data: DataConfig, folder: Path) -> None:
    path = next((folder / "imgs/train").rglob("*.jpg"))
    shutil.move(path, folder / "kept_elsewhere.jpg")
    path.symlink_to(folder / "kept_elsewhere.jpg")
    assert load_competition(data).unlisted["train"] == ()


def test_manifests_count_them(folder: Path, data: DataConfig, workspace: Workspace) -> None:
    for name in ("imgs/train/new/a.jpg", "imgs/train/b.jpg"):
        touch(folder / name)
    competition = load_competition(data)
    store = Store(workspace, competition, ensure_folds(workspace.folds(data.name), competition, 3))
    valid, test = (np.full((n, 3), np.log(1 / 3)) for n in (len(store.folds.valid(0)), len(competition.test)))
    store.write_fold("run", 0, kind="model", config={}, valid=valid, test=test)
    assert store.manifest("run", 0).unlisted == {"train": 2}
    assert Store(workspace, competition, store.folds).manifest("run", 0).unlisted == {"train": 2}


def test_make_folds_counts_and_names_them(
    folder: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {"data": str(folder), "set": "training.num_folds=3", "root": workspace.root}
    folds.main(**where)
    assert "pictures on disk that no list names: 0 in train and 0 in test" in capsys.readouterr().out
    touch(folder / "imgs/train/c0/new.jpg")
    folds.main(**where)
    assert "pictures on disk that no list names: 1 in train and 0 in test" in capsys.readouterr().out
