"""The speed benchmarks run at small sizes and write their figures."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import Timing

BENCH = Path(__file__).parents[2] / "bench"


def run(script: str, *options: str, out: Path) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, str(BENCH / script), *options, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(BENCH.parent / "scripts"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(out.read_text())
    assert figures["machine"]["torch"] and figures["machine"]["cores"]
    return figures, done.stdout


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    ours, theirs = Timing("ours", 20, [1.0, 2.0, 4.0]), Timing("theirs", 10, [1.0, 1.0, 8.0])
    assert ours.rate == 10.0
    assert ours.ratio_to(theirs) == (2.0, 1.0, 4.0)


@pytest.mark.slow
def test_the_loader_benchmark_compares_with_a_plain_loader(tmp_path: Path) -> None:
    sizes = ["--photographs", "12", "--passes", "1", "--repeats", "1", "--folder", str(tmp_path)]
    _, output = run("speed_loader.py", *sizes, out=tmp_path / "out.json")
    assert "ours, from the cache" in output and "plain OpenCV + albumentations" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "contenders"),
    [
        ("speed_train.py", ["--batch-size", "4", "--steps", "1", "--folder"], 7),
        ("speed_features.py", ["--photographs", "12", "--folder"], 2),
        ("speed_predict.py", ["--batches", "1"], 5),
    ],
)
def test_each_benchmark_of_networks_times_all_contenders(
    script: str, options: list[str], contenders: int, tmp_path: Path
) -> None:
    folder = [str(tmp_path)] if "--folder" in options else []
    always = ["--models", "efficientnet_lite0", "--repeats", "1"]
    figures, output = run(script, *always, *options, *folder, out=tmp_path / "out.json")
    assert "efficientnet_lite0" in figures
    assert output.count("\n| ") >= contenders


@pytest.mark.slow
def test_the_contention_benchmark_times_each_situation(tmp_path: Path) -> None:
    sizes = ["--steps", "1", "--batch-size", "4", "--repeats", "1", "--folder", str(tmp_path)]
    figures, output = run("contention.py", *sizes, out=tmp_path / "out.json")
    assert len(figures["contention"]) == 8
    assert output.count("as our commands set it") == output.count("as torch comes") == 4


@pytest.mark.slow
def test_smoothings_neighbour_searches_agree_with_brute_force(tmp_path: Path) -> None:
    sizes = ["--frames", "900", "--features", "16", "--neighbours", "5"]
    figures, _ = run("smoothing.py", *sizes, out=tmp_path / "out.json")
    assert [search["same"] > 0.99 for search in figures["searches"].values()] == [True] * 3


@pytest.mark.slow
def test_the_growth_benchmark_times_each_size(tmp_path: Path) -> None:
    chart = tmp_path / "growth.png"
    sizes = ["--doublings", "1", "--repeats", "1", "--scale", "0.05", "--chart", str(chart)]
    figures, _ = run("growth.py", *sizes, out=tmp_path / "out.json")
    assert set(figures["curves"]) == {"images", "runs", "classes"}
    assert list(figures["curves"]["runs"]["the whole blend"]) == ["10", "20"]
    assert chart.stat().st_size > 10_000


def test_an_unknown_part_is_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "run.py"), "--parts", "loder", "--folder", str(tmp_path / "figures")],
        env={**os.environ, "PYTHONPATH": str(BENCH.parent / "scripts")},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "unknown part 'loder'; there are loader, train" in done.stderr
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow
def test_decodes_are_counted_stage_by_stage(tmp_path: Path) -> None:
    options = ["--folder", str(tmp_path), "--share", "0.001"]
    figures, output = run("state_farm_size.py", *options, out=tmp_path / "out.json")
    stages = figures["stages"]
    assert list(stages) == ["cv", "tta", "smooth"] and "| all |" in output
    assert stages["cv"]["test_least"] == stages["tta"]["test_most"] == stages["tta"]["train_most"] == 1
    assert stages["cv"]["train_least"] == 2 and stages["smooth"]["test_most"] == 0
    options = ["--folder", str(tmp_path), "--pictures", "8", "--repeats", "1"]
    loading, output = run("state_farm_views.py", *options, out=tmp_path / "views.json")
    assert len(loading["cpu_seconds"]) == 3 and "a pass for each fold" in output
