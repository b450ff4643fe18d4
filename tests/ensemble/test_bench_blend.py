"""The benchmark of the blenders runs, and its figures say what its table says."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from distracted.ensemble.blenders import ALL_BLENDERS

BENCH = Path(__file__).parents[2] / "bench" / "blend.py"


@pytest.mark.slow
def test_the_benchmark_runs_at_a_small_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "blend.json"
    sizes = ["--runs", "10", "--images", "260", "--repeats", "2", "--growth", "2", "5"]
    monkeypatch.setattr(sys, "argv", [str(BENCH), *sizes, "--out", str(out)])
    runpy.run_path(str(BENCH), run_name="__main__")
    figures = json.loads(out.read_text())
    timed = {(solver["pool"], solver["solver"]): solver for solver in figures["solvers"]}
    assert len(timed) == 6
    for pool in ("linear", "log-linear"):
        ours, slsqp = timed[pool, "this project"], timed[pool, "SLSQP, gradient"]
        assert ours["kkt"] < 1e-6 and ours["loss"] <= slsqp["loss"] + 1e-9
        assert len(ours["seconds"]) == len(slsqp["seconds"]) == 2
        assert len(timed[pool, "SLSQP, no gradient"]["seconds"]) == 1
    useless = figures["useless_runs"]
    assert set(useless["before"]) == set(useless["after"]) >= {"linear pool", "log-linear pool"}
    assert f"{useless['after']['linear pool']:.5f}" in capsys.readouterr().out
    assert [row["runs"] for row in figures["blenders"]] == [2] * len(ALL_BLENDERS) + [5] * len(ALL_BLENDERS)
