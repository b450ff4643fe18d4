"""Consistent data is indexed, and errors name the file, row or image."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from distracted.config import load_data_config
from distracted.data.competition import Competition, load_competition
from distracted.errors import DataError
from distracted.schema import DataConfig

TRAIN, SAMPLE = "driver_imgs_list.csv", "sample_submission.csv"


@cache
def any_folder() -> DataConfig:
    return load_data_config("/nowhere/tiny")


def load(folder: Path) -> Competition:
    return load_competition(any_folder().model_copy(update={"folder": folder, "name": folder.name}))


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)


def rename(config: DataConfig, **columns: str | None) -> DataConfig:
    return config.model_copy(update={"columns": config.columns.model_copy(update=columns)})


@pytest.fixture
def first(folder: Path) -> dict[str, str]:
    """The first row of the training list."""
    return pd.read_csv(folder / TRAIN, dtype=str).iloc[0].to_dict()


@pytest.fixture
def first_path(folder: Path, first: dict[str, str]) -> Path:
    return folder / "imgs/train" / first["classname"] / first["img"]


class TestIndex:
    def test_the_tables_hold_what_the_lists_say(self, folder: Path, competition: Competition) -> None:
        listed = pd.read_csv(folder / TRAIN).set_index("img")
        train = competition.train
        assert list(train.columns) == ["img", "subject", "classname", "label", "content"]
        assert train["img"].is_monotonic_increasing
        assert set(train["img"]) == set(listed.index)
        for row in train.itertuples():
            assert (row.subject, row.classname) == tuple(listed.loc[row.img, ["subject", "classname"]])
            assert competition.classes[row.label] == row.classname
        assert (competition.num_classes, competition.num_subjects, competition.name) == (3, 6, "tiny")
        assert train["content"].nunique() == len(train)

    def test_test_images_and_classes_are_in_the_submissions_order(self, folder: Path) -> None:
        edit(folder / SAMPLE, lambda t: t.iloc[::-1][["img", "c2", "c0", "c1"]])
        competition = load(folder)
        assert competition.classes == ("c2", "c0", "c1")
        assert competition.test["img"].tolist() == pd.read_csv(folder / SAMPLE)["img"].tolist()
        label = competition.train.groupby("classname")["label"].unique()
        assert {name: ids.tolist() for name, ids in label.items()} == {"c2": [0], "c0": [1], "c1": [2]}

    def test_paths_are_in_the_order_of_the_rows(self, competition: Competition) -> None:
        paths = competition.train_paths() + competition.test_paths()
        assert [path.name for path in paths] == [*competition.train["img"], *competition.test["img"]]
        assert all(path.is_file() for path in paths)

    def test_names_that_look_like_numbers_stay_text(self, folder: Path, first_path: Path) -> None:
        first_path.rename(first_path.with_name("0012"))
        edit(folder / TRAIN, lambda t: t.replace(first_path.name, "0012").replace("p000", "007"))
        competition = load(folder)
        assert "0012" in set(competition.train["img"])
        assert "007" in set(competition.train["subject"])

    def test_na_is_read_as_text(self, folder: Path) -> None:
        edit(folder / TRAIN, lambda t: t.replace("p000", "NA"))
        assert "NA" in set(load(folder).train["subject"])

    @pytest.mark.parametrize("encode", [lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r\n")])
    def test_a_list_saved_on_windows(self, folder: Path, encode: Callable[[bytes], bytes]) -> None:
        """With a byte order mark, or with CRLF line endings."""
        expected = load(folder).index_hash
        (folder / TRAIN).write_bytes(encode((folder / TRAIN).read_bytes()))
        assert load(folder).index_hash == expected

    def test_files_that_are_not_listed_are_ignored(self, folder: Path, first_path: Path) -> None:
        expected = load(folder).index_hash
        shutil.copy(first_path, first_path.with_name("more.jpg"))
        assert load(folder).index_hash == expected


class TestColumns:
    def test_columns_can_be_renamed_in_the_config(self, folder: Path, data: DataConfig) -> None:
        expected = load_competition(data)
        names = {"img": "file", "classname": "kind", "subject": "person"}
        edit(folder / TRAIN, lambda t: t.rename(columns=names))
        edit(folder / SAMPLE, lambda t: t.rename(columns={"img": "file"}))
        competition = load_competition(rename(data, img="file", label="kind", group="person"))
        pd.testing.assert_frame_equal(competition.train, expected.train)
        assert competition.index_hash == expected.index_hash

    def test_without_subjects_each_image_is_its_own_subject(self, folder: Path, data: DataConfig) -> None:
        edit(folder / TRAIN, lambda t: t.drop(columns="subject"))
        competition = load_competition(rename(data, group=None))
        assert (competition.train["subject"] == competition.train["img"]).all()
        assert competition.num_subjects == len(competition.train)

    def test_a_missing_group_column_is_an_error(self, folder: Path) -> None:
        edit(folder / TRAIN, lambda t: t.drop(columns="subject"))
        with pytest.raises(DataError, match=r"expected the column 'subject'.*group: null"):
            load(folder)

    def test_files_and_folders_can_be_renamed_in_the_config(self, folder: Path, data: DataConfig) -> None:
        expected = load_competition(data).index_hash
        (folder / TRAIN).rename(folder / "train.csv")
        (folder / "imgs/train").rename(folder / "photos")
        config = data.model_copy(update={"train_list": "train.csv", "train_images": "photos"})
        assert load_competition(config).index_hash == expected


class TestHash:
    def test_the_folder_does_not_matter(self, folder: Path, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "copy/tiny")
        assert load(tmp_path / "copy/tiny").index_hash == load(folder).index_hash

    def test_the_order_of_the_list_does_not_matter(self, folder: Path) -> None:
        expected = load(folder).index_hash
        edit(folder / TRAIN, lambda t: t.sample(frac=1, random_state=0))
        edit(folder / TRAIN, lambda t: t[["img", "subject", "classname"]])
        assert load(folder).index_hash == expected

    def test_the_hash_depends_on_a_training_images_content(self, folder: Path, first_path: Path) -> None:
        expected = load(folder).index_hash
        first_path.write_bytes(first_path.read_bytes() + b"\0")
        assert load(folder).index_hash != expected

    def test_the_hash_depends_on_a_test_images_content(self, folder: Path) -> None:
        expected = load(folder).index_hash
        path = next((folder / "imgs/test").iterdir())
        path.write_bytes(path.read_bytes() + b"\0")
        assert load(folder).index_hash != expected

    def test_the_hash_depends_on_a_label(self, folder: Path, first: dict[str, str], first_path: Path) -> None:
        expected = load(folder).index_hash
        other = "c1" if first["classname"] == "c0" else "c0"
        first_path.rename(folder / "imgs/train" / other / first["img"])
        edit(folder / TRAIN, lambda t: t.assign(classname=[other, *t["classname"][1:]]))
        assert load(folder).index_hash != expected

    def test_the_hash_depends_on_a_subject(self, folder: Path) -> None:
        expected = load(folder).index_hash
        edit(folder / TRAIN, lambda t: t.assign(subject=["p005", *t["subject"][1:]]))
        assert load(folder).index_hash != expected

    def test_the_hash_depends_on_the_order_of_test_images_and_classes(self, folder: Path) -> None:
        """Predictions are stored in this order."""
        hashes = {load(folder).index_hash}
        edit(folder / SAMPLE, lambda t: t.iloc[::-1])
        hashes.add(load(folder).index_hash)
        edit(folder / SAMPLE, lambda t: t[["img", "c1", "c0", "c2"]])
        hashes.add(load(folder).index_hash)
        assert len(hashes) == 3


class TestErrors:
    """`{folder}`, `{train}` and `{sample}` in the messages stand for paths."""

    def check(self, folder: Path, message: str) -> None:
        with pytest.raises(DataError) as info:
            load(folder)
        expected = message.format(folder=folder, train=folder / TRAIN, sample=folder / SAMPLE)
        assert expected in str(info.value)
        assert "\n" not in str(info.value)

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        self.check(tmp_path / "nowhere", "{folder}: no such folder; DATA= takes a folder")

    @pytest.mark.parametrize(
        ("name", "remedy"), [("sample", "`make sample` renders it"), ("state_farm", "`make data`")]
    )
    def test_a_missing_folder_of_a_known_name(self, tmp_path: Path, name: str, remedy: str) -> None:
        with pytest.raises(DataError, match=rf"input/{name}: no such folder; .*{remedy}"):
            load_competition(load_data_config(name, root=tmp_path))

    @pytest.mark.parametrize("name", [TRAIN, SAMPLE])
    def test_a_missing_list(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        self.check(folder, f"{folder / name}: no such file; is this a competition's folder?")

    @pytest.mark.parametrize("name", [TRAIN, SAMPLE])
    @pytest.mark.parametrize(
        "content", [b"", b'a,"b\n', "subject,classname,img".encode("utf-16"), b"a,b\n1,2\n1,2,3,4\n"]
    )
    def test_a_list_that_is_no_csv(self, folder: Path, name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        self.check(folder, f"{folder / name}: not a readable CSV file: ")

    @pytest.mark.parametrize("name", [TRAIN, SAMPLE])
    def test_a_list_that_is_a_folder(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()
        self.check(folder, f"{folder / name}: not a readable CSV file: ")

    @pytest.mark.parametrize("name", [TRAIN, SAMPLE])
    def test_an_empty_list(self, folder: Path, name: str) -> None:
        edit(folder / name, lambda t: t.iloc[:0])
        kind = "training" if name == TRAIN else "test"
        self.check(folder, f"{folder / name}: no {kind} images listed")

    @pytest.mark.parametrize("column", ["img", "classname", "subject"])
    def test_a_renamed_column(self, folder: Path, column: str) -> None:
        edit(folder / TRAIN, lambda t: t.rename(columns={column: "x"}))
        got = ", ".join("x" if name == column else name for name in ("subject", "classname", "img"))
        self.check(folder, f"{{train}}: expected the column '{column}', got {got}; rename it in the file")

    @pytest.mark.parametrize(
        ("columns", "got"),
        [(["image", "c0", "c1", "c2"], "image, c0, c1, c2"), (["c0", "img", "c1", "c2"], "c0, img, c1, c2")],
    )
    def test_a_sample_submission_with_other_columns(self, folder: Path, columns: list[str], got: str) -> None:
        edit(folder / SAMPLE, lambda t: t.set_axis(columns, axis=1))
        expected = "{sample}: expected the columns 'img' and one for each of two classes or more, got "
        self.check(folder, expected + got)

    def test_a_sample_submission_with_one_class(self, folder: Path) -> None:
        edit(folder / SAMPLE, lambda t: t[["img", "c0"]])
        expected = "{sample}: expected the columns 'img' and one for each of two classes or more, got img, c0"
        self.check(folder, expected)

    def test_a_class_without_a_column(self, folder: Path) -> None:
        edit(folder / SAMPLE, lambda t: t[["img", "c0", "c2"]])
        row = pd.read_csv(folder / TRAIN)["classname"].eq("c1").idxmax() + 2
        self.check(folder, f"{{train}}, row {row}: class 'c1' is not in {SAMPLE}, which has c0, c2")

    def test_a_column_without_a_class(self, folder: Path) -> None:
        edit(folder / SAMPLE, lambda t: t.assign(c3="0"))
        self.check(folder, f"{{train}}: no training image of class 'c3', which {SAMPLE} asks for")

    def test_an_image_listed_twice(self, folder: Path, first: dict[str, str]) -> None:
        edit(folder / TRAIN, lambda t: pd.concat([t, t.iloc[:1]]))
        rows = f"(rows 2, {len(pd.read_csv(folder / TRAIN)) + 1})"
        self.check(folder, f"{{train}}: image '{first['img']}' is listed more than once {rows}; keep one")

    def test_a_test_image_listed_twice(self, folder: Path) -> None:
        edit(folder / SAMPLE, lambda t: pd.concat([t.iloc[:3], t.iloc[2:]]))
        self.check(folder, "is listed more than once (rows 4, 5)")

    @pytest.mark.parametrize(
        ("column", "name"),
        [("img", name) for name in ("../x.jpg", "/etc/passwd", "a/../b.jpg", "..", ".", "c:\\x", "..\\x.jpg")]
        + [("classname", "../c0"), ("subject", "..")],
    )
    def test_a_name_that_leads_out_of_the_folder(self, folder: Path, name: str, column: str) -> None:
        edit(folder / TRAIN, lambda t: t.assign(**{column: [*t[column][:2], name, *t[column][3:]]}))
        self.check(folder, f"{{train}}, row 4: column '{column}': {name!r} leads out of the folder; expected")

    def test_a_test_image_that_leads_out_of_the_folder(self, folder: Path) -> None:
        edit(folder / SAMPLE, lambda t: t.assign(img=["../x.jpg", *t["img"][1:]]))
        self.check(folder, "{sample}, row 2: column 'img': '../x.jpg' leads out of the folder")

    @pytest.mark.parametrize("value", ["", " ", " img_1.jpg", "img_1.jpg "])
    def test_a_name_that_is_empty_or_padded(self, folder: Path, value: str) -> None:
        edit(folder / TRAIN, lambda t: t.assign(img=[value, *t["img"][1:]]))
        self.check(folder, "{train}, row 2: column 'img' is empty or padded with spaces")

    def test_a_name_that_is_too_long_for_a_file(self, folder: Path) -> None:
        edit(folder / TRAIN, lambda t: t.assign(img=["ä" * 200, *t["img"][1:]]))
        self.check(folder, "{train}, row 2: column 'img': a name of 400 bytes")

    def test_a_missing_image(self, folder: Path, first: dict[str, str], first_path: Path) -> None:
        first_path.unlink()
        listed = f"imgs/train/{first['classname']}/{first['img']}"
        self.check(folder, f"{{folder}}: listed but not on disk: {listed}; fetch the data again")

    @pytest.mark.parametrize("name", ["a/b.jpg", "a\\b.jpg"])
    def test_a_path_that_is_not_on_disk(self, folder: Path, name: str) -> None:
        edit(folder / TRAIN, lambda t: t.assign(img=[name, *t["img"][1:]]))
        self.check(folder, "{folder}: listed but not on disk: imgs/train/c0/a")

    def test_many_missing_images_are_counted(self, folder: Path) -> None:
        shutil.rmtree(folder / "imgs/test")
        self.check(folder, " and 2 more; fetch the data again")

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda data: data[:-200], "the image is truncated"),
            (lambda data: b"Not Found\n", "not an image (it starts with b'Not Foun')"),
            (lambda data: b"", "the file is empty (zero bytes)"),
        ],
    )
    def test_a_damaged_image(
        self, folder: Path, first_path: Path, damage: Callable[[bytes], bytes], message: str
    ) -> None:
        first_path.write_bytes(damage(first_path.read_bytes()))
        self.check(folder, f"{first_path}: {message}")

    def test_many_damaged_images_are_counted(self, folder: Path) -> None:
        for path in (folder / "imgs/test").iterdir():
            path.write_bytes(b"")
        with pytest.raises(DataError) as info:
            load(folder)
        lines = str(info.value).splitlines()
        assert len(lines) == 6
        assert all("zero bytes" in line for line in lines[:5])
        assert lines[-1] == "... and 2 more"
