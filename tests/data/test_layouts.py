"""Layouts of other competitions: where the images are, what the lists say, and what is asked for."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distracted.config import load_data_config
from distracted.data.audit import audit_folds
from distracted.data.competition import Competition, load_competition, read_train_imgs
from distracted.data.folds import make_folds
from distracted.data.image_files import ImageFiles
from distracted.errors import DataError
from distracted.schema import DataConfig

TRAIN, SAMPLE = "driver_imgs_list.csv", "sample_submission.csv"
Edit = Callable[[pd.DataFrame], pd.DataFrame]


class Layout:
    """A competition's folder that is changed step by step, and its settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = {}
        self.columns: dict[str, Any] = {}

    def edit(self, name: str, change: Edit) -> None:
        table = pd.read_csv(self.folder / name, dtype=str, keep_default_na=False)
        change(table).to_csv(self.folder / name, index=False)

    def config(self) -> DataConfig:
        plain = load_data_config(str(self.folder))
        columns = {**plain.columns.model_dump(), **self.columns}
        values = {**plain.model_dump(), "folder": self.folder, **self.settings, "columns": columns}
        return DataConfig.model_validate(values)

    def load(self) -> Competition:
        return load_competition(self.config())

    def error(self) -> str:
        with pytest.raises(DataError) as info:
            self.load()
        assert "\n" not in str(info.value)
        return str(info.value)

    def move(self, to: Callable[[str, str], str], folder: str = "imgs/train") -> None:
        """Move the training images; `to` gets class and name."""
        for path in list((self.folder / folder).glob("*/*")):
            target = self.folder / to(path.parent.name, path.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)

    def flatten(self, folder: str = "train") -> None:
        self.move(lambda _, name: f"{folder}/{name}")
        shutil.rmtree(self.folder / "imgs/train")
        self.settings["train_images"] = folder


@pytest.fixture
def layout(folder: Path) -> Layout:
    return Layout(folder)


def contents(competition: Competition) -> dict[str, tuple[str, str]]:
    """Class and subject of each training image, by its content: the same in any layout."""
    train = competition.train
    return dict(zip(train["content"], zip(train["classname"], train["subject"], strict=True), strict=True))


@pytest.fixture
def expected(layout: Layout) -> Mapping[str, tuple[str, str]]:
    return contents(layout.load())


def check_paths(competition: Competition) -> None:
    """Each row's file exists and is the one that the row's name ends in, or begins with."""
    assert len(competition.train_paths()) == len(set(competition.train_paths())) == len(competition.train)
    for table, paths in (
        (competition.train, competition.train_paths()),
        (competition.test, competition.test_paths()),
    ):
        for img, path in zip(table["img"], paths, strict=True):
            name = img.replace("\\", "/").rpartition("/")[2]
            assert path.is_file() and (path.name == name or path.stem == name)


class TestWhereImagesAre:
    def test_one_flat_folder(self, layout: Layout, expected: Mapping[str, tuple[str, str]]) -> None:
        index_hash = layout.load().index_hash
        layout.flatten()
        competition = layout.load()
        assert contents(competition) == expected
        assert competition.index_hash == index_hash  # the names are the same, wherever the files are
        check_paths(competition)

    def test_folders_within_folders(self, layout: Layout, expected: Mapping[str, tuple[str, str]]) -> None:
        layout.move(lambda classname, name: f"imgs/train/{name[-5]}/{classname}/x/{name}")
        test = layout.folder / "imgs/test"
        for path in list(test.iterdir()):
            (test / path.stem).mkdir()
            path.rename(test / path.stem / path.name)
        competition = layout.load()
        assert contents(competition) == expected
        check_paths(competition)

    @pytest.mark.parametrize("ending", [".jpg", ".JPG", ".jpeg", ".png"])
    def test_names_without_an_ending(
        self, layout: Layout, expected: Mapping[str, tuple[str, str]], ending: str
    ) -> None:
        layout.flatten()
        for part in ("train", "imgs/test"):
            for path in list((layout.folder / part).iterdir()):
                path.rename(path.with_suffix(ending))
        for name in (TRAIN, SAMPLE):
            layout.edit(name, lambda t: t.assign(img=t["img"].str.removesuffix(".jpg")))
        competition = layout.load()
        assert contents(competition) == expected
        assert not competition.test["img"].str.contains(".", regex=False).any()
        check_paths(competition)

    def test_many_files_of_one_name_are_found_quickly(self, tmp_path: Path) -> None:
        """As in lists of X-rays; a comparison of each name with each file would take minutes."""
        files = ImageFiles(tmp_path, "train")
        names = [f"patient{number}/study1/image1.png" for number in range(20_000)]
        files.paths = {f"train/{name}": name for name in names}
        for start, ending in ((f"{tmp_path.name}/train/", ".png"), ("", "")):
            listed = [start + name.removesuffix(".png") + ending for name in names]
            assert [files.find(name) for name in listed] == [[f"train/{name}"] for name in names]

    def test_numbers_as_names_stay_text(self, layout: Layout) -> None:
        layout.flatten()
        paths = sorted((layout.folder / "train").iterdir())
        ids = {path.name: f"{number:03}" for number, path in enumerate(paths)}
        for path in paths:
            path.rename(path.with_name(f"{ids[path.name]}.jpg"))
        layout.edit(TRAIN, lambda t: t.assign(img=t["img"].map(ids)))
        assert layout.load().train["img"].tolist() == sorted(ids.values())

    @pytest.mark.parametrize(
        "written",
        [
            "imgs/train/{classname}/{img}",
            "train/{classname}/{img}",
            "{classname}/{img}",
            "./imgs/train/{classname}/{img}",
            "tiny/imgs/train/{classname}/{img}",
            "imgs\\train\\{classname}\\{img}",
            ".\\train\\{classname}\\{img}",
        ],
    )
    def test_paths_in_the_list(
        self, layout: Layout, expected: Mapping[str, tuple[str, str]], written: str
    ) -> None:
        rows = [*layout.load().train[["img", "classname"]].itertuples(index=False)]
        paths = {row.img: written.format(img=row.img, classname=row.classname) for row in rows}
        layout.edit(TRAIN, lambda t: t.assign(img=t["img"].map(paths)))
        competition = layout.load()
        assert contents(competition) == expected
        assert set(competition.train["img"]) == set(paths.values())
        check_paths(competition)

    def test_endings_in_capitals(self, layout: Layout, expected: Mapping[str, tuple[str, str]]) -> None:
        for path in list((layout.folder / "imgs").rglob("*.jpg")):
            path.rename(path.with_suffix(".JPG"))
        assert contents(layout.load()) == expected

    def test_names_in_another_unicode_form(self, layout: Layout) -> None:
        path = next((layout.folder / "imgs/test").iterdir())
        layout.edit(SAMPLE, lambda t: t.replace(path.name, "M\u00fcller.jpg"))
        path.rename(path.with_name("Mu\u0308ller.jpg"))
        assert "M\u00fcller.jpg" in set(layout.load().test["img"])

    def test_train_and_test_in_one_folder(
        self, layout: Layout, expected: Mapping[str, tuple[str, str]]
    ) -> None:
        layout.flatten("images")
        for path in list((layout.folder / "imgs/test").iterdir()):
            path.rename(layout.folder / "images" / path.name)
        layout.settings["test_images"] = "images"
        competition = layout.load()
        assert contents(competition) == expected
        layout.settings["sample_submission"] = None
        assert layout.load().test["img"].tolist() == sorted(competition.test["img"])

    @pytest.mark.parametrize("places", [["part_1", "part_2"], "part_*", "part_?"])
    def test_images_in_several_folders(
        self, layout: Layout, expected: Mapping[str, tuple[str, str]], places: Any
    ) -> None:
        layout.move(lambda classname, name: f"part_{1 + (classname == 'c0')}/{name}")
        layout.settings["train_images"] = places
        assert contents(layout.load()) == expected

    def test_a_pattern_says_which_of_two_files_counts(self, layout: Layout) -> None:
        layout.flatten()
        layout.edit(TRAIN, lambda t: t.assign(img=t["img"].str.removesuffix(".jpg")))
        image = min((layout.folder / "train").iterdir())
        shutil.copy(image, image.with_suffix(".png"))
        error = layout.error()
        assert f"image '{image.stem}' may be " in error
        assert f"train/{image.name}" in error and f"train/{image.stem}.png" in error
        assert "write its path in the list" in error and "a pattern such as" in error
        layout.settings["train_images"] = "train/*.jpg"
        assert image in layout.load().train_paths()

    def test_an_image_in_train_and_test(self, layout: Layout) -> None:
        path = next((layout.folder / "imgs/train/c0").iterdir())
        name = pd.read_csv(layout.folder / SAMPLE)["img"].iloc[0]
        (layout.folder / "imgs/test" / name).rename(layout.folder / "imgs/test" / path.name)
        layout.edit(SAMPLE, lambda t: t.replace(name, path.name))
        competition = layout.load()
        assert path.name in set(competition.train["img"]) & set(competition.test["img"])
        assert competition.test_paths()[0] == layout.folder / "imgs/test" / path.name

    def test_links_are_followed_once(
        self, layout: Layout, expected: Mapping[str, tuple[str, str]], tmp_path: Path
    ) -> None:
        moved = tmp_path / "elsewhere"
        (layout.folder / "imgs/train").rename(moved)
        (layout.folder / "imgs/train").symlink_to(moved)
        (moved / "loop").symlink_to(moved)
        assert contents(layout.load()) == expected


class TestSameNames:
    def test_names_of_several_classes_become_paths(self, layout: Layout) -> None:
        for classname in ("c0", "c1", "c2"):
            paths = sorted((layout.folder / "imgs/train" / classname).iterdir())
            ids = {path.name: f"{number:03}.jpg" for number, path in enumerate(paths)}
            for path in paths:
                path.rename(path.with_name(ids[path.name]))
            layout.edit(TRAIN, lambda t, ids=ids: t.assign(img=t["img"].replace(ids)))
        competition = layout.load()
        assert {"c0/000.jpg", "c1/000.jpg", "c2/017.jpg"} <= set(competition.train["img"])
        for row, path in zip(competition.train.itertuples(), competition.train_paths(), strict=True):
            assert path == layout.folder / "imgs/train" / row.img
            assert row.img.partition("/")[0] == row.classname
        assert read_train_imgs(layout.config()) == set(competition.train["img"])
        assert (make_folds(competition, 3)["img"] == competition.train["img"]).all()

    def test_folders_may_be_called_as_the_classes_or_as_the_labels(self, layout: Layout) -> None:
        numbers = {"c0": "0", "c1": "1", "c2": "2"}
        for classname in numbers:
            for number, path in enumerate(sorted((layout.folder / "imgs/train" / classname).iterdir())):
                path.rename(path.with_name(f"{number:03}.jpg"))
        frame = [(f"{n:03}.jpg", k, "p0") for k in numbers.values() for n in range(18)]
        pd.DataFrame(frame, columns=["img", "classname", "subject"]).to_csv(
            layout.folder / TRAIN, index=False
        )
        layout.settings["classes"] = {number: name for name, number in numbers.items()}
        competition = layout.load()
        assert competition.train["img"].str.partition("/")[0].equals(competition.train["classname"])

    def test_a_mended_label_among_them_asks_for_paths(self, layout: Layout) -> None:
        """Two rows say c1 and 000.jpg; nothing says which is which."""
        for classname in ("c0", "c1"):
            path = min((layout.folder / "imgs/train" / classname).iterdir())
            path.rename(path.with_name("000.jpg"))
            layout.edit(TRAIN, lambda t, path=path: t.replace(path.name, "000.jpg"))
        layout.edit(TRAIN, lambda t: t.assign(classname=t["classname"].where(t["img"] != "000.jpg", "c1")))
        error = layout.error()
        assert "image '000.jpg' is listed more than once (rows" in error
        assert "imgs/train/c0/000.jpg, imgs/train/c1/000.jpg" in error and "write their paths" in error
        both = iter(["c0/000.jpg", "c1/000.jpg"])
        layout.edit(
            TRAIN, lambda t: t.assign(img=[next(both) if img == "000.jpg" else img for img in t["img"]])
        )
        assert (
            layout.load().train.set_index("img").loc[["c0/000.jpg", "c1/000.jpg"], "classname"].eq("c1").all()
        )

    def test_an_image_under_two_classes_is_still_an_error(self, layout: Layout) -> None:
        layout.edit(TRAIN, lambda t: pd.concat([t, t.iloc[:1].assign(classname="c1")]))
        assert "is listed more than once (rows 2, 56); keep one of them" in layout.error()

    def test_two_spellings_of_one_file(self, layout: Layout) -> None:
        layout.edit(
            TRAIN, lambda t: pd.concat([t, t.iloc[:1].assign(img=t["img"].iloc[0].removesuffix(".jpg"))])
        )
        assert "are one file, imgs/train/c0/img_" in layout.error()


class TestMendedLabels:
    def test_a_label_mended_in_the_list_alone_counts(self, layout: Layout) -> None:
        first = pd.read_csv(layout.folder / TRAIN).iloc[0]
        layout.edit(TRAIN, lambda t: t.assign(classname=["c2", *t["classname"][1:]]))
        competition = layout.load()
        row = competition.train.set_index("img").loc[first["img"]]
        assert (first["classname"], row["classname"], row["label"]) == ("c0", "c2", 2)
        (warning,) = [
            finding.text
            for finding in audit_folds(competition, make_folds(competition, 3))
            if "folder of another class" in finding.text
        ]
        assert warning.startswith("1 image lies") and f"{first['img']} (list: c2, folder: c0)" in warning

    def test_folders_with_the_names_of_labels(self, layout: Layout) -> None:
        for number in "012":
            (layout.folder / f"imgs/train/c{number}").rename(layout.folder / "imgs/train" / number)
        layout.edit(TRAIN, lambda t: t.assign(classname=t["classname"].str[1:]))
        layout.settings["classes"] = {"0": "c0", "1": "c1", "2": "c2"}
        competition = layout.load()
        assert audit_folds(competition, make_folds(competition, 3)) == []
        layout.edit(TRAIN, lambda t: t.assign(classname=["2", *t["classname"][1:]]))
        competition = layout.load()
        (warning,) = audit_folds(competition, make_folds(competition, 3))
        assert warning.text.startswith("1 image lies") and "(list: c2, folder: 0)" in warning.text

    def test_the_index_is_that_of_a_moved_file(self, layout: Layout) -> None:
        first = pd.read_csv(layout.folder / TRAIN).iloc[0]
        layout.edit(TRAIN, lambda t: t.assign(classname=["c2", *t["classname"][1:]]))
        index_hash = layout.load().index_hash
        path = layout.folder / "imgs/train/c0" / first["img"]
        path.rename(layout.folder / "imgs/train/c2" / first["img"])
        assert layout.load().index_hash == index_hash


class TestWithoutAList:
    @pytest.fixture
    def folders(self, layout: Layout) -> Layout:
        layout.settings |= {"train_list": None, "sample_submission": None}
        layout.columns["group"] = None
        for name in (TRAIN, SAMPLE):
            (layout.folder / name).unlink()
        return layout

    def test_folders_are_the_classes(
        self, layout: Layout, expected: Mapping[str, tuple[str, str]], folders: Layout
    ) -> None:
        competition = folders.load()
        assert {key: name for key, (name, _) in contents(competition).items()} == {
            key: name for key, (name, _) in expected.items()
        }
        assert competition.classes == ("c0", "c1", "c2")
        assert competition.test["img"].tolist() == sorted(
            path.name for path in (layout.folder / "imgs/test").iterdir()
        )
        assert competition.train["img"].str.match(r"c[0-2]/img_\d+\.jpg").all()
        assert (competition.train["subject"] == competition.train["img"]).all()
        assert read_train_imgs(folders.config()) == set(competition.train["img"])

    def test_what_is_no_image_is_left_out(self, folders: Layout) -> None:
        index_hash = folders.load().index_hash
        train = folders.folder / "imgs/train"
        for name in ("c0/.DS_Store", "c1/Thumbs.db", "c2/._img_1.jpg", ".ipynb_checkpoints/x.jpg"):
            (train / name).parent.mkdir(exist_ok=True)
            (train / name).write_bytes(b"x")
        assert folders.load().index_hash == index_hash
        assert folders.load().left_out == ()
        for name in ("c0/a.gif", "c1/notes.txt"):
            (train / name).write_bytes(b"x")
        competition = folders.load()
        assert competition.index_hash == index_hash
        (warning,) = [
            finding.text
            for finding in audit_folds(competition, make_folds(competition, 3))
            if "left out" in finding.text
        ]
        assert warning == (
            "left out: no image by its ending (2): imgs/train/c0/a.gif, imgs/train/c1/notes.txt"
        )

    def test_a_link_to_a_folder_does_not_change_the_labels_of_its_images(self, folders: Layout) -> None:
        before = folders.load()
        train = folders.folder / "imgs/train"
        (train / "c0/more").symlink_to(train / "c1")
        (train / "a").symlink_to(train / "c2")
        (train / "c0/up").symlink_to("../..")
        competition = folders.load()
        assert competition.index_hash == before.index_hash
        assert {item.name: item.kind for item in competition.left_out} == {
            "imgs/train/a": "folder that is linked twice",
            "imgs/train/c0/more": "folder that is linked twice",
            "imgs/train/c0/up": "link to a folder around this one",
        }

    def test_a_class_without_images_is_said(self, folders: Layout) -> None:
        """Perhaps its archive was not unpacked, or its images are in another format."""
        index_hash = folders.load().index_hash
        train = folders.folder / "imgs/train"
        (train / "c3").mkdir()
        (train / "c4/deep").mkdir(parents=True)
        (train / "c4/deep/a.heic").write_bytes(b"x")
        (train / "c0/more").mkdir()
        next((train / "c0").glob("*.jpg")).rename(train / "c0/more/b.jpg")
        competition = folders.load()
        assert competition.classes == ("c0", "c1", "c2") and competition.index_hash != index_hash
        empty = [item.name for item in competition.left_out if item.kind == "folder without images"]
        assert empty == ["imgs/train/c3", "imgs/train/c4", "imgs/train/c4/deep"]

    def test_thumbnails_of_network_drives_are_no_images(self, folders: Layout) -> None:
        index_hash = folders.load().index_hash
        image = next((folders.folder / "imgs/train/c0").iterdir())
        for place in ("imgs/train/@eaDir/a", f"imgs/train/c1/@eaDir/{image.name}", "imgs/test/#recycle"):
            (folders.folder / place).mkdir(parents=True)
            shutil.copy(image, folders.folder / place / "SYNOPHOTO_THUMB_M.jpg")
        assert folders.load().index_hash == index_hash
        folders.settings["test_images"] = ["imgs/test", "imgs/test/*"]  # the pattern does not name it either
        assert folders.load().index_hash == index_hash

    def test_dead_links_and_circles_are_said(self, folders: Layout) -> None:
        index_hash = folders.load().index_hash
        train = folders.folder / "imgs/train"
        (train / "c0/gone.jpg").symlink_to("nowhere.jpg")
        (train / "c1/circle").symlink_to("circle")
        os.mkfifo(train / "c2/pipe.jpg")
        competition = folders.load()
        assert competition.index_hash == index_hash
        texts = [finding.text for finding in audit_folds(competition, make_folds(competition, 3))]
        assert "left out: dead link (1): imgs/train/c0/gone.jpg" in texts
        assert (
            "left out: dead link (1): imgs/train/c1/circle; Too many levels of symbolic links" in texts
            or "left out: dead link (1): imgs/train/c1/circle" in texts  # macOS
        )
        assert "left out: pipe, socket or device (1): imgs/train/c2/pipe.jpg" in texts

    @pytest.mark.skipif(os.geteuid() != 0, reason="root may become another user")
    def test_a_class_that_may_not_be_read_is_an_error(self) -> None:
        """Without it the data would be others."""
        with tempfile.TemporaryDirectory() as place:  # tmp_path is only for its owner
            folder = Path(place)
            folder.chmod(0o755)
            closed = folder / "train/c1"
            closed.mkdir(parents=True)
            closed.chmod(0)
            os.seteuid(65534)
            try:
                with pytest.raises(DataError) as info:
                    _ = ImageFiles(folder, "train").images
            finally:
                os.seteuid(0)
        assert str(info.value) == f"{closed}: folder that cannot be read (Permission denied)"

    @pytest.mark.parametrize("name", [b"c0/J\xfcrgen.jpg", b"c1/a\rb.jpg", b"c\xe9/a.jpg"])
    @pytest.mark.parametrize("part", ["train", "test"])
    def test_names_that_no_list_can_hold_are_refused(self, folders: Layout, part: str, name: bytes) -> None:
        path = Path(os.fsdecode(os.fsencode(folders.folder / "imgs" / part) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        shutil.copy(next((folders.folder / "imgs/train/c0").glob("*.jpg")), path)
        error = folders.error()
        assert f"such as {name!r}; rename such files" in error
        error.encode()

    def test_a_pattern_finds_subjects_in_names(self, folders: Layout) -> None:
        for number, path in enumerate(sorted((folders.folder / "imgs/train").glob("*/*"))):
            path.rename(path.with_name(f"patient_{number % 7}_{number}.jpg"))
        folders.settings["subject_pattern"] = r"patient_(\d+)_"
        competition = folders.load()
        assert set(competition.train["subject"]) == set("0123456")
        assert folders.config().has_subjects
        assert not [
            f for f in audit_folds(competition, make_folds(competition, 3)) if "no subjects" in f.text
        ]
        folders.settings["subject_pattern"] = r"person_(\d+)"
        assert "finds no subject in 'c0/patient_0_0.jpg'" in folders.error()

    def test_train_and_valid_are_both_for_training(self, folders: Layout) -> None:
        root = folders.folder
        for path in sorted((root / "imgs/train").glob("*/*"))[::3]:
            target = root / "imgs/valid" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        folders.settings["train_images"] = ["imgs/train", "imgs/valid"]
        competition = folders.load()
        assert len(competition.train) == 54
        assert competition.train["img"].str.startswith("imgs/valid/").sum() == 18

    def test_the_same_name_in_each_class(self, folders: Layout) -> None:
        for classname in ("c0", "c1", "c2"):
            for number, path in enumerate(sorted((folders.folder / "imgs/train" / classname).iterdir())):
                path.rename(path.with_name(f"{number:03}.jpg"))
        competition = folders.load()
        assert len(competition.train) == 54
        assert {"c0/001.jpg", "c1/001.jpg", "c2/001.jpg"} <= set(competition.train["img"])

    def test_a_loose_image_an_empty_folder_and_one_class_are_errors(self, folders: Layout) -> None:
        train = folders.folder / "imgs/train"
        path = min((train / "c0").iterdir())
        path.rename(train / path.name)
        assert f"imgs/train/{path.name} is in no class's folder" in folders.error()
        (train / path.name).unlink()
        for name in ("c1", "c2"):
            shutil.rmtree(train / name)
        assert "all images are of class 'c0'" in folders.error()
        shutil.rmtree(train / "c0")
        assert "no images in it; expected a folder for each class" in folders.error()

    def test_without_test_images(self, folders: Layout) -> None:
        shutil.rmtree(folders.folder / "imgs/test")
        assert "no test images in imgs/test (data.test_images), and no sample submission" in folders.error()

    def test_columns_of_subjects_need_a_list(self, folders: Layout) -> None:
        folders.columns["group"] = "subject"
        with pytest.raises(ValueError, match=r"train_list is null.*expected columns\.group: null"):
            folders.config()


class TestLabels:
    def test_one_hot_columns(self, layout: Layout, expected: Mapping[str, tuple[str, str]]) -> None:
        def one_hot(table: pd.DataFrame) -> pd.DataFrame:
            marks = pd.get_dummies(table.pop("classname")).astype(float).astype(str)
            return pd.concat([table, marks], axis=1)

        layout.edit(TRAIN, one_hot)
        layout.columns["label"] = ["c0", "c1", "c2"]
        assert contents(layout.load()) == expected
        layout.edit(TRAIN, lambda t: t.assign(c1=["1", *t["c1"][1:]]))
        assert f"{TRAIN}, row 2: its 1s name c0 and c1; expected exactly one class" in layout.error()
        layout.edit(TRAIN, lambda t: t.assign(c0=["0", *t["c0"][1:]], c1=["0", *t["c1"][1:]]))
        assert "row 2: its 1s name no class" in layout.error()
        layout.edit(TRAIN, lambda t: t.assign(c1=["0.7", *t["c1"][1:]]))
        assert "row 2: column 'c1' holds '0.7'; expected 1 in one" in layout.error()

    @pytest.mark.parametrize("separator", [" ", ",", "|", "; "])
    def test_several_labels_an_image_are_refused(self, layout: Layout, separator: str) -> None:
        layout.settings["sample_submission"] = None
        layout.edit(TRAIN, lambda t: t.assign(classname=[f"c0{separator}c1", *t["classname"][1:]]))
        error = layout.error()
        assert f"row 2: label 'c0{separator}c1' is 2 classes at a time, and here each image has one" in error
        layout.settings["classes"] = ["c0", "c1", "c2", f"c0{separator}c1"]
        assert layout.load().num_classes == 4

    def test_numbers_with_names_in_another_table(self, layout: Layout) -> None:
        numbers = {"c0": "2", "c1": "10", "c2": "1"}
        layout.edit(TRAIN, lambda t: t.assign(classname=t["classname"].map(numbers)))
        layout.settings["sample_submission"] = None
        assert layout.load().classes == ("1", "2", "10")
        layout.settings["classes"] = {1: "truck", 2: "car", 10: "bus"}
        competition = layout.load()
        assert competition.classes == ("truck", "car", "bus")
        layout.settings["classes"] = {1: "truck", 2: "car"}
        assert "class '10' is not in data.classes, which has 1, 2" in layout.error()

    def test_a_header_of_names_or_of_numbers(self, layout: Layout) -> None:
        names = {"0": "c0", "1": "c1", "2": "c2"}
        numbers = {name: number for number, name in names.items()}
        layout.edit(TRAIN, lambda t: t.assign(classname=t["classname"].map(numbers)))
        layout.settings["classes"] = names
        by_name = layout.load()
        layout.edit(SAMPLE, lambda t: t.rename(columns=numbers))
        by_number = layout.load()
        assert by_name.classes == by_number.classes == ("c0", "c1", "c2")
        assert by_name.index_hash == by_number.index_hash
        assert by_number.submission.columns == ("img", "0", "1", "2")

    def test_a_class_called_as_the_column_of_images_gets_another_name(self, layout: Layout) -> None:
        layout.settings["sample_submission"] = None
        layout.edit(TRAIN, lambda t: t.assign(classname=t["classname"].replace("c0", "img")))
        assert "a class cannot be called 'img'" in layout.error()
        layout.settings["classes"] = {"img": "image", "c1": "c1", "c2": "c2"}
        assert layout.load().classes == ("image", "c1", "c2")

    def test_several_columns_of_subjects(self, layout: Layout) -> None:
        """Visits belong to patients, and two patients share a clip."""
        table = pd.read_csv(layout.folder / TRAIN, dtype=str)
        patients = table["subject"].tolist()
        clips = [f"clip{number // 9}" for number in range(len(table))]  # two of each subject
        assert len(set(zip(patients, clips, strict=True))) == len(set(clips)) == 6
        layout.edit(TRAIN, lambda t: t.assign(clip=["clip5", *clips[1:]]))
        layout.columns["group"] = ["subject", "clip"]
        competition = layout.load()
        first, last = table["subject"].iloc[0], table["subject"].iloc[-1]
        assert competition.num_subjects == 5
        joined = competition.train.set_index("img")["subject"]
        assert joined[table["img"].iloc[1]] == joined[table["img"].iloc[-1]] == min(first, last)

    @pytest.mark.parametrize("mark", ["\t", ";"])
    def test_lists_with_tabs_or_semicolons(
        self, layout: Layout, expected: Mapping[str, tuple[str, str]], mark: str
    ) -> None:
        for name in (TRAIN, SAMPLE):
            table = pd.read_csv(layout.folder / name, dtype=str)
            table.to_csv(layout.folder / name, index=False, sep=mark, encoding="utf-8-sig")
        assert contents(layout.load()) == expected


class TestAdvice:
    def test_the_wrong_folder(self, layout: Layout) -> None:
        layout.settings["train_images"] = "imgs/tran"
        assert layout.error().endswith("(no files in imgs/tran; data.train_images names the folder)")
        layout.settings["train_images"] = "imgs/test"
        assert "7 files, such as imgs/test/img_" in layout.error()
        assert layout.error().endswith("is data.train_images the right folder?)")

    def test_another_ending(self, layout: Layout) -> None:
        path = next((layout.folder / "imgs/test").iterdir())
        path.rename(path.with_suffix(".png"))
        assert f"(imgs/test/{path.stem}.png is there; is it the same image?)" in layout.error()

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_a_dead_link(self, layout: Layout, part: str) -> None:
        path = next((layout.folder / "imgs" / part).rglob("*.jpg"))
        path.unlink()
        path.symlink_to("nowhere.jpg")
        assert layout.error().endswith(f", or mend {path.relative_to(layout.folder)}: dead link")

    def test_a_folder_in_another_layout(self, layout: Layout) -> None:
        (layout.folder / TRAIN).rename(layout.folder / "train.csv")
        assert f"`make new-competition FOLDER={layout.folder}`" in layout.error()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"classes": ["a", "a"]}, "two classes or more, each named once"),
            ({"classes": [True, False]}, "put them in quotes"),
            ({"classes": ["a"]}, "two classes or more"),
            ({"subject_pattern": "(", "columns": {"group": None}}, "not a regular expression"),
            ({"subject_pattern": "x"}, "both name the subjects"),
            ({"submission": "labels"}, "'probabilities', 'probability' or 'label'"),
        ],
    )
    def test_settings_that_make_no_sense(
        self, layout: Layout, settings: dict[str, Any], message: str
    ) -> None:
        layout.columns |= settings.pop("columns", {})
        layout.settings |= settings
        with pytest.raises(ValueError, match=message):
            layout.config()
