"""Folds hold every image once and no subject twice, are made once, and must match the data."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import competitions, make_competition

from distracted.data.audit import audit_folds
from distracted.data.competition import Competition
from distracted.data.folds import (
    COLUMNS,
    Folds,
    ensure_folds,
    feasible_folds,
    make_folds,
    read_folds,
    split_holdout,
)
from distracted.errors import FoldsError


def square(num_subjects: int, num_classes: int = 3, count: int = 4) -> Competition:
    return make_competition([[count] * num_classes] * num_subjects)


class TestMakeFolds:
    @pytest.mark.slow
    @settings(max_examples=10, deadline=None)
    @given(competitions(), st.integers(2, 6))
    def test_properties_hold_for_any_competition(self, competition: Competition, asked: int) -> None:
        """Every image once, no subject on both sides, every class on every training side; or an error."""
        num_folds = feasible_folds(competition, asked)
        assert 2 <= num_folds <= asked
        try:
            table = make_folds(competition, num_folds)
        except FoldsError:
            return  # there may be none; see TestFewSubjects
        assert tuple(table.columns) == COLUMNS
        pd.testing.assert_frame_equal(
            table.drop(columns="fold"), competition.train[["img", "subject", "label"]]
        )
        assert (table.groupby("subject")["fold"].nunique() == 1).all()
        assert set(table["fold"]) == set(range(num_folds))
        for fold in range(num_folds):
            assert set(table.loc[table["fold"] != fold, "label"]) == set(range(competition.num_classes))
        assert not [finding for finding in audit_folds(competition, table) if finding.level == "error"]

    def test_folds_are_reproducible(self) -> None:
        competition = square(7)
        pd.testing.assert_frame_equal(make_folds(competition, 3), make_folds(competition, 3))

    def test_equal_subjects_are_spread_evenly(self) -> None:
        table = make_folds(square(12), 4)
        assert table["fold"].value_counts().tolist() == [3 * 3 * 4] * 4
        assert table.groupby(["fold", "label"]).size().nunique() == 1

    def test_unequal_subjects_are_balanced_in_size(self) -> None:
        """One subject has as many images as three others: it is held out alone."""
        competition = make_competition([[12, 12], [4, 4], [4, 4], [4, 4], [4, 4], [4, 4], [4, 4]])
        table = make_folds(competition, 3)
        assert sorted(table["fold"].value_counts()) == [24, 24, 24]
        alone = table.loc[table["subject"] == "p00", "fold"].iloc[0]
        assert set(table.loc[table["fold"] == alone, "subject"]) == {"p00"}

    def test_folds_are_balanced_in_classes(self) -> None:
        """Half of the subjects show one class, half the other; each fold gets equally many of both."""
        table = make_folds(make_competition([[4, 0]] * 6 + [[0, 4]] * 6), 3)
        assert (table.groupby(["fold", "label"]).size() == 8).all()

    def test_without_subjects_images_are_stratified(self) -> None:
        competition = make_competition([[7, 5, 9]], group=None)
        table = make_folds(competition, feasible_folds(competition, 3))
        sizes = table.groupby(["label", "fold"]).size().unstack()
        assert ((sizes.max(axis=1) - sizes.min(axis=1)) <= 1).all()


class TestSingleSplit:
    def test_a_tenth_of_the_subjects_is_held_out(self) -> None:
        table = make_folds(square(20), 1)
        assert set(table["fold"]) == {0, -1}
        assert table.loc[table["fold"] == 0, "subject"].nunique() == 2
        assert (table.groupby("subject")["fold"].nunique() == 1).all()

    def test_with_few_subjects_one_of_them_is_held_out(self) -> None:
        table = make_folds(square(4), 1)
        assert table.loc[table["fold"] == 0, "subject"].nunique() == 1

    def test_it_cannot_replace_folds(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        competition = square(20)
        with caplog.at_level("INFO"):
            folds = ensure_folds(tmp_path / "folds.csv", competition, 1)
        assert folds.num_folds == 1
        assert "a single split: 2 of 20 subjects are held out" in caplog.text
        ensure_folds(tmp_path / "other.csv", competition, 5)
        with pytest.raises(FoldsError, match=r"has 5 folds, this run asks for 1"):
            ensure_folds(tmp_path / "other.csv", competition, 1)


def folds_of(competition: Competition, num_folds: int) -> Folds:
    return Folds(make_folds(competition, feasible_folds(competition, num_folds)), "hash")


class TestSplitHoldout:
    @pytest.mark.slow
    @settings(max_examples=10, deadline=None)
    @given(competitions(), st.integers(0, 5))
    def test_no_subject_on_both_sides_and_every_class_trained_on(
        self, competition: Competition, seed: int
    ) -> None:
        try:
            folds = folds_of(competition, 3)
            rows, held_back = split_holdout(folds, 0, share=0.3, seed=seed)
        except FoldsError:
            return  # too few subjects
        assert sorted([*rows, *held_back]) == folds.train(0).tolist()
        assert len(held_back) and not set(folds.subjects[rows]) & set(folds.subjects[held_back])
        assert set(folds.labels[rows]) == set(folds.labels[folds.train(0)])

    def test_about_the_given_share_of_the_subjects_is_held_back(self) -> None:
        folds = folds_of(square(30), 5)
        _, held_back = split_holdout(folds, 1, share=0.25, seed=0)
        assert len(np.unique(folds.subjects[held_back])) == 6

    def test_a_rare_class_does_not_enlarge_the_holdout(self) -> None:
        """The rarest class has few subjects; the holdout is still a tenth."""
        folds = folds_of(make_competition([[3, 1]] * 4 + [[3, 0]] * 16), 2)
        _, held_back = split_holdout(folds, 0, share=0.1, seed=0)
        assert len(np.unique(folds.subjects[held_back])) == 1

    def test_a_share_of_0_holds_nothing_back(self) -> None:
        folds = folds_of(square(6), 3)
        rows, held_back = split_holdout(folds, 0, share=0, seed=0)
        assert rows.tolist() == folds.train(0).tolist() and not len(held_back)

    def test_seeds_take_holdouts_in_turn(self) -> None:
        """Four seeds take disjoint holdouts, and each seed always the same."""
        folds = folds_of(make_competition([[3, 3]] * 20), 4)
        holdouts = [set(split_holdout(folds, 0, share=0.14, seed=seed)[1]) for seed in (0, 0, 1, 2, 3)]
        assert holdouts[0] == holdouts[1]
        assert len(set().union(*holdouts)) == sum(map(len, holdouts[1:]))

    def test_a_subject_with_most_of_the_images_is_not_held_back(self) -> None:
        folds = Folds(make_folds(make_competition([[40, 40], *[[4, 4]] * 11]), 4), "hash")
        fold = next(fold for fold in range(4) if len(folds.valid(fold)) < 80)
        for seed in range(8):
            assert len(split_holdout(folds, fold, share=0.2, seed=seed)[1]) <= 24

    def test_a_class_with_a_single_subject_left_is_trained_on(self) -> None:
        """Both of its subjects cannot be held out; one is, and the other is not held back then."""
        competition = make_competition([[2, 2], [2, 2], *[[2, 0]] * 6])
        folds = folds_of(competition, 4)
        for fold in range(4):
            rows, held_back = split_holdout(folds, fold, share=0.3, seed=fold)
            assert len(held_back) and set(folds.labels[rows]) == {0, 1}

    def test_too_few_subjects_are_an_error(self) -> None:
        folds = Folds(make_folds(make_competition([[2, 2], [2, 2], [2, 0]]), 3), "hash")
        fold = int(folds.table.loc[folds.table["subject"] == "p00", "fold"].iloc[0])
        message = rf"holdout=0\.1: fold {fold} trains on 2 subjects, of which 1 can be held back"
        with pytest.raises(FoldsError, match=message):
            split_holdout(folds, fold, share=0.1, seed=0)


class TestFewSubjects:
    @pytest.mark.parametrize(("num_subjects", "asked", "folds"), [(3, 5, 3), (5, 5, 5), (9, 5, 5), (4, 2, 2)])
    def test_at_most_one_fold_per_subject(self, num_subjects: int, asked: int, folds: int) -> None:
        assert feasible_folds(square(num_subjects), asked) == folds

    def test_a_class_with_few_subjects_costs_no_folds(self) -> None:
        """Ten classes, one shown by two subjects: in three folds it is missing from the validation side."""
        competition = make_competition([[1] * 10] * 2 + [[1] * 9 + [0]] * 5)
        assert feasible_folds(competition, 5) == 5
        table = make_folds(competition, 5)
        assert table.loc[table["label"] == 9, "fold"].nunique() == 2
        findings = audit_folds(competition, table)
        assert not [finding for finding in findings if finding.level == "error"]
        assert sum("c9 is missing from the validation side" in finding.text for finding in findings) == 3

    @pytest.mark.parametrize("num_subjects", [1, 2])
    def test_two_subjects_are_too_few(self, num_subjects: int) -> None:
        names = ", ".join(f"p{number:02}" for number in range(num_subjects))
        message = (
            rf"driver_imgs_list\.csv: expected at least 3 subjects .* got {num_subjects} \({names}\); add"
        )
        with pytest.raises(FoldsError, match=message):
            feasible_folds(square(num_subjects), 5)

    def test_a_class_with_a_single_subject_is_always_trained_on(self) -> None:
        competition = make_competition([[2, 2], [2, 0], [2, 0], [2, 0]])
        assert feasible_folds(competition, 5) == 3
        table = make_folds(competition, 3)
        assert set(table.loc[table["subject"] == "p00", "fold"]) == {-1}
        assert set(table.loc[table["subject"] != "p00", "fold"]) == {0, 1, 2}
        (finding,) = audit_folds(competition, table)
        assert finding.level == "warning"
        assert finding.text.startswith("1 subject is trained on in every fold and never scored (p00 alone ")
        assert "shows c1), 4 images, 40% of all: the scores say nothing" in finding.text

    def test_too_few_others_than_the_subjects_that_alone_show_a_class(self) -> None:
        competition = make_competition([[2, 2, 0], [2, 0, 2], [2, 0, 0]])
        message = r"always trained on \(c1: p00; c2: p01\), which leaves 1 of 3 subjects .* add images"
        with pytest.raises(FoldsError, match=message):
            feasible_folds(competition, 3)

    @pytest.mark.parametrize(
        "counts",
        [
            [[4, 2, 0, 3], [4, 4, 4, 4], [4, 0, 5, 1]],
            [[3, 5, 3], [0, 3, 1], [1, 0, 4]],
            [[0, 0, 5], [3, 0, 0], [1, 4, 2], [0, 4, 0]],
            [[1, 4, 0], [4, 1, 4], [0, 5, 2]],
            [[2, 2, 0], [2, 0, 2], [0, 2, 2]],
        ],
    )
    def test_a_split_is_found_if_one_exists(self, counts: list[list[int]]) -> None:
        """scikit-learn's greedy splitter finds none here with any seed."""
        competition = make_competition(counts)
        table = make_folds(competition, feasible_folds(competition, 5))
        assert not [finding for finding in audit_folds(competition, table) if finding.level == "error"]

    def test_an_impossible_split_is_an_error(self) -> None:
        """Any two subjects share a class of two subjects, so one of two folds holds all of some class."""
        competition = make_competition([[2, 2, 0], [2, 0, 2], [0, 2, 2]])
        message = r"no split of 3 subjects into 2 parts.*; ask for more: SET='training.num_folds=3'"
        with pytest.raises(FoldsError, match=message):
            make_folds(competition, 2)
        with pytest.raises(FoldsError, match=r"no split of 3 subjects into 4 parts.*; ask for fewer"):
            make_folds(competition, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oof/tables/folds.csv"


def lay_out(path: Path, competition: Competition) -> pd.DataFrame:
    """Write three folds by the last digit of the subject."""
    table = competition.train[["img", "subject", "label"]]
    table = table.assign(fold=table["subject"].str[-1].astype(int) % 3)
    path.parent.mkdir(parents=True)
    table.to_csv(path, index=False)
    return table


class TestEnsureFolds:
    def test_folds_are_made_once_then_read(self, path: Path) -> None:
        competition = square(6)
        first = ensure_folds(path, competition, 3)
        content = path.read_bytes()
        again = ensure_folds(path, competition, 3)
        assert path.read_bytes() == content
        assert first.hash == again.hash == hashlib.sha256(content).hexdigest()
        pd.testing.assert_frame_equal(first.table, again.table)
        assert [file.name for file in path.parent.iterdir()] == ["folds.csv"]

    def test_existing_folds_are_read(self, path: Path) -> None:
        """The existing folds count, even if `make_folds` would give different ones."""
        competition = square(6)
        table = lay_out(path, competition)
        assert ensure_folds(path, competition, 3).ids.tolist() == table["fold"].tolist()

    def test_processes_that_start_together_share_one_file(self, path: Path) -> None:
        competition = square(5)
        with ThreadPoolExecutor(3) as pool:
            hashes = {
                folds.hash for folds in pool.map(lambda _: ensure_folds(path, competition, 3), range(3))
            }
        assert hashes == {hashlib.sha256(path.read_bytes()).hexdigest()}

    def test_fewer_folds_than_asked_for_with_few_subjects(self, path: Path) -> None:
        competition = square(3)
        assert ensure_folds(path, competition, 5).num_folds == 3
        assert ensure_folds(path, competition, 4).num_folds == 3  # the most that are possible, both times

    def test_another_number_of_folds_is_an_error(self, path: Path) -> None:
        competition = square(6)
        lay_out(path, competition)
        content = path.read_bytes()
        message = rf"has 3 folds, this run asks for 4, .*training\.num_folds=3.*remove {path.parent}"
        with pytest.raises(FoldsError, match=message):
            ensure_folds(path, competition, 4)
        assert path.read_bytes() == content

    def test_the_fewer_folds_of_an_earlier_version_stay_valid(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Version 0.2.0 made only as many folds as the rarest class has subjects."""
        competition = make_competition([[2, 2], [2, 2], [2, 2], [2, 0], [2, 0], [2, 0]])
        table = lay_out(path, competition)
        with caplog.at_level("INFO"):
            folds = ensure_folds(path, competition, 5)
        assert folds.ids.tolist() == table["fold"].tolist()
        assert f"3 folds instead of 5: an earlier version made {path}" in caplog.text

    def test_a_single_split_is_accepted_for_any_number_of_folds(self, path: Path) -> None:
        competition = square(6)
        table = lay_out(path, competition)
        table.loc[table["fold"] > 0, "fold"] = -1
        table.to_csv(path, index=False)
        folds = ensure_folds(path, competition, 5)
        assert folds.num_folds == 1
        assert sorted([*folds.valid(0), *folds.train(0)]) == list(range(len(table)))
        assert set(folds.ids[folds.train(0)]) == {-1}

    def test_nothing_is_written_if_folds_are_impossible(self, path: Path) -> None:
        with pytest.raises(FoldsError):
            ensure_folds(path, square(2), 5)
        assert not path.parent.exists()


class TestReadFolds:
    @pytest.fixture
    def competition(self, path: Path) -> Competition:
        competition = square(6)
        lay_out(path, competition)
        return competition

    def test_missing_folds_are_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FoldsError, match=r"no folds yet; `make folds`"):
            read_folds(tmp_path / "folds.csv", square(6))

    def test_rows_in_another_order_are_the_same_folds(self, path: Path, competition: Competition) -> None:
        expected = read_folds(path, competition)
        pd.read_csv(path).sample(frac=1, random_state=0).to_csv(path, index=False)
        shuffled = read_folds(path, competition)
        pd.testing.assert_frame_equal(shuffled.table, expected.table)
        assert shuffled.hash != expected.hash  # the hash covers the file's bytes, so every edit changes it

    def test_subjects_and_names_that_look_like_numbers(self, path: Path) -> None:
        competition = square(6)
        competition.train["subject"] = competition.train["subject"].str.replace("p0", "00")
        competition.train["img"] = competition.train["img"].str.removeprefix("img_").str.removesuffix(".jpg")
        lay_out(path, competition)
        folds = read_folds(path, competition)
        assert set(folds.table["subject"]) == {"000", "001", "002", "003", "004", "005"}

    def test_each_fold_splits_all_rows_by_subject(self, path: Path, competition: Competition) -> None:
        folds = read_folds(path, competition)
        assert folds.num_folds == 3
        for fold in range(3):
            valid, train = folds.valid(fold), folds.train(fold)
            assert sorted([*valid, *train]) == list(range(len(competition.train)))
            assert not set(folds.subjects[valid]) & set(folds.subjects[train])
        assert folds.labels.tolist() == competition.train["label"].tolist()
        assert sorted(set(folds.subjects)) == list(range(6))

    @pytest.mark.parametrize("fold", [-1, 3, 100])
    def test_a_fold_out_of_range(self, path: Path, competition: Competition, fold: int) -> None:
        folds = read_folds(path, competition)
        assert folds.check_fold(2) == 2
        with pytest.raises(FoldsError, match=f"FOLD={fold}: there are 3 folds, 0 to 2"):
            folds.check_fold(fold)

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda t: t.iloc[1:], "its images are not those of"),
            (lambda t: pd.concat([t, t.iloc[:1]]), "its images are not those of"),
            (lambda t: t.assign(img=["x.jpg", *t["img"][1:]]), "its images are not those of"),
            (lambda t: t.assign(label=(t["label"] + 1) % 3), r"label of img_\d+\.jpg differs from"),
            (lambda t: t.assign(subject="p01"), r"subject of img_\d+\.jpg differs from"),
            (lambda t: t.assign(fold=[(t["fold"][0] + 1) % 3, *t["fold"][1:]]), r"subject p\d+ is in more"),
            (lambda t: t.assign(fold=t["fold"] * 2), "without a gap"),
            (lambda t: t.assign(fold=t["fold"] - 2), "without a gap"),
            (lambda t: t.assign(fold=-1), "expected folds 0, 1"),
            (lambda t: t.assign(fold=t["fold"] + 0.5), "expected folds 0, 1"),
            (lambda t: t.assign(fold="a"), "expected folds 0, 1"),
            (
                lambda t: t.rename(columns={"fold": "k"}),
                r"expected the columns img,subject,label,fold, got .*,k",
            ),
            (lambda t: t.iloc[:0], "its images are not those of"),
        ],
    )
    def test_an_edited_file_is_an_error(
        self,
        path: Path,
        competition: Competition,
        edit: Callable[[pd.DataFrame], pd.DataFrame],
        message: str,
    ) -> None:
        edit(pd.read_csv(path)).to_csv(path, index=False)
        with pytest.raises(FoldsError, match=f"^{path}: .*{message}.*(restore it|remove {path.parent})"):
            read_folds(path, competition)

    @pytest.mark.parametrize(
        "content", [b"", b'a,"b\n', b"\xff\xfe\0", b"img,subject,label,fold\na\nb,c,d,e,f,g"]
    )
    def test_a_file_that_is_no_table(self, path: Path, competition: Competition, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(FoldsError, match=f"^{path}: .*restore it"):
            read_folds(path, competition)
