"""bench/recipes.py runs on a small competition, and its second run finds all folds trained."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

HERE = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_second_run_prints_the_same_table_and_trains_nothing(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    command = [
        *(sys.executable, "bench/recipes.py", "--data", str(folder), "--root", str(tmp_path)),
        *("--seconds", "1", "--folds", "2", "--recipes", "features features_dense fine_tune"),
        *("--set", f"model.backbone=test_resnet model.weights={weights} model.image_size=32"),
    ]
    first, second = (run(command, tmp_path) for _ in range(2))
    assert first == second
    table, written = first
    assert [path.split("/")[-2] for path in written] == ["fold0", "fold1"] * 3
    losses = [float(row.split("|")[2]) for row in table[2:]]
    assert len(losses) == 3 and losses == sorted(losses)


def run(command: list[str], root: Path) -> tuple[list[str], dict[str, int]]:
    """The lines of the table, and when each fold was written."""
    environment = os.environ | {"PYTHONPATH": "scripts", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = {
        str(path): path.stat().st_mtime_ns
        for path in sorted((root / "oof/tiny").glob("*/fold*/manifest.json"))
    }
    return [line for line in done.stdout.splitlines() if line.startswith("| ")], written
