"""Layouts of public competitions, imitated: what is guessed, what is asked, and what is refused in words."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import new_competition
from distracted.config import load_data_config
from distracted.data.competition import load_competition, read_lists
from distracted.data.folder_contents import FolderContents
from distracted.data.new_data import NewData, understand
from distracted.errors import DataError
from distracted.paths import CONFIGS
from imitated_layouts import write_images

N = 24


def look(folder: Path, **answers: Any) -> NewData:
    """Understand a folder; double underscores stand for dots."""
    return understand(FolderContents.of(folder), "new", {k.replace("__", "."): v for k, v in answers.items()})


def refused(folder: Path, **answers: Any) -> str:
    with pytest.raises(DataError) as info:
        look(folder, **answers)
    return str(info.value)


class Folder:
    """A competition with `N` training images and four test images, whose pictures are never opened."""

    def __init__(
        self, path: Path, *, img: str = "{:08x}.jpg", train: str = "train", test: str = "test"
    ) -> None:
        self.path = path
        self.imgs = [img.format(number * 7919) for number in range(N)]
        self.tests = [img.format(10**6 + number) for number in range(4)]
        for place, names in ((train, self.imgs), (test, self.tests)):
            for name in names:
                file = path / place / (name if "." in name else f"{name}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()

    def write(self, file: str, *, index: bool = False, sep: str = ",", **columns: Any) -> None:
        (self.path / file).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(columns).to_csv(self.path / file, index=index, sep=sep)

    def labels(self, *names: object) -> list[object]:
        return [names[number % len(names)] for number in range(N)]


class TestWhichColumnNamesImages:
    def test_a_row_number_is_no_name(self, tmp_path: Path) -> None:
        """An index that pandas wrote counts from 0, as the images do, in another order."""
        folder = Folder(tmp_path / "a", img="{}.jpg")
        order = random.Random(1).sample(range(N), N)
        for number in range(N):
            (folder.path / f"train/{number}.jpg").touch()
        labels = [("a", "b", "c")[number % 3] for number in order]
        folder.write("train.csv", index=True, image_id=order, label=labels)
        new = look(folder.path)
        assert new.settings["columns"]["img"] == "image_id" and "columns.img" not in new.assumed
        right = {str(number): ("a", "b", "c")[number % 3] for number in range(N)}
        assert (
            dict(zip(new.competition.train["img"], new.competition.train["classname"], strict=True)) == right
        )

    def test_two_columns_that_name_different_files_are_asked(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path, img="{}.jpg")
        names = [name.removesuffix(".jpg") for name in folder.imgs]
        folder.write("train.csv", row=names, id_code=names[::-1], label=folder.labels("a", "b"))
        new = look(folder.path)
        assert new.settings["columns"]["img"] == "id_code"
        assert "row holds names of images, too" in new.assumed["columns.img"]

    def test_two_names_of_the_same_files_are_not(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        ids = [name.removesuffix(".jpg") for name in folder.imgs]
        folder.write("train.csv", id=ids, file_name=folder.imgs, label=folder.labels("a", "b"))
        new = look(folder.path)
        assert new.settings["columns"]["img"] == "file_name" and set(new.assumed) == {
            "metric",
            "columns.group",
        }

    def test_the_samples_images_may_come_second(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.write("train.csv", Id=folder.imgs, Category=folder.labels("cbb", "cmd"))
        folder.write("sample_submission_file.csv", Category="cbb", Id=folder.tests)
        new = look(folder.path)
        assert new.competition.test["img"].tolist() == folder.tests
        assert new.competition.submission.columns == ("Category", "Id")
        assert new.settings["columns"]["label"] == "Category"


class TestLabels:
    @pytest.mark.parametrize(
        ("img", "name"),
        [("cat.{}.jpg", "cat"), ("Egyptian_Mau_{}.jpg", "Egyptian_Mau"), ("{}-oak.png", "oak")],
    )
    def test_in_file_names(self, tmp_path: Path, img: str, name: str) -> None:
        Folder(tmp_path, img=img)
        Folder(tmp_path, img=img.replace(name, "big dog"))
        new = look(tmp_path)
        assert new.competition.classes == tuple(sorted((name, "big dog")))
        assert new.competition.train["classname"].value_counts().to_dict() == {name: N, "big dog": N}
        assert new.settings["train_list"] is None and "label_pattern" in new.assumed

    @pytest.mark.parametrize("img", ["{:08x}.jpg", "img_{}.jpg", "{}.jpg"])
    def test_names_that_say_no_class(self, tmp_path: Path, img: str) -> None:
        Folder(tmp_path, img=img)
        assert "no list names the images in train" in refused(tmp_path)

    def test_a_pattern_that_finds_no_class_names_the_image(self, tmp_path: Path) -> None:
        Folder(tmp_path, img="cat.{}.jpg")
        Folder(tmp_path, img="dog.{}.jpg")
        (tmp_path / "train/odd.jpg").touch()
        error = refused(tmp_path, label_pattern=r"(cat|dog)\.")
        assert "data.label_pattern '(cat|dog)\\\\.' finds no class in 'odd.jpg'" in error

    @pytest.mark.parametrize(
        "labels",
        [
            ("haze primary", "clear primary water", "clear primary", "primary water", "haze primary road"),
            ("147 616 813", "161 616", "13 734"),
            ("['a', 'b']", "['a']", "['b']"),
            ("No Finding", "Mass|Nodule", "Mass", "Nodule"),
            ("scab", "rust", "scab rust"),
        ],
    )
    def test_several_labels_an_image_are_refused(self, tmp_path: Path, labels: Sequence[str]) -> None:
        folder = Folder(tmp_path)
        folder.write("train.csv", id=folder.imgs, tags=folder.labels(*labels))
        folder.write("sample_submission.csv", id=folder.tests, tags=labels[0])
        assert "classes at a time, and here each image has one" in refused(folder.path)

    @pytest.mark.parametrize(
        "labels",
        [
            ("Common wheat", "Sugar beet", "Common Chickweed"),
            ("leaf rust", "stem rust", "leaf"),
            ("1-2", "2", "1"),
        ],
    )
    def test_names_of_several_words_are_not(self, tmp_path: Path, labels: Sequence[str]) -> None:
        folder = Folder(tmp_path)
        folder.write("train.csv", id=folder.imgs, label=folder.labels(*labels))
        assert set(look(folder.path).competition.classes) == set(labels)

    def test_amounts_are_refused(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.write("train.csv", id=folder.imgs, score=folder.labels(*range(1, 9)))
        folder.write("sample_submission.csv", id=folder.tests, score=[28.19, 30.5, 9.1, 70.2])
        assert "sample submission shows 28.19: amounts are to be estimated (regression)" in refused(
            folder.path
        )
        assert look(folder.path, submission="label").competition.num_classes == 8
        folder.write("train.csv", id=folder.imgs, score=[number / 7 for number in range(N)])
        assert "labels such as 0.0 have fractions: amounts" in refused(folder.path)
        (folder.path / "sample_submission.csv").unlink()
        folder.write(
            "train.csv", id=folder.imgs, eye_x=[n / 7 for n in range(N)], eye_y=[n / 9 for n in range(N)]
        )
        assert "the list has id, eye_x, eye_y: amounts" in refused(folder.path)

    def test_a_label_that_is_not_sure_is_asked(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.write(
            "train.csv", id=folder.imgs, species=folder.labels("a", "b"), breed=folder.labels(*"xyz")
        )
        asked = look(folder.path).assumed["columns.label"]
        assert asked == "the column of the classes: species (2 values), breed (3 values)"
        folder.write("train.csv", id=folder.imgs, shape=folder.labels("a", "b"))
        assert "shape (2 values)" in look(folder.path).assumed["columns.label"]

    @pytest.mark.parametrize(
        ("labels", "shown", "answers"),
        [
            (("0.0", "1.0", "2.0"), "0", ("0", "1", "2")),
            (("0", "1", "2"), "1.0", ("0.0", "1.0", "2.0")),
            (("False", "True"), "0", ("0", "1")),
            (("01", "02", "10"), "1", ("1", "2", "10")),
            (("01", "02", "10"), "01", ("01", "02", "10")),
            (("0.0", "1.0"), "", ("0.0", "1.0")),
        ],
    )
    def test_numbers_are_answered_as_the_sample_writes_them(
        self, tmp_path: Path, labels: Sequence[str], shown: str, answers: tuple[str, ...]
    ) -> None:
        folder = Folder(tmp_path)
        folder.write("train.csv", id=folder.imgs, label=folder.labels(*labels))
        folder.write("sample_submission.csv", id=folder.tests, label=shown)
        form = look(folder.path, submission="label").competition.submission
        assert (form.answers, form.doubt) == (answers, "")

    def test_numbers_with_points_are_in_order(self, tmp_path: Path) -> None:
        """The quadratic kappa counts steps of the order."""
        folder = Folder(tmp_path)
        folder.write("train.csv", id=folder.imgs, level=[f"{number % 12}.0" for number in range(N)])
        assert look(folder.path).competition.classes == tuple(f"{number}.0" for number in range(12))

    def test_the_order_of_names_is_asked_for_quadratic_kappa(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.write("train.csv", id=folder.imgs, grade=folder.labels("none", "mild", "severe"))
        folder.write("sample_submission.csv", id=folder.tests, grade="none")
        assert "classes" not in look(folder.path).assumed
        asked = look(folder.path, metric="quadratic_kappa")
        assert asked.settings["classes"] == ["mild", "none", "severe"]
        assert asked.assumed["classes"].startswith("the classes in order")
        order = ["none", "mild", "severe"]
        told = look(folder.path, metric="quadratic_kappa", classes=order)
        assert told.competition.classes == tuple(order) and "classes" not in told.assumed

    def test_classes_that_differ_only_in_spelling_are_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = Folder(tmp_path / "odd")
        labels = folder.labels("Rust", "rust", "leaf spot", "leaf_spot", "scab")
        folder.write("train.csv", id=folder.imgs, label=labels)
        new_competition.main(folder=str(folder.path), configs=tmp_path)
        shown = " ".join(capsys.readouterr().err.split())
        assert "classes 'Rust' and 'rust' differ only in spelling" in shown
        assert "classes 'leaf spot' and 'leaf_spot' differ only in spelling" in shown
        assert "scab" not in shown.partition("assumed")[0]

    def test_a_class_without_images_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = Folder(tmp_path / "isic")
        marks = {"MEL": folder.labels(1.0, 0.0), "NV": folder.labels(0.0, 1.0), "UNK": 0.0}
        folder.write("GroundTruth.csv", image=folder.imgs, **marks)
        new_competition.main(folder=str(folder.path), configs=tmp_path)
        assert "no image is of class UNK" in " ".join(capsys.readouterr().err.split())

    def test_a_class_that_only_the_sample_has(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.write("train.csv", image=folder.imgs, label=folder.labels("MEL", "NV"))
        folder.write("sample_submission.csv", image=folder.tests, MEL=0.5, NV=0.5, UNK=0.0)
        assert "no training image of class 'UNK'" in refused(folder.path)
        assert "name a copy without its column (data.sample_submission)" in refused(folder.path)
        folder.write("known_sample_submission.csv", image=folder.tests, MEL=0.5, NV=0.5)
        told = look(folder.path, sample_submission="known_sample_submission.csv")
        assert told.competition.classes == ("MEL", "NV")

    def test_text_that_yaml_reads_as_a_number(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path / "odd")
        write_images(folder.path, [f"train/{name}" for name in folder.imgs], 0)
        write_images(folder.path, [f"test/{name}" for name in folder.tests], 1)
        folder.write("train.csv", **{"1e5": folder.imgs}, label=folder.labels("1e3", "12E4"))
        folder.write("sample_submission.csv", **{"1e5": folder.tests}, label=0.5)
        configs = shutil.copytree(CONFIGS, tmp_path / "configs")
        new_competition.main(folder=str(folder.path), configs=configs)
        config = load_data_config("odd", configs=configs, root=tmp_path)
        assert load_competition(config).classes == ("1e3", "12E4")


class TestSubjects:
    @pytest.mark.parametrize(
        "column",
        [
            "patient_id",
            "PatientID",
            "patientid",
            "location",
            "site",
            "seq_id",
            "StudyInstanceUID",
            "experiment",
        ],
    )
    def test_columns(self, tmp_path: Path, column: str) -> None:
        folder = Folder(tmp_path)
        subjects = [number // 4 for number in range(N)]
        folder.write("train.csv", id=folder.imgs, label=folder.labels("a", "b"), **{column: subjects})
        new = look(folder.path)
        assert new.settings["columns"]["group"] == column and "columns.group" in new.assumed
        assert new.competition.num_subjects == 6

    @pytest.mark.parametrize("column", ["anatom_site_general", "age", "outsider", "width"])
    def test_columns_of_something_else(self, tmp_path: Path, column: str) -> None:
        folder = Folder(tmp_path)
        values = [number // 4 for number in range(N)]
        folder.write("train.csv", id=folder.imgs, label=folder.labels("a", "b"), **{column: values})
        new = look(folder.path)
        assert new.settings["columns"]["group"] is None
        assert f"{column} (6 values)" in new.assumed["columns.group"]

    def test_a_column_that_lacks_some_is_said_and_not_taken(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        lesions = ["", *(f"L{number // 3}" for number in range(1, N))]
        patients = [f"P{number // 4}" for number in range(N)]
        labels = folder.labels("a", "b")
        folder.write("train.csv", id=folder.imgs, label=labels, lesion_id=lesions, clip=patients)
        new = look(folder.path)
        assert new.settings["columns"]["group"] == "clip"
        assert "lesion_id (9 values, 1 empty)" in new.assumed["columns.group"]
        assert "row 2: column 'lesion_id' is empty" in refused(folder.path, columns__group="lesion_id")

    def test_in_a_second_list(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path, train="train_features", test="test_features")
        sites = [f"S{number // 4}" for number in range(N)]
        marks = {"bird": folder.labels(1.0, 0.0), "hog": folder.labels(0.0, 1.0)}
        folder.write("train_features.csv", id=folder.imgs[::-1], site=sites[::-1])
        folder.write("train_labels.csv", id=folder.imgs, **marks)
        new = look(folder.path)
        assert new.settings["train_list"] == ["train_labels.csv", "train_features.csv"]
        assert "train_features.csv says site (6 values)" in new.assumed["columns.group"]
        train = new.competition.train.set_index("img")
        assert train.loc[folder.imgs, "subject"].tolist() == sites
        assert look(folder.path, columns__group=None).settings["train_list"] == "train_labels.csv"
        folder.write("train_features.csv", id=folder.imgs, trap=sites)
        named = look(folder.path, columns__group="trap")
        assert named.competition.num_subjects == 6

    def test_a_second_list_that_lacks_an_image_or_contradicts_itself(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.write("train.csv", id=folder.imgs, label=folder.labels("a", "b"))
        folder.write("people.csv", id=folder.imgs, person=[number // 4 for number in range(N)])
        config = look(folder.path).competition.config
        folder.write("people.csv", id=folder.imgs[1:], person=1)
        with pytest.raises(
            DataError, match=rf"people\.csv: has no row for image '{folder.imgs[0]}' \(1 in all\)"
        ):
            read_lists(config)
        folder.write("people.csv", id=[*folder.imgs, folder.imgs[0]], person=range(N + 1))
        with pytest.raises(DataError, match=r"people\.csv: image .* is listed more than once \(rows 2, 26\)"):
            read_lists(config)

    @pytest.mark.parametrize("img", ["{}_left.jpeg", "{}-Right.jpeg"])
    def test_both_eyes_are_one_persons(self, tmp_path: Path, img: str) -> None:
        folder = Folder(tmp_path, img=img)
        other = "{}_right.jpeg" if "left" in img else "{}-Left.jpeg"
        more = Folder(tmp_path, img=other)
        labels = [*folder.labels("0", "1"), *more.labels("1", "2")]
        folder.write("trainLabels.csv", image=[*folder.imgs, *more.imgs], level=labels)
        new = look(folder.path)
        assert new.competition.num_subjects == N and "subject_pattern" in new.assumed

    def test_images_whose_names_say_none_are_their_own(self, tmp_path: Path) -> None:
        """As in a set of X-rays where only the ill are numbered."""
        for part in ("train", "test"):
            for number in range(12):
                for name in (
                    f"NORMAL/IM-{number:04}-01.jpeg",
                    f"ILL/person{number // 3}_virus_{number}.jpeg",
                ):
                    (tmp_path / part / name).parent.mkdir(parents=True, exist_ok=True)
                    (tmp_path / part / name).touch()
        new = look(tmp_path)
        assert new.competition.num_subjects == 12 + 4
        assert "12 of 24 names; other images are their own" in new.assumed["subject_pattern"]

    @pytest.mark.parametrize("form", ["clip{}", "{}-x"])
    def test_folders_are_taken_by_their_names_or_asked_about(self, tmp_path: Path, form: str) -> None:
        folder = Folder(tmp_path, img="{}.png", train="other")
        paths = [f"{form.format(number // 4)}/{number}.png" for number in range(N)]
        for path in paths:
            (tmp_path / "train" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "train" / path).touch()
        folder.write("train.csv", path=paths, label=folder.labels("a", "b"))
        new, pattern = look(tmp_path), r"([^/]+)/[^/]+$"
        if "clip" in form:
            assert new.competition.num_subjects == 6
        else:
            assert new.settings["subject_pattern"] is None
            assert f"{pattern} says so" in new.assumed["subject_pattern"]
        assert look(tmp_path, subject_pattern=pattern).competition.num_subjects == 6

    def test_a_number_that_is_the_class_is_no_subject(self, tmp_path: Path) -> None:
        for part in ("train", "test"):
            for number in range(12):
                (tmp_path / part / f"plant_{number % 4}").mkdir(parents=True, exist_ok=True)
                (tmp_path / part / f"plant_{number % 4}" / f"{number}.jpg").touch()
        assert look(tmp_path).settings["subject_pattern"] is None


class TestLists:
    def test_of_several_the_plain_one_is_taken_and_the_others_are_said(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path, train="images", test="images")
        labels = folder.labels("a", "b")
        folder.write("train.csv", id=folder.imgs, label=labels)
        folder.write("sample_submission.csv", id=folder.tests, label="a")
        folder.write("train_folds.csv", id=folder.imgs, label=labels, kfold=folder.labels(0, 1, 2))
        folder.write("submission.csv", id=folder.tests, label="a")
        new = look(folder.path)
        assert new.settings["train_list"] == "train.csv"
        assert new.assumed["train_list"] == "the list of training images; train_folds.csv would do, too"

    @pytest.mark.parametrize("file", ["labels.txt", "labels.tsv", "labels.csv.gz", "LABELS.CSV"])
    def test_endings(self, tmp_path: Path, file: str) -> None:
        folder = Folder(tmp_path)
        sep = "\t" if "t" in Path(file).suffix else ","
        folder.write(file, id=folder.imgs, label=folder.labels("a", "b"), sep=sep)
        (folder.path / "README.txt").write_text("Pictures, and labels.\n\nHave fun, all of you!\n")
        assert look(folder.path).settings["train_list"] == file

    @pytest.mark.parametrize("file", ["labels.xlsx", "train_annotations.json", "metadata.jsonl"])
    def test_lists_of_another_kind_are_named(self, tmp_path: Path, file: str) -> None:
        folder = Folder(tmp_path)
        (folder.path / file).write_text("{}")
        assert f"{file}: save it as CSV if it is the list" in refused(folder.path)
        assert f"{file}: save it as CSV" in refused(folder.path, train_list=file)

    def test_a_list_in_another_encoding_is_named(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        text = "id,label\n" + "".join(f"{img},café\n" for img in folder.imgs)
        (folder.path / "train.csv").write_text(text, encoding="latin-1")
        assert "train.csv: not a readable CSV file: 'utf-8' codec" in refused(folder.path)
        assert "save it in UTF-8" in refused(folder.path)

    @pytest.mark.parametrize("with_list", [True, False])
    def test_without_a_sample_images_in_no_list_are_predicted(self, tmp_path: Path, with_list: bool) -> None:
        folder = Folder(tmp_path, train="images", test="images")
        folder.write("train.csv", id=folder.imgs, label=folder.labels("a", "b"))
        if with_list:
            folder.write("test.csv", id=folder.tests, size=3)
        new = look(folder.path)
        assert sorted(new.competition.test["img"]) == sorted(folder.tests)
        assert "the 4 that the list does not name" in new.assumed["test_images"]
        assert not any(new.competition.unlisted.values())

    def test_a_column_that_says_the_part(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path, train="images", test="images")
        labels = [*folder.labels("a", "b"), "a", "a", "b", "b"]
        split = ["train"] * N + ["test"] * 4
        folder.write("list.csv", id=[*folder.imgs, *folder.tests], label=labels, split=split)
        assert "the list's column 'split' says which are for testing" in refused(folder.path)

    def test_a_list_of_a_sample_is_no_sample_submission(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.write("sample_labels.csv", id=folder.imgs, label=folder.labels("a", "b"))
        new = look(folder.path)
        assert new.settings["sample_submission"] is None
        assert new.settings["train_list"] == "sample_labels.csv"

    def test_rows_without_images(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.write("train.csv", id=[*folder.imgs, "gone"], label=[*folder.labels("a", "b"), "a"])
        assert "train/gone; fetch the data again, or leave the rows of images that nobody has out" in refused(
            folder.path
        )

    def test_one_answer_for_several_images(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path, img="{}_0.jpg")
        folder.write("train.csv", id=folder.imgs, label=folder.labels("a", "b"))
        tests = [name.removesuffix("_0.jpg") for name in folder.tests]
        folder.write("sample_submission.csv", patient_id=tests, a=0.5, b=0.5)
        assert f"(files such as test/{folder.tests[0]} begin with the name; one answer for" in refused(
            folder.path
        )
