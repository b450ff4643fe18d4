"""The commands of docs/your_competition.md, as a new user types them, up to the checked submission."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from distracted.paths import CONFIGS
from imitated_layouts import PLANTS, SCENES, class_folders, flat_folder, patients

ROOT = CONFIGS.parent
PAGE = (ROOT / "docs/your_competition.md").read_text()
BLOCKS = re.findall(r"^```\n(make .*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "plants": flat_folder,
    "scenes": class_folders,
    "xrays": patients,
}
#: Epochs in place of the page's networks, which take minutes; the commands stay as they are. One network has
#: to learn the classes, the other one to be blended.
EPOCHS = {"efficientnet_lite0": 10, "resnet50": 1}


def commands(name: str) -> list[str]:
    """The page's commands for one of its layouts; those for the first are said to hold for all."""
    *first, rest = BLOCKS
    (new,) = [block.strip() for block in first if f"FOLDER=input/{name}" in block]
    return [new, *rest.strip().replace("=plants", f"={name}").splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with small networks and an environment that is set up."""
    folder = tmp_path / "project"
    for part in ("src", "scripts", "configs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / file, folder)
    for model in re.findall(r"MODEL=(\w+)", PAGE):
        tiny = {
            "model": {"backbone": "test_resnet", "weights": "none", "image_size": 32},
            "phases": {"scratch": {"epochs": EPOCHS[model], "lr": 3.0e-3}},
            "training": {"num_folds": 3},
        }
        (folder / f"configs/models/{model}.yaml").write_text(yaml.safe_dump(tiny))
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv/.stamp").touch()
    return folder


def test_the_page_has_a_command_for_each_layout_and_then_all_to_the_submission() -> None:
    for name in LAYOUTS:
        targets = [command.split()[1] for command in commands(name)]
        assert targets == ["new-competition", "folds", "cv", "cv", "ensemble", "submit"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_pages_commands_lead_to_a_checked_submission(project: Path, name: str) -> None:
    folder = LAYOUTS[name](project / "input" / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outputs = []
    for command in commands(name):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        done = subprocess.run(
            command,
            shell=True,
            cwd=project,
            env={**environment, "PYTHONPATH": str(project / "src")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        outputs.append(done.stdout + done.stderr)
    assert f"submissions/{name}/ensemble.csv: checked" in outputs[-1]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    table = pd.read_csv(project / f"submissions/{name}/ensemble.csv", dtype=str)
    check_answers(name, folder, table)
    title = {"plants": "accuracy", "scenes": "log loss", "xrays": "AUC"}[name]
    assert f"ensemble: cross-fitted {title} " in outputs[-2]
    assert ("no forecast" in outputs[-1]) == (name != "scenes")
    assert ("no subjects" in outputs[1]) == (name != "xrays")


def check_answers(name: str, folder: Path, table: pd.DataFrame) -> None:
    """Form and images are the sample's; most answers are right, by the order in which images were painted."""
    if name == "plants":
        sample = pd.read_csv(folder / "sample_submission.csv", dtype=str)
        assert list(table.columns) == ["image_id", "label"]
        assert table["image_id"].tolist() == sample["image_id"].tolist()
        assert set(table["label"]) <= {"0", "1", "2"} and len(PLANTS) == 3
        right = table["label"] == [str(number % 3) for number in range(len(table))]
    elif name == "scenes":
        assert list(table.columns) == ["img", *SCENES]
        assert table["img"].tolist() == sorted(path.name for path in (folder / "test").iterdir())
        probs = table[list(SCENES)].astype(float).to_numpy()
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-4)
        right = pd.Series(probs.argmax(axis=1) == np.arange(len(table)) % 3)
    else:
        sample = pd.read_csv(folder / "sample_submission.csv", dtype=str)
        assert list(table.columns) == ["id", "probability"]
        assert table["id"].tolist() == sample["id"].tolist()
        probability = table["probability"].astype(float)
        right = (probability > probability.median()) == (np.arange(len(table)) % 2 == 1)
    assert right.mean() >= 0.6
