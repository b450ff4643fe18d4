"""A folder in another layout is understood; if not, the message says which answer helps."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import new_competition
from distracted.config import load_data_config
from distracted.data.competition import load_competition
from distracted.data.folder_contents import FolderContents
from distracted.data.new_data import NewData, understand
from distracted.errors import ConfigError, DataError
from distracted.paths import CONFIGS
from imitated_layouts import PLANTS, SCENES, class_folders, flat_folder, patients, write_images

ROOT = CONFIGS.parent


def look(folder: Path, **answers: Any) -> NewData:
    """Understand a folder; double underscores stand for dots."""
    given = {key.replace("__", "."): value for key, value in answers.items()}
    return understand(FolderContents.of(folder), "new", given)


def write(folder: Path, file: str, **columns: Any) -> None:
    pd.DataFrame(columns).to_csv(folder / file, index=False)


def names(count: int, form: str = "{:03}.jpg") -> list[str]:
    return [form.format(number) for number in range(count)]


class TestPublicLayouts:
    def test_a_flat_folder_with_numbers_and_a_table_of_names(self, tmp_path: Path) -> None:
        new = look(flat_folder(tmp_path))
        assert new.settings == {
            "train_list": "train.csv",
            "train_images": "images",
            "test_images": "images",
            "sample_submission": "sample_submission.csv",
            "columns": {"img": "image_id", "label": "label", "group": None, "id": None},
            "subject_pattern": None,
            "label_pattern": None,
            "classes": {"0": "healthy", "1": "rust", "2": "scab"},
            "submission": "label",
            "metric": "accuracy",
        }
        assert set(new.assumed) == {"metric"}
        assert new.competition.classes == PLANTS and new.competition.submission.answers == ("0", "1", "2")
        assert (len(new.competition.train), len(new.competition.test)) == (36, 9)
        assert not any(new.competition.unlisted.values())

    def test_class_folders_without_a_list(self, tmp_path: Path) -> None:
        new = look(class_folders(tmp_path))
        assert (new.settings["train_list"], new.settings["sample_submission"]) == (None, None)
        assert (new.settings["train_images"], new.settings["test_images"]) == ("train", "test")
        assert new.competition.classes == SCENES
        assert new.competition.train["img"].iloc[0] == "forest/000.jpg"
        assert new.settings["metric"] == "log_loss" and new.settings["submission"] == "probabilities"

    def test_patients_and_pngs(self, tmp_path: Path) -> None:
        new = look(patients(tmp_path))
        columns = {"img": "image_id", "label": "diagnosis", "group": "patient_id", "id": "id"}
        assert new.settings["columns"] == columns
        assert (new.settings["submission"], new.settings["metric"]) == ("probability", "auc")
        assert new.settings["classes"] == ["normal", "pneumonia"]
        assert set(new.assumed) == {"metric", "columns.group"}
        assert "patient_id (8 values)" in new.assumed["columns.group"]
        assert new.competition.num_subjects == 8

    def test_what_is_found_is_a_config_that_loads(self, tmp_path: Path, capsys: Any) -> None:
        """By the command, in another folder of configs."""
        configs = tmp_path / "configs"
        shutil.copytree(CONFIGS, configs)
        for make, name in ((flat_folder, "plants"), (class_folders, "scenes"), (patients, "x rays & 数")):
            folder = make(tmp_path / name)
            new_competition.main(folder=str(folder), name=name.split()[0], configs=configs)
            config = load_data_config(name.split()[0], configs=configs, root=tmp_path)
            assert config.folder == folder
            assert len(load_competition(config).train) >= 36
        assert "assumed data.metric=auc: the score by which" in capsys.readouterr().err


class TestOtherLayouts:
    def test_images_train_and_test_and_one_hot_labels(self, tmp_path: Path) -> None:
        write_images(tmp_path / "images", [f"Train_{n}.jpg" for n in range(12)])
        write_images(tmp_path / "images", [f"Test_{n}.jpg" for n in range(4)])
        marks = {name: [int(n % 3 == k) for n in range(12)] for k, name in enumerate(("a", "b", "c"))}
        write(tmp_path, "train.csv", image_id=[f"Train_{n}" for n in range(12)], **marks)
        write(tmp_path, "test.csv", image_id=[f"Test_{n}" for n in range(4)], extra=range(4))
        header = dict.fromkeys(("a", "b", "c"), 0.25)
        write(tmp_path, "sample_submission.csv", image_id=[f"Test_{n}" for n in range(4)], **header)
        new = look(tmp_path)
        assert new.settings["train_list"] == "train.csv"
        assert new.settings["columns"]["label"] == ["a", "b", "c"]
        assert new.competition.train["classname"].value_counts().to_dict() == {"a": 4, "b": 4, "c": 4}

    def test_train_and_valid_are_split_already(self, tmp_path: Path) -> None:
        for part, count in (("train", 6), ("val", 3), ("test", 4)):
            for name in ("cat", "dog"):
                write_images(tmp_path / "data" / part / name, names(count))
        new = look(tmp_path)
        assert new.settings["train_images"] == ["data/train", "data/val"]
        assert new.competition.classes == ("cat", "dog")
        assert (len(new.competition.train), len(new.competition.test)) == (18, 8)
        assert new.competition.test["img"].iloc[0] == "cat/000.jpg"

    def test_a_folder_within_a_folder_of_the_same_name(self, tmp_path: Path) -> None:
        for name in ("sea", "street"):
            write_images(tmp_path / "seg_train/seg_train" / name, names(4, f"{name}{{}}.jpg"))
        write_images(tmp_path / "seg_test/seg_test", names(3, "{}.jpg"))
        new = look(tmp_path)
        assert new.settings["train_images"] == "seg_train/seg_train"
        assert new.competition.classes == ("sea", "street")

    def test_subjects_in_file_names(self, tmp_path: Path) -> None:
        for number, name in enumerate(("benign", "malignant")):
            write_images(tmp_path / "train" / name, [f"patient{n}_{number}.png" for n in range(5)])
        write_images(tmp_path / "test", names(3))
        new = look(tmp_path)
        assert new.competition.num_subjects == 5
        assert "subject_pattern" in new.assumed

    def test_the_widest_of_several_subjects(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", names(12))
        write_images(tmp_path / "test", names(2))
        write(
            tmp_path,
            "metadata.csv",
            lesion_id=[f"L{n // 2}" for n in range(12)],
            isic_id=names(12, "{:03}"),
            PatientID=[f"P{n // 3}" for n in range(12)],
            dx=["nv", "mel"] * 6,
        )
        new = look(tmp_path)
        assert new.settings["columns"] | {"id": None} == {
            "img": "isic_id",
            "label": "dx",
            "group": "PatientID",
            "id": None,
        }
        both = look(tmp_path, columns__group=["PatientID", "lesion_id"])
        assert both.competition.num_subjects == 2  # lesions L1 and L4 are of two patients each

    def test_numbers_of_anything_are_no_names_of_images(self, tmp_path: Path) -> None:
        """An age or a fold is also the name of some file."""
        write_images(tmp_path / "train", names(40, "{}.png"))
        write_images(tmp_path / "test", names(2))
        ids, ages = list(range(40)), [20 + n % 10 for n in range(40)]
        write(
            tmp_path,
            "train.csv",
            age=ages,
            id=ids,
            label=[n % 2 for n in range(40)],
            fold=[n % 5 for n in ids],
        )
        assert look(tmp_path).settings["columns"]["img"] == "id"

    def test_which_class_a_probability_means_is_asked(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", names(8))
        write_images(tmp_path / "test", names(2))
        write(tmp_path, "train.csv", id=names(8), label=["cat", "dog"] * 4)
        write(tmp_path, "sample_submission.csv", id=names(2), label=0.5)
        new = look(tmp_path)
        assert new.settings["classes"] == ["cat", "dog"] and "classes" in new.assumed
        assert look(tmp_path, classes=["dog", "cat"]).competition.classes == ("dog", "cat")

    @pytest.mark.parametrize(("metric", "kind"), [("auc", "probability"), ("accuracy", "label")])
    def test_one_column_of_zeros_and_ones_follows_the_metric(
        self, tmp_path: Path, metric: str, kind: str
    ) -> None:
        write_images(tmp_path / "train", names(8))
        write_images(tmp_path / "test", names(2))
        write(tmp_path, "train.csv", id=names(8), target=["0", "1"] * 4)
        write(tmp_path, "sample_submission.csv", id=names(2), target=0)
        new = look(tmp_path, metric=metric)
        assert new.settings["submission"] == kind and "submission" in new.assumed
        assert new.competition.classes == ("0", "1")

    def test_images_without_a_row_are_counted(self, tmp_path: Path) -> None:
        folder = flat_folder(tmp_path)
        write_images(folder / "images", names(5, "more{}.jpg"))
        assert sum(map(len, look(folder).competition.unlisted.values())) == 5

    def test_images_in_two_folders(self, tmp_path: Path) -> None:
        write_images(tmp_path / "part_1", names(6, "A{}.jpg"))
        write_images(tmp_path / "part_2", names(6, "B{}.jpg"))
        write_images(tmp_path / "test", names(2))
        write(tmp_path, "meta.csv", image=[*names(6, "A{}"), *names(6, "B{}")], dx=["x", "y", "z"] * 4)
        new = look(tmp_path)
        assert new.settings["train_images"] == ["part_1", "part_2"]
        assert len(new.competition.train) == 12


class TestWhatHelps:
    def check(self, folder: Path, message: str, **answers: Any) -> None:
        with pytest.raises((DataError, ConfigError)) as info:
            look(folder, **answers)
        assert message in str(info.value) and "\n" not in str(info.value)

    def test_no_images(self, tmp_path: Path) -> None:
        self.check(tmp_path / "nowhere", "no such folder")
        (tmp_path / "train.zip").write_bytes(b"PK")
        self.check(tmp_path, "but 1 .zip; unpack archives")

    def test_no_test_images(self, tmp_path: Path) -> None:
        class_folders(tmp_path)
        shutil.rmtree(tmp_path / "test")
        self.check(tmp_path, 'SET="data.test_images=<folder>" says which to predict')

    def test_no_classes(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", names(4))
        write_images(tmp_path / "test", names(4))
        self.check(tmp_path, 'SET="data.train_list=<file> data.columns.img=<column>')

    def test_no_column_that_is_clearly_the_label(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", names(12))
        write_images(tmp_path / "test", names(4))
        write(tmp_path, "train.csv", image=names(12), colour=["r", "g"] * 6, shape=["x", "y", "z"] * 4)
        self.check(tmp_path, "which column of the list holds the classes? colour, shape; ")
        assert look(tmp_path, columns__label="shape").competition.classes == ("x", "y", "z")

    def test_answers_that_do_not_fit(self, tmp_path: Path) -> None:
        flat_folder(tmp_path)
        self.check(tmp_path, "data.metrik is not asked for here; expected one of data.classes", metrik="auc")
        self.check(tmp_path, "data.metric: input should be 'log_loss', 'accuracy'", metric="logloss")
        self.check(tmp_path, "the list has image_id, label", columns__label="target")
        self.check(tmp_path, "train2.csv: not a list with rows and columns", train_list="train2.csv")

    def test_a_damaged_list_is_left_out(self, tmp_path: Path) -> None:
        flat_folder(tmp_path)
        (tmp_path / "notes.csv").write_bytes(b'a,"b\n')
        assert look(tmp_path).settings["train_list"] == "train.csv"


class TestCommand:
    @pytest.fixture
    def configs(self, tmp_path: Path) -> Path:
        return shutil.copytree(CONFIGS, tmp_path / "configs")

    def test_nothing_is_overwritten(self, tmp_path: Path, configs: Path) -> None:
        folder = str(flat_folder(tmp_path / "plants"))
        path = configs / "data/plants.yaml"
        new_competition.main(folder=folder, configs=configs)
        path.write_text(edited := path.read_text() + "# mine\n")
        with pytest.raises(ConfigError, match=r"plants\.yaml: is there already; FORCE=1 replaces it"):
            new_competition.main(folder=folder, configs=configs)
        assert path.read_text() == edited
        new_competition.main(folder=folder, configs=configs, force=True, set="data.metric=macro_f1")
        assert yaml.safe_load(path.read_text())["data"]["metric"] == "macro_f1"

    def test_a_folder_that_is_not_understood_writes_nothing(self, tmp_path: Path, configs: Path) -> None:
        before = sorted(configs.rglob("*"))
        write_images(tmp_path / "odd/train", names(3))
        with pytest.raises(DataError):
            new_competition.main(folder=str(tmp_path / "odd"), configs=configs)
        with pytest.raises(ConfigError, match="FOLDER= is missing"):
            new_competition.main(folder=" ", configs=configs)
        assert sorted(configs.rglob("*")) == before

    @pytest.mark.parametrize("item", ["metric=auc", "data.metric", "training.seed=1"])
    def test_answers_are_keys_of_the_data_section(self, item: str) -> None:
        with pytest.raises(ConfigError, match=r"SET: expected data\.<key>=<value>"):
            new_competition.parse_answers(item)

    def test_answers_of_all_kinds(self) -> None:
        text = (
            r"data.columns.group=null data.classes='{0: a b, 1: c}' data.columns.label=[x, y] data.kaggle=it"
        )
        assert new_competition.parse_answers(text) == {
            "columns.group": None,
            "classes": {0: "a b", 1: "c"},
            "columns.label": ["x", "y"],
            "kaggle": "it",
        }

    def test_words_that_yaml_reads_otherwise_survive(self, tmp_path: Path, configs: Path) -> None:
        folder = tmp_path / "odd"
        write_images(folder / "train", names(8))
        write_images(folder / "test", names(2))
        write(folder, "train.csv", id=names(8), label=["no", "yes"] * 4)
        write(folder, "sample_submission.csv", id=names(2), label=0.5)
        new_competition.main(folder=str(folder), name="odd", configs=configs)
        config = load_data_config("odd", configs=configs, root=tmp_path)
        assert load_competition(config).classes == ("no", "yes")

    @pytest.mark.slow
    @pytest.mark.parametrize("typed", ["auc\n", "\n"])
    def test_questions_are_asked_on_a_terminal_only(self, tmp_path: Path, configs: Path, typed: str) -> None:
        folder = flat_folder(tmp_path / "plants")
        command = [sys.executable, str(ROOT / "scripts/new_competition.py"), "--folder", str(folder)]
        command += ["--configs", str(configs)]
        parent, child = pty.openpty()
        process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child)
        os.close(child)
        os.write(parent, typed.encode())
        output = io.BytesIO()
        try:
            while block := os.read(parent, 4096):
                output.write(block)
        except OSError:  # the terminal is closed when the process ends
            pass
        os.close(parent)
        assert process.wait() == 0, output.getvalue().decode()
        text = " ".join(output.getvalue().decode().split())
        assert "metric: the score by which the competition ranks" in text and "[accuracy]" in text
        written = yaml.safe_load((configs / "data/plants.yaml").read_text())["data"]
        assert written["metric"] == (typed.strip() or "accuracy")
        assert "assumed" not in text


def test_the_names_of_classes_may_be_in_a_table_or_a_json_file(tmp_path: Path) -> None:
    labels = ["0", "1", "2"]

    def found(write_names: Callable[[Path], object]) -> dict[str, str]:
        folder = flat_folder(tmp_path / str(len(list(tmp_path.iterdir()))))
        (folder / "label_num_to_disease_map.json").unlink()
        write_names(folder)
        return FolderContents.of(folder).class_names(labels, ["train.csv", "sample_submission.csv"])

    expected = dict(zip(labels, ("ash", "elm", "oak"), strict=True))
    given = list(expected.values())
    assert found(lambda folder: write(folder, "classes.csv", id=[0, 1, 2], name=given)) == expected
    assert found(lambda folder: write(folder, "c.csv", name=[*given, "x"], n=[0, 1, 2, 3])) == expected
    to_number = json.dumps({name: int(label) for label, name in expected.items()})
    assert found(lambda folder: (folder / "map.json").write_text(to_number)) == expected
    assert found(lambda folder: (folder / "map.json").write_text("[1]")) == {}
    assert found(lambda folder: write(folder, "sizes.csv", id=[0, 1, 2], size=[4, 5, 6])) == {}
