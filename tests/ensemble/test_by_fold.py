"""Blends whose members are each fold's own choice by the labels of the other folds."""

from collections.abc import Callable

import numpy as np
import pytest

from conftest import calibrate
from distracted.data.folds import Folds
from distracted.ensemble.blend import blend_command, blend_runs
from distracted.ensemble.derive import derive_run
from distracted.ensemble.members import open_sources
from distracted.ensemble.selection import select_members
from distracted.postprocess.choose import Choose
from distracted.postprocess.step import Subset
from distracted.predictions.store import Store

WriteRun = Callable[..., None]
BY_FOLD = (["a", "b"], ["a", "b"], ["b", "c"])


@pytest.fixture
def members(write_run: WriteRun) -> None:
    for seed, (run, skill) in enumerate([("a", 2.0), ("b", 3.0), ("c", 1.0)]):
        write_run(run, skill=skill, seed=seed)


@pytest.mark.usefixtures("members")
def test_a_fold_is_that_of_the_blend_of_its_own_members(store: Store) -> None:
    blend_runs(store, by_fold=BY_FOLD, name="mixed")
    mixed = store.read_run("mixed")
    for fold, runs in enumerate(BY_FOLD):
        blend_runs(store, runs=runs, name="own", force=True)
        own, rows = store.read_run("own"), store.folds.valid(fold)
        assert mixed.oof[rows].tobytes() == own.oof[rows].tobytes()
        assert mixed.test[fold].tobytes() == own.test[fold].tobytes()
        weights = store.manifest("mixed", fold).details["weights"]
        assert {*weights} == {"a", "b", "c"} and all(weights[run] == 0 for run in {*weights} - {*runs})


@pytest.mark.usefixtures("members")
def test_the_same_members_in_all_folds_are_the_usual_blend(store: Store) -> None:
    blend_runs(store, by_fold=[["a", "b"]] * 3, name="chosen")
    blend_runs(store, runs=["a", "b"], name="named")
    assert store.read_run("chosen").oof.tobytes() == store.read_run("named").oof.tobytes()
    assert store.manifest("chosen", 0).config == store.manifest("named", 0).config


@pytest.mark.usefixtures("members")
def test_steps_can_be_taken_on_such_a_blend(store: Store) -> None:
    """It is opened as it was made: each fold's predictions from its own members."""
    blend_runs(store, by_fold=BY_FOLD, name="mixed")
    [source] = open_sources(store, [store.find_run("mixed")])
    for fold in range(3):
        stored = store.read_run("mixed").oof[store.folds.valid(fold)]
        np.testing.assert_allclose(source.predict(Subset(fold), frozenset({fold})), stored, atol=1e-5)
    assert calibrate(store, "mixed").gain.after > 0


@pytest.mark.usefixtures("members")
def test_the_search_is_told_in_each_manifest(store: Store) -> None:
    blend_runs(store, by_fold=BY_FOLD, name="mixed", search={"num_candidates": 7})
    assert [store.manifest("mixed", fold).config["search"] for fold in range(3)] == [
        {"num_candidates": 7}
    ] * 3
    assert blend_command(store, "mixed") == "make compete"


def selected(store: Store) -> list[list[str]]:
    runs = ["a", "b", "c"]
    sources = dict(zip(runs, open_sources(store, [store.find_run(run) for run in runs]), strict=True))
    return select_members(sources, [runs] * 3)


def test_runs_that_only_weaken_a_blend_are_left_out(store: Store, write_run: WriteRun) -> None:
    for seed, (run, skill) in enumerate([("a", 6.0), ("b", 0.0), ("c", 5.5)]):
        write_run(run, skill=skill, seed=seed)
    assert all("a" in runs and "b" not in runs for runs in selected(store))


@pytest.mark.usefixtures("members")
def test_a_folds_labels_do_not_choose_its_members(store: Store) -> None:
    before = selected(store)
    for fold in range(3):
        rows = store.folds.ids == fold
        labels = np.where(rows, (store.folds.labels + 1) % 3, store.folds.labels)
        table = store.folds.table.assign(label=labels)
        relabelled = Store(store.workspace, store.competition, Folds(table, store.folds.hash))
        assert selected(relabelled)[fold] == before[fold]


@pytest.mark.usefixtures("members")
def test_a_choice_by_fold_takes_what_the_fold_was_offered(store: Store) -> None:
    """`b` is the best of all; it is taken only where it is offered."""
    offered = [[0, 1], [0, 2], [2]]
    made = derive_run(store, Choose(offered=offered, search={"model": "net"}), ["a", "b", "c"], name="chosen")
    assert made.fits == (1, 0, 2)
    chosen, details = store.read_run("chosen"), [store.manifest("chosen", fold).details for fold in range(3)]
    assert [one["num_candidates"] for one in details] == [2, 2, 1]
    for fold, run in enumerate("bac"):
        rows = store.folds.valid(fold)
        np.testing.assert_allclose(chosen.oof[rows], store.read_run(run).oof[rows], atol=1e-5)
    [source] = open_sources(store, [store.find_run("chosen")])  # opened as it was made
    assert calibrate(store, "chosen").gain.after > 0
    blend_runs(store, runs=["chosen", "a"], name="with_chosen")
    rows = store.folds.valid(2)
    np.testing.assert_allclose(source.predict(Subset(2), frozenset({2})), chosen.oof[rows], atol=1e-5)
