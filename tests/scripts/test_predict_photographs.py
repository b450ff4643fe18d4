"""make predict as a user runs it: what it prints, and names of any bytes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_bad_input import Project, originals, project, trained

from distracted.paths import CONFIGS

__all__ = ["originals", "project", "trained"]  # fixtures

pytestmark = pytest.mark.slow


def predict(project: Project, folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [
        sys.executable,
        CONFIGS.parent / "scripts/predict.py",
        "--images",
        folder,
        "--name",
        "resnet50",
    ]
    settings = ["--set", "runtime.device=cpu runtime.num_workers=0"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    return subprocess.run([*command, *settings, *project.where, *arguments], capture_output=True, env=strict)


def test_a_folder_of_everything(trained: Project, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"ph\xf6tos")
    folder.mkdir()
    images = sorted((trained.folder / "imgs/test").iterdir())
    shutil.copy(images[0], folder / os.fsdecode(b"caf\xe9"))
    shutil.copy(images[1], folder / "b.heic")
    data = images[2].read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) * 3 // 4] + b"\xff\xd9")
    (folder / "cut short.jpg").write_bytes(data[:-20])
    for number in range(7):
        (folder / f"{number}.gif").write_bytes(b"GIF89a")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    done = predict(trained, folder)
    err, out = done.stderr.decode(), done.stdout.decode()
    assert done.returncode == 0, err
    table = pd.read_csv(tmp_path / os.fsdecode(b"ph\xf6tos.csv"))
    assert table["img"].tolist() == ["b.heic", "caf\\xe9", "cut.jpg"]
    assert "cut short.jpg: the image is truncated" in err
    assert "cut.jpg: damaged (Corrupt JPEG data: premature end of data segment)" in err
    assert "left out: GIF image (7): 0.gif, 1.gif, 2.gif, 3.gif, 4.gif, ...; convert it to JPEG or PNG" in err
    assert "left out: hidden or system file (1): .DS_Store" in err
    assert "file names that are not UTF-8 (1): the CSV has \\x and" in err and "Traceback" not in err
    assert "3 photographs by resnet50, 1 could not be read and are left out" in out.replace("\n", " ")
    listed = pd.read_csv(tmp_path / os.fsdecode(b"ph\xf6tos_left_out.csv"))
    assert len(listed) == 9 and (listed["kind"] == "GIF image").sum() == 7
    assert not [line for line in err.splitlines() if line.startswith("Corrupt JPEG")]


def test_an_image_above_the_limit_is_left_out(trained: Project, tmp_path: Path) -> None:
    images = sorted((trained.folder / "imgs/test").iterdir())
    shutil.copy(images[0], tmp_path / "a.jpg")
    done = predict(
        trained, tmp_path, "--out", str(tmp_path / "x.csv"), "--set", "runtime.max_megapixels=0.0001"
    )
    assert done.returncode == 1
    assert b"megapixels, more than runtime.max_megapixels=0.0001" in done.stderr.replace(b"\n", b" ")
