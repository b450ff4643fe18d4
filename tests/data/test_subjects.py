"""Names that a person would call the same are one subject: in folds, holdouts and uncertainty."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from in_memory import make_competition

from distracted.audit.mistakes import losses_by, score_rows
from distracted.data.audit import audit_folds
from distracted.data.competition import Competition
from distracted.data.folds import Folds, ensure_folds, feasible_folds, make_folds, split_holdout
from distracted.data.subjects import one_spelling, plain_spelling, subjects_alike
from distracted.data.train_list import read_training_list
from distracted.errors import FoldsError
from distracted.schema import ColumnsConfig, DataConfig

SAME = {
    "case": ["p002", "P002"],
    "leading zeros": ["p2", "p02", "p002"],
    "whole numbers": ["2", "02", "2.0", "2.00"],
    "composed and decomposed": ["jos\u00e9", "jose\u0301"],
    "full width": ["p2", "\uff50\uff12"],
    "Arabic digits": ["12", "\u0661\u0662"],
    "ligature": ["fi1", "\ufb011"],
    "sharp s": ["stra\u00dfe", "STRASSE"],
    "zero-width space": ["p2", "p\u200b2"],
    "byte order mark": ["p2", "\ufeffp2"],
    "soft hyphen": ["p2", "p\u00ad2"],
    "right-to-left mark": ["p2", "p2\u200f"],
    "variation selector": ["p2", "p2\ufe0f"],
    "control character": ["p2", "p\x7f2"],
    "no-break space": ["driver 2", "driver\u00a02"],
    "spaces": ["driver 2", "driver  2", "driver_2", "driver-2", "driver\u20132"],
    "a number after a space": ["p2", "P 2", "p_02", "p-002"],
    "apostrophe": ["o'neil", "o\u2019neil"],
    "Cyrillic letters": ["cap", "\u0441\u0430\u0440"],
}
DIFFERENT = [
    ["p2", "p20"],
    ["p02", "p20"],
    ["1.5", "1.05"],
    ["1.2", "1.20"],
    ["12", "1_2"],
    ["p12", "p1_2"],
    ["1_a", "1a"],
    ["0", "1"],
    ["p0", "p"],
    ["jose", "jos\u00e9"],
    ["a", "b"],
    ["10", "100"],
    ["2.0", "20"],
]


@pytest.mark.parametrize("names", SAME.values(), ids=SAME)
def test_spelled_alike(names: list[str]) -> None:
    assert len(set(map(plain_spelling, names))) == 1


@pytest.mark.parametrize("names", DIFFERENT, ids=" ".join)
def test_different_names(names: list[str]) -> None:
    assert len(set(map(plain_spelling, names))) == len(names)


def test_the_real_competitions_subjects_are_26() -> None:
    """State Farm's own names, from p002 to p081."""
    numbers = "002 012 014 015 016 021 022 024 026 035 039 041 042 045 047 049 050 051 052 056 061 064 066"
    assert len({plain_spelling(f"p{number}") for number in f"{numbers} 072 075 081".split()}) == 26


def respelled(competition: Competition, subject: str, other: str) -> Competition:
    """Every second image of a subject under another spelling."""
    train = competition.train.copy()
    rows = train.index[train["subject"] == subject][::2]
    train.loc[rows, "subject"] = other
    return replace(competition, train=train)


@pytest.fixture
def competition() -> Competition:
    """Six people, one under three names."""
    square = make_competition([[4, 4, 4]] * 6)
    return respelled(respelled(square, "p01", "p1"), "p1", "p\u200b01")


def test_folds_are_those_of_the_same_list_with_one_spelling(competition: Competition) -> None:
    plain = make_competition([[4, 4, 4]] * 6)
    assert competition.num_subjects == plain.num_subjects == 6
    assert feasible_folds(competition, 9) == 6
    for num_folds in (2, 3, 6):
        table, expected = make_folds(competition, num_folds), make_folds(plain, num_folds)
        assert table["fold"].tolist() == expected["fold"].tolist()
        assert set(table["subject"]) == set(competition.train["subject"])  # the list's own names
        assert (Folds(table, "").subjects == Folds(expected, "").subjects).all()


def test_a_holdout_keeps_spellings_together(competition: Competition) -> None:
    table = make_folds(competition, 3)
    folds = Folds(table, "")
    for fold in range(3):
        kept, held = split_holdout(folds, fold, share=0.34, seed=0)
        names = [set(one_spelling(table).iloc[rows]) for rows in (kept, held)]
        assert not names[0] & names[1]
        assert len(np.concatenate([kept, held])) == len(folds.train(fold))


def test_two_people_under_three_names_are_too_few() -> None:
    competition = respelled(make_competition([[4, 4]] * 2), "p01", "P01")
    with pytest.raises(FoldsError, match="expected at least 3 subjects for folds by subject, got 2"):
        feasible_folds(competition, 3)


def test_a_class_that_one_person_shows_under_two_names_is_trained_on_under_both() -> None:
    competition = respelled(make_competition([[4, 4], [4, 0], [4, 0], [4, 0]]), "p00", "P0")
    assert feasible_folds(competition, 5) == 3
    table = make_folds(competition, 3)
    always = table[table["fold"] == -1]
    assert set(always["subject"]) == {"p00", "P0"} and len(always) == 8


def test_the_audit_names_the_spellings(competition: Competition) -> None:
    table = make_folds(competition, 3)
    [finding] = audit_folds(competition, table)
    assert finding.level == "warning"
    assert "'p01' = 'p1' = 'p\\u200b01'" in finding.text
    assert "share a fold" in finding.text
    assert "rename them in driver_imgs_list.csv" in finding.text


def test_old_folds_that_separate_spellings_stay_readable_and_are_reported(competition: Competition) -> None:
    table = make_folds(competition, 3)
    own = int(table.loc[table["subject"] == "p01", "fold"].iloc[0])
    table.loc[table["subject"] == "p1", "fold"] = (own + 1) % 3
    texts = [finding.text for finding in audit_folds(competition, table)]
    assert [finding.level for finding in audit_folds(competition, table)] == ["warning"] * len(texts)
    [text] = [text for text in texts if "spelling" in text]
    assert "are in different folds: 'p01' = 'p1'" in text
    assert "all scores are too good" in text


@pytest.mark.parametrize("others", [0, 3], ids=["too few people", "five people"])
def test_old_folds_of_more_names_than_people_are_still_used(tmp_path: Path, others: int) -> None:
    """An earlier version took two spellings for two people; what was trained on its folds stays valid."""
    competition = respelled(make_competition([[4, 4]] * (2 + others)), "p01", "P1")
    names = sorted(set(competition.train["subject"]))
    fold = competition.train["subject"].map(names.index)
    competition.train[["img", "subject", "label"]].assign(fold=fold).to_csv(tmp_path / "f.csv", index=False)
    folds = ensure_folds(tmp_path / "f.csv", competition, len(names))
    assert folds.num_folds == len(names) == competition.num_subjects + 1
    with pytest.raises(FoldsError):
        ensure_folds(tmp_path / "f.csv", competition, 2 * len(names) if others == 0 else 2)


def test_rows_that_share_a_person_in_two_spellings_are_one_subject(tmp_path: Path) -> None:
    """With two columns of subjects: clip k1 shows P02 and p05, clip k2 shows p02 and p01."""
    rows = [("P02", "k1"), ("p05", "k1"), ("p02", "k2"), ("p01", "k2"), ("p07", "k3")]
    table = pd.DataFrame(rows, columns=["person", "clip"]).assign(img=list("abcde"), classname="c0")
    table.to_csv(tmp_path / "list.csv", index=False)
    columns = ColumnsConfig(img="img", label="classname", group=["person", "clip"])
    config = DataConfig(name="two", folder=tmp_path, train_list="list.csv", columns=columns)
    subjects = read_training_list(config)["subject"].tolist()
    assert len(set(subjects[:4])) == 1 and len(set(subjects)) == 2


def test_tables_by_subject_count_spellings_together(competition: Competition) -> None:
    folds = Folds(make_folds(competition, 3), "")
    assert folds.table["subject"].nunique() == 8
    store = SimpleNamespace(folds=folds, competition=competition)
    run = SimpleNamespace(name="run", folds=(0, 1, 2), oof=np.full((len(folds.table), 3), np.log(1 / 3)))
    by_subject = losses_by(score_rows(store, run), "subject")  # type: ignore[arg-type]
    assert by_subject["subject"].tolist() == [f"p{number:02}" for number in range(6)]
    assert by_subject["images"].tolist() == [12] * 6


def test_images_that_are_their_own_subjects_keep_their_names() -> None:
    table = pd.DataFrame({"img": ["a1.jpg", "A1.jpg", "a01.jpg"], "subject": ["a1.jpg", "A1.jpg", "a01.jpg"]})
    assert subjects_alike(table) == []
    assert one_spelling(table).nunique() == 3
