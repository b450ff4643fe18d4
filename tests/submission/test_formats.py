"""Submissions in the form that the sample shows: probabilities, one probability, or labels."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from distracted.config import load_data_config
from distracted.data.folds import read_folds
from distracted.errors import DataError, StoreError, SubmissionError
from distracted.paths import Workspace
from distracted.predictions.store import Store, open_store
from distracted.schema import DataConfig
from distracted.submission.doctor import check_submission
from distracted.submission.submit import write_submission

SAMPLE = "sample_submission.csv"


@dataclass
class Project:
    """The tiny competition with other settings and another sample submission."""

    folder: Path
    workspace: Workspace

    def config(self, **settings: Any) -> DataConfig:
        plain = load_data_config(str(self.folder))
        columns = {**plain.columns.model_dump(), **settings.pop("columns", {})}
        return DataConfig.model_validate(
            {**plain.model_dump(), "folder": self.folder, **settings, "columns": columns}
        )

    def open(self, **settings: Any) -> Store:
        return open_store(self.workspace, self.config(**settings), num_folds=3)

    def sample(self, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        path = self.folder / SAMPLE
        change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)

    def relabel(self, names: dict[str, str]) -> None:
        path = self.folder / "driver_imgs_list.csv"
        table = pd.read_csv(path, dtype=str)
        table.assign(classname=table["classname"].map(names)).to_csv(path, index=False)


@pytest.fixture
def project(folder: Path, workspace: Workspace) -> Project:
    return Project(folder, workspace)


def predict(store: Store) -> np.ndarray:
    """A run `a` of random predictions; returns its test probabilities, the mean over folds."""
    rng, tests = np.random.default_rng(0), []
    for fold in range(store.folds.num_folds):
        sizes = len(store.folds.valid(fold)), len(store.competition.test)
        valid, test = (np.log(rng.dirichlet(np.ones(store.competition.num_classes), size)) for size in sizes)
        facts: dict[str, Any] = {"kind": "model", "config": {"run": "a"}, "scores": {"valid/log_loss": 1.0}}
        store.write_fold("a", fold, valid=valid, test=test, **facts)
        tests.append(np.exp(test.astype(np.float32)))
    return np.mean(tests, axis=0)


def answers(store: Store) -> pd.DataFrame:
    return pd.read_csv(write_submission(store, name="a").path, dtype=str)


def test_labels_as_the_training_list_has_them(project: Project) -> None:
    project.sample(lambda t: t[["img"]].assign(label="c0"))
    store = project.open(submission="label")
    probs = predict(store)
    table = answers(store)
    assert list(table.columns) == ["img", "label"]
    assert table["label"].tolist() == [store.competition.classes[k] for k in probs.argmax(axis=1)]
    assert table["img"].tolist() == pd.read_csv(project.folder / SAMPLE)["img"].tolist()


@pytest.mark.parametrize(("shown", "by_name"), [("1", False), ("car", True), ("2", False)])
def test_numbers_or_names_as_the_sample_shows(project: Project, shown: str, by_name: bool) -> None:
    project.relabel({"c0": "0", "c1": "1", "c2": "2"})
    project.sample(lambda t: t[["img"]].assign(target=shown))
    names = {"0": "bus", "1": "car", "2": "van"}
    store = project.open(submission="label", classes=names)
    probs = predict(store)
    table = answers(store)
    numbers = probs.argmax(axis=1).astype(str)
    assert table["target"].tolist() == [names[number] if by_name else number for number in numbers]


def test_the_images_may_be_the_second_column(project: Project) -> None:
    project.relabel({"c0": "cbb", "c1": "cmd", "c2": "cmd"})
    for kind, column in (("label", "Category"), ("probability", "p")):
        project.sample(
            lambda t, column=column: pd.DataFrame({column: "0.5", "Id": t[t.columns[-1 if "Id" in t else 0]]})
        )
        store = project.open(submission=kind, columns={"id": "Id"})
        probs = predict(store)
        table = answers(store)
        assert list(table.columns) == [column, "Id"]
        assert table["Id"].tolist() == store.competition.test["img"].tolist()
        if kind == "label":
            assert table[column].tolist() == np.array(["cbb", "cmd"])[probs.argmax(axis=1)].tolist()
        else:
            np.testing.assert_allclose(table[column].astype(float), probs[:, 1], rtol=1e-5)
        shutil.rmtree(project.workspace.root)


def test_a_placeholder_in_the_sample_is_said(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    project.sample(lambda t: t[["img"]].assign(label="-1"))
    store = project.open(submission="label")
    predict(store)
    assert set(answers(store)["label"]) <= {"c0", "c1", "c2"}
    assert "sample_submission.csv shows '-1', which is no class" in caplog.text


def test_the_probability_of_the_second_of_two_classes(project: Project) -> None:
    project.relabel({"c0": "healthy", "c1": "ill", "c2": "ill"})
    project.sample(lambda t: t[["img"]].assign(p="0.5"))
    for classes, column in ((None, 1), (["ill", "healthy"], 1)):
        store = project.open(submission="probability", classes=classes)
        assert store.competition.classes == (tuple(classes) if classes else ("healthy", "ill"))
        probs = predict(store)
        np.testing.assert_allclose(answers(store)["p"].astype(float), probs[:, column], rtol=1e-5)
        shutil.rmtree(project.workspace.root)


def test_one_probability_for_three_classes_is_an_error(project: Project) -> None:
    project.sample(lambda t: t[["img"]].assign(p="0.5"))
    with pytest.raises(DataError, match=r"of the last of two classes, and there are 3 \(c0, c1, c2\)"):
        project.open(submission="probability")


def test_names_of_columns_and_images_are_the_samples(project: Project) -> None:
    project.sample(lambda t: t.assign(img=t["img"].str.removesuffix(".jpg")).rename(columns={"img": "Id"}))
    with pytest.raises(DataError, match=r"set data\.columns\.id in configs/data/ if 'Id' is its column"):
        project.open()
    store = project.open(columns={"id": "Id"})
    predict(store)
    table = answers(store)
    assert list(table.columns) == ["Id", "c0", "c1", "c2"]
    assert table["Id"].tolist() == pd.read_csv(project.folder / SAMPLE)["Id"].tolist()


def test_without_a_sample_all_test_images_are_answered(project: Project) -> None:
    (project.folder / SAMPLE).unlink()
    for kind, columns in (("probabilities", ["img", "c0", "c1", "c2"]), ("label", ["img", "label"])):
        store = project.open(sample_submission=None, submission=kind)
        if kind == "probabilities":
            predict(store)
        table = answers(store)
        assert list(table.columns) == columns
        assert sorted(table["img"]) == sorted(path.name for path in (project.folder / "imgs/test").iterdir())


def test_the_default_form_says_how_to_ask_for_another(project: Project) -> None:
    project.sample(lambda t: t[["img"]].assign(label="c0"))
    with pytest.raises(DataError, match=r"or set data\.submission in configs/data/: label, or probability"):
        project.open()
    project.sample(lambda t: t.assign(c0="1", c1="0"))
    with pytest.raises(DataError, match=r"or set data\.submission: probabilities in configs/data/"):
        project.open(submission="label")


def test_on_a_machine_without_the_data_the_form_is_the_same(project: Project) -> None:
    project.relabel({"c0": "0", "c1": "1", "c2": "2"})
    project.sample(lambda t: t[["img"]].rename(columns={"img": "Id"}).assign(Kind="car"))
    settings = {"submission": "label", "classes": {0: "bus", 1: "car", 2: "van"}, "columns": {"id": "Id"}}
    store = project.open(**settings)
    predict(store)
    here = write_submission(store, name="a").path.read_bytes()
    config = project.config(**settings)
    shutil.rmtree(project.folder)
    away = open_store(project.workspace, config, images=False)
    assert not away.competition.has_images
    assert away.competition.submission == store.competition.submission
    assert write_submission(away, name="a", force=True).path.read_bytes() == here
    with pytest.raises(StoreError, match=r"made with data\.submission: label, and it is probabilities now"):
        open_store(project.workspace, config.model_copy(update={"submission": "probabilities"}), images=False)


def test_the_stored_form_follows_the_settings(project: Project) -> None:
    """The index is written again if the form has changed, and is the same file if it has not."""
    project.open()
    path = project.workspace.index("tiny")
    before = path.stat().st_mtime_ns, path.read_bytes()
    project.open()
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    project.sample(lambda t: t[["img"]].assign(label="c0"))
    project.open(submission="label")
    config = project.config(submission="label")
    shutil.rmtree(project.folder)
    away = open_store(project.workspace, config, images=False)
    assert away.competition.submission.answers == ("c0", "c1", "c2")


def test_another_form_is_another_submission(project: Project) -> None:
    project.sample(lambda t: t[["img"]].assign(x="0"))
    project.relabel({"c0": "0", "c1": "1", "c2": "1"})
    store = project.open(submission="label")
    predict(store)
    first = write_submission(store, name="a")
    assert json.loads(first.provenance.read_text())["submission"]["kind"] == "label"
    assert not write_submission(store, name="a").is_new
    assert write_submission(project.open(submission="probability"), name="a").is_new


FAULTS = {
    "label": [("c9", "has a class that is none of c0, c1, c2"), ("", "has a class that is none of")],
    "probability": [
        ("1.5", "has a value outside [0, 1]"),
        ("c0", "has a value that is not a finite number"),
        ("nan", "has a value that is not a finite number"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "value", "fault"), [(kind, *one) for kind, ones in FAULTS.items() for one in ones]
)
def test_the_doctor_names_the_row_and_image(project: Project, kind: str, value: str, fault: str) -> None:
    good = {"label": "c1", "probability": "0.25"}[kind]
    if kind == "probability":
        project.relabel({"c0": "c0", "c1": "c1", "c2": "c1"})
    project.sample(lambda t: t[["img"]].assign(x=good))
    form = project.open(submission=kind).competition.submission
    sample, path = project.folder / SAMPLE, project.folder / "mine.csv"
    table = pd.read_csv(sample, dtype=str)
    table.iloc[::-1].to_csv(path, index=False)
    check_submission(path, sample, form=form)
    table.assign(x=[good, good, value, *[good] * (len(table) - 3)]).to_csv(path, index=False)
    with pytest.raises(SubmissionError) as info:
        check_submission(path, sample, form=form)
    assert f"mine.csv, row 4: image {table['img'].iloc[2]} {fault}" in str(info.value)
    for change in (lambda t: t.rename(columns={"x": "y"}), lambda t: t.iloc[1:]):
        change(table).to_csv(path, index=False)
        with pytest.raises(SubmissionError):
            check_submission(path, sample, form=form)


def test_folds_of_numbers_that_begin_with_a_zero(project: Project) -> None:
    """Names, subjects and labels stay text through folds.csv."""
    project.relabel({"c0": "00", "c1": "01", "c2": "02"})
    project.sample(lambda t: t[["img"]].assign(label="01"))
    store = project.open(submission="label")
    predict(store)
    assert set(answers(store)["label"]) <= {"00", "01", "02"}
    assert read_folds(project.workspace.folds("tiny"), store.competition).num_folds == 3
