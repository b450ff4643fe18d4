"""The benchmark of the forecast is reproducible, and scores the competitions that it saved."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distracted.predictions.store import Store

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(BENCH)
    return runpy.run_path(str(BENCH / "coverage.py"))


@pytest.mark.slow
def test_a_competition_is_reproducible_and_scored_from_its_file(
    bench: dict[str, Any], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    subjects, labels = np.repeat(np.arange(90), 6), np.tile([0, 1, 2], 180)
    features = 0.6 * rng.normal(size=(540, 130)).astype(np.float32)
    features[np.arange(540), labels] += 1
    features[:, 10:20] += rng.normal(size=(90, 10))[subjects]
    people = bench["People"](features, labels, subjects)
    drawn, again = (bench["_compete"](people, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(drawn[key], again[key]) for key in drawn)
    assert len(np.unique(drawn["subjects"])) == 26
    assert drawn["plain_oof"].shape == (26 * 6, 3) and drawn["plain_test"].shape == (5, 52 * 6, 3)
    path = tmp_path / "000.npz"
    bench["save_arrays"](path, drawn)
    rows = bench["_score"](bench["_load"](path))
    assert rows == bench["_score"](drawn)
    assert [row["run"] for row in rows[::2]] == [
        "plain",
        "sure",
        "few",
        "sure, calibrated",
        "blend",
        "blend of calibrated",
    ]
    for ours, naive in zip(rows[::2], rows[1::2], strict=True):
        assert ours["truth"] == naive["truth"] > 0
        assert 0 < ours["low"] < ours["mean"] < ours["high"]


def test_draws_from_a_stored_run_share_no_subject(
    bench: dict[str, Any], store: Store, write_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a", skill=2.0)
    drawn = []

    def judge(name: str, *arrays: Any) -> list[dict[str, Any]]:
        drawn.append(arrays)
        return []

    monkeypatch.setitem(bench["_of_stored_run"].__globals__, "_judge", judge)
    bench["_of_stored_run"](store, "a", 4)
    scored = store.folds.scored
    for oof, labels, subjects, test, test_labels, num_test in drawn:
        assert len(oof) == len(labels) == len(subjects)
        assert test.shape == (1, len(test_labels), 3) and len(labels) + len(test_labels) == len(scored)
        in_all = len(np.unique(store.folds.subjects[scored]))
        assert len(np.unique(subjects)) == round(0.6 * in_all) == in_all - num_test
    assert len({arrays[1].tobytes() for arrays in drawn}) > 1


def test_the_interval_score_is_the_width_and_a_penalty_for_a_miss(bench: dict[str, Any]) -> None:
    score = bench["_interval_score"]
    assert score(1.0, 0.5, 2.0) == pytest.approx(np.log(4))
    assert score(4.0, 0.5, 2.0) == pytest.approx(np.log(4) + 40 * np.log(2))
    assert score(0.25, 0.5, 2.0) == pytest.approx(np.log(4) + 40 * np.log(2))


@pytest.mark.parametrize("name", ["5 subjects", "uneven", "one network", "blend"])
def test_a_simulated_competition_is_reproducible_and_by_subject(bench: dict[str, Any], name: str) -> None:
    population = bench["POPULATIONS"][name]
    drawn, again = (bench["simulate"](population, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(drawn.oof, again.oof) and np.array_equal(drawn.test, again.test)
    assert len(np.unique(drawn.subjects)) == population.num_subjects
    assert drawn.test.shape == (population.num_folds, len(drawn.test_labels), population.num_classes)
    for log_probs in (drawn.oof, *drawn.test):
        np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1)
    if population.uneven:
        assert np.bincount(drawn.subjects).max() / len(drawn.subjects) == pytest.approx(0.4, abs=0.08)
