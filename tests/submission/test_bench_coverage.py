"""The benchmark of the forecast draws competitions that repeat, and scores what it kept."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(BENCH)
    return runpy.run_path(str(BENCH / "coverage.py"))


@pytest.mark.slow
def test_a_competition_repeats_and_is_scored_from_what_was_kept(
    bench: dict[str, Any], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    subjects, labels = np.repeat(np.arange(90), 6), np.tile([0, 1, 2], 180)
    features = 0.6 * rng.normal(size=(540, 130)).astype(np.float32)
    features[np.arange(540), labels] += 1
    features[:, 10:20] += rng.normal(size=(90, 10))[subjects]
    people = bench["People"](features, labels, subjects)
    found, again = (bench["_compete"](people, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(found[key], again[key]) for key in found)
    assert len(np.unique(found["subjects"])) == 26
    assert found["plain_oof"].shape == (26 * 6, 3) and found["plain_test"].shape == (5, 52 * 6, 3)
    path = tmp_path / "000.npz"
    bench["_save"](path, found)
    rows = bench["_score"](bench["_load"](path))
    assert rows == bench["_score"](found)
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
        assert ours["mean"] < naive["mean"]  # the bootstrap knows nothing of bagging
        assert ours["high"] - ours["low"] > 0
