"""Each fault planted in a split is reported, and a clean split has no findings."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from in_memory import make_competition

from distracted.data.audit import SplitFinding, audit_folds, check_split
from distracted.data.competition import Competition
from distracted.data.folds import Folds
from distracted.errors import FoldsError


@pytest.fixture
def competition() -> Competition:
    """Six subjects, two classes, 24 images."""
    return make_competition([[2, 2]] * 6)


@pytest.fixture
def table(competition: Competition) -> pd.DataFrame:
    """Three clean folds: p00 and p03, p01 and p04, p02 and p05."""
    table = competition.train[["img", "subject", "label"]].copy()
    table["fold"] = table["subject"].str[-1].astype(int) % 3
    return table


def texts(findings: list[SplitFinding], level: str) -> list[str]:
    return [finding.text for finding in findings if finding.level == level]


def test_a_clean_split(competition: Competition, table: pd.DataFrame) -> None:
    assert audit_folds(competition, table) == []
    check_split(competition, Folds(table, "hash"))


def test_a_subject_in_two_folds(competition: Competition, table: pd.DataFrame) -> None:
    table.loc[table.index[table["subject"] == "p03"][0], "fold"] = 2
    assert texts(audit_folds(competition, table), "error") == ["subject p03 is in folds 0, 2"]
    with pytest.raises(FoldsError, match="subject p03 is in folds 0, 2"):
        check_split(competition, Folds(table, "hash"))


def test_a_subject_both_held_out_and_always_trained_on(competition: Competition, table: pd.DataFrame) -> None:
    table.loc[table.index[table["subject"] == "p04"][0], "fold"] = -1
    assert texts(audit_folds(competition, table), "error") == ["subject p04 is in folds -1, 1"]


def test_a_class_missing_from_a_training_side() -> None:
    """Both subjects of class c1 are held out together."""
    competition = make_competition([[2, 2], [2, 0], [2, 0], [2, 2], [2, 0], [2, 0]])
    table = competition.train[["img", "subject", "label"]].copy()
    table["fold"] = table["subject"].str[-1].astype(int) % 3
    findings = audit_folds(competition, table)
    assert texts(findings, "error") == ["fold 0: class c1 is missing from the training side"]
    assert "fold 1: class c1 is missing from the validation side" in texts(findings, "warning")
    assert "fold 2: class c1 is missing from the validation side" in texts(findings, "warning")
    with pytest.raises(FoldsError, match="fold 0: class c1"):
        check_split(competition, Folds(table, "hash"))


def test_many_missing_classes_are_counted() -> None:
    """Six classes, of which the last five have two subjects in one fold."""
    competition = make_competition([[2, 2, 2, 2, 2, 2], [2, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]] * 2)
    table = competition.train[["img", "subject", "label"]].copy()
    table["fold"] = table["subject"].str[-1].astype(int) % 3
    findings = audit_folds(competition, table)
    assert texts(findings, "error") == [
        "fold 0: 5 classes (c1, c2, c3, ...) are missing from the training side"
    ]
    expected = "fold {}: 5 classes (c1, c2, c3, ...) are missing from the validation side"
    assert {expected.format(1), expected.format(2)} <= set(texts(findings, "warning"))


def test_a_side_far_from_its_size(competition: Competition, table: pd.DataFrame) -> None:
    table.loc[table["subject"].isin(["p00", "p03", "p01"]), "fold"] = 0
    table.loc[table["subject"].isin(["p04", "p02"]), "fold"] = 1
    findings = audit_folds(competition, table)
    assert not texts(findings, "error")
    assert not texts(findings, "warning")  # 12, 8 and 4 instead of 8: within half
    table.loc[table["subject"] == "p04", "fold"] = 0
    assert texts(audit_folds(competition, table), "warning") == ["fold 0: 16 validation images instead of 8"]


def test_rows_always_trained_on_are_ignored(competition: Competition, table: pd.DataFrame) -> None:
    table.loc[table["fold"] > 1, "fold"] = -1
    assert audit_folds(competition, table) == []


def test_a_single_split_far_from_a_tenth(competition: Competition, table: pd.DataFrame) -> None:
    table.loc[table["fold"] > 0, "fold"] = -1
    assert texts(audit_folds(competition, table), "warning") == ["fold 0: 8 validation images instead of 2"]


def test_missing_subjects_are_a_warning(competition: Competition, table: pd.DataFrame) -> None:
    columns = competition.config.columns.model_copy(update={"group": None})
    by_image = replace(competition, config=competition.config.model_copy(update={"columns": columns}))
    (text,) = texts(audit_folds(by_image, table), "warning")
    assert text.startswith("no subjects (data.columns.group: null)")


@pytest.mark.parametrize(
    ("classes", "is_said"), [(("mild", "none"), True), (("0", "1"), False), (("10.0", "2.0"), True)]
)
def test_an_order_that_quadratic_kappa_takes_from_the_names(
    competition: Competition, table: pd.DataFrame, classes: tuple[str, str], is_said: bool
) -> None:
    config = competition.config.model_copy(update={"metric": "quadratic_kappa"})
    warnings = texts(audit_folds(replace(competition, config=config, classes=classes), table), "warning")
    assert [f"in this order: {', '.join(classes)};" in warning for warning in warnings] == [True] * is_said
    stated = config.model_copy(update={"classes": dict(zip(classes, classes, strict=True))})
    assert audit_folds(replace(competition, config=stated, classes=classes), table) == []


def test_an_identical_picture_across_a_split(competition: Competition, table: pd.DataFrame) -> None:
    """The same content under another name and subject, in another fold."""
    train = competition.train
    first = train.index[train["subject"] == "p00"][0]
    second = train.index[train["subject"] == "p01"][0]
    train.loc[second, "content"] = train.loc[first, "content"]
    (text,) = texts(audit_folds(competition, table), "warning")
    assert text.startswith("identical pictures across a split, 1 picture: ")
    for row, fold in ((train.loc[first], 0), (train.loc[second], 1)):
        assert f"{row['img']} ({row['subject']}, {row['classname']}, fold {fold})" in text


def test_an_identical_picture_within_a_side(competition: Competition, table: pd.DataFrame) -> None:
    train = competition.train
    train.loc[train["subject"].isin(["p00", "p03"]), "content"] = "the same"
    assert audit_folds(competition, table) == []


def test_an_identical_picture_in_train_and_test(competition: Competition, table: pd.DataFrame) -> None:
    competition.test.loc[1, "content"] = competition.train["content"][5]
    (text,) = texts(audit_folds(competition, table), "warning")
    name = competition.train["img"][5]
    assert text == f"identical pictures in train and test, 1 picture: {name} = t2.jpg"


def test_identical_pictures_are_counted_and_three_shown(
    competition: Competition, table: pd.DataFrame
) -> None:
    train = competition.train
    for number in range(4):
        for subject in ("p00", "p01"):
            train.loc[train.index[train["subject"] == subject][number], "content"] = f"twin {number}"
    (text,) = texts(audit_folds(competition, table), "warning")
    assert text.startswith("identical pictures across a split, 4 pictures: ")
    assert text.count(" = ") == 3


@pytest.mark.parametrize("names", [("cat", "Cat"), ("1", "1.0"), ("sea gull", "sea_gull")])
def test_classes_that_differ_only_in_spelling(
    competition: Competition, table: pd.DataFrame, names: tuple[str, str]
) -> None:
    """A label that was typed in two ways, or numbers that became floats in some rows."""
    (text,) = texts(audit_folds(replace(competition, classes=names), table), "warning")
    first, second = sorted(names)
    assert f"spelling: {first!r} = {second!r}; if they are one class" in text
    assert text.endswith("driver_imgs_list.csv")


def test_a_test_set_that_is_the_training_set_is_counted_quickly(competition: Competition) -> None:
    """A search for each picture would take minutes."""
    size = 20_000
    names = pd.Series([f"img_{number:06}.jpg" for number in range(size)])
    label = np.arange(size) % 2
    train = pd.DataFrame({"img": names, "subject": names, "classname": "c" + pd.Series(label).astype(str)})
    train = train.assign(label=label, content=names)
    large = replace(competition, train=train, test=train[["img", "content"]], classes=("c0", "c1"))
    table = train[["img", "subject", "label"]].assign(fold=np.arange(size) % 5)
    (text,) = texts(audit_folds(large, table), "warning")
    assert text.startswith("identical pictures in train and test, 20000 pictures: img_000000.jpg = img_0")


def test_of_many_copies_three_are_shown_from_different_folds(
    competition: Competition, table: pd.DataFrame
) -> None:
    """A black frame may be there thousands of times."""
    competition.train["content"] = "black"
    competition.test["content"] = "black"
    across, shared = texts(audit_folds(competition, table), "warning")
    assert {f"fold {fold})" in across for fold in range(3)} == {True}
    assert across.endswith(f" = {len(table) - 3} more") and across.count(" = ") == 3
    assert shared.startswith("identical pictures in train and test, 1 picture: ")


def test_a_warning_is_logged_and_raises_no_error(
    competition: Competition, table: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    competition.test.loc[0, "content"] = competition.train["content"][0]
    [finding] = audit_folds(competition, table)
    assert finding.level == "warning"
    check_split(competition, Folds(table, "hash"))
    assert caplog.record_tuples == [("distracted.data.audit", logging.WARNING, finding.text)]


def test_all_of_several_faults_are_reported() -> None:
    competition = make_competition([[2, 2], [2, 2], [2, 2]])
    table = competition.train[["img", "subject", "label"]].copy()
    table["fold"] = table["subject"].str[-1].astype(int)
    table.loc[table.index[table["subject"] == "p02"][0], "fold"] = 0
    competition.train.loc[competition.train["subject"] == "p00", "content"] = competition.test["content"][0]
    levels = [finding.level for finding in audit_folds(competition, table)]
    assert levels == ["error", "warning"]
