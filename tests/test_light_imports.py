"""Importing the leaves, or reading a competition and its folds, imports no heavy package."""

import subprocess
import sys

HEAVY = {"albumentations", "cv2", "kaggle", "matplotlib", "requests", "scipy", "sklearn", "timm", "torch"}
LEAVES = (
    "cores",
    "errors",
    "files",
    "kaggle_client",
    "locks",
    "metrics",
    "paths",
    "progress",
    "stopping",
)
DATA = ("audit", "competition", "contents", "download", "drops", "folds", "sampling", "split", "tables")


def test_light_modules_import_no_heavy_package() -> None:
    modules = [f"distracted.{name}" for name in LEAVES] + [f"distracted.data.{name}" for name in DATA]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert imported & HEAVY == set()
