"""make predict as a user runs it: what it prints, and names of any bytes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_bad_input import Project, originals, project, trained

from distracted.errors import ConfigError
from distracted.paths import CONFIGS
from predict import place_csv

__all__ = ["originals", "project", "trained"]  # fixtures


def run_predict(project: Project, folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
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


@pytest.mark.slow
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
    done = run_predict(trained, folder)
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


@pytest.mark.slow
def test_an_image_above_the_limit_is_left_out(trained: Project, tmp_path: Path) -> None:
    images = sorted((trained.folder / "imgs/test").iterdir())
    shutil.copy(images[0], tmp_path / "a.jpg")
    done = run_predict(
        trained, tmp_path, "--out", str(tmp_path / "x.csv"), "--set", "runtime.max_megapixels=0.0001"
    )
    assert done.returncode == 1
    assert b"megapixels, more than runtime.max_megapixels=0.0001" in done.stderr.replace(b"\n", b" ")


class TestPlaceOfTheCsv:
    def test_it_is_next_to_the_folder_and_has_its_name(self, tmp_path: Path) -> None:
        target, link = tmp_path / "elsewhere/day.1", tmp_path / "new"
        target.mkdir(parents=True)
        link.symlink_to(target)
        (target / "a.b.jpg").touch()
        assert place_csv(target, "", ["c0"]) == tmp_path / "elsewhere/day.1.csv"
        assert (
            place_csv(link, "", ["c0"]) == tmp_path / "new.csv"
        )  # two links may lead to folders of one name
        assert place_csv(target / "a.b.jpg", "", ["c0"]) == target / "a.b.csv"
        assert place_csv(target / "..", "", ["c0"]) == tmp_path / "elsewhere.csv"
        assert place_csv(target, str(tmp_path / "x/y.csv"), ["c0"]) == tmp_path / "x/y.csv"

    @pytest.mark.parametrize(
        "content", ["image_id,label\n1.jpg,0\n", "", "img,c0,c1\n", "img,c1,c0,c2\n", "\0\xff"]
    )
    def test_a_list_of_the_data_is_not_replaced(self, tmp_path: Path, content: str) -> None:
        """Many competitions have train.csv beside train/."""
        (tmp_path / "train").mkdir()
        (tmp_path / "train.csv").write_bytes(content.encode("latin-1"))
        with pytest.raises(ConfigError, match=r"train\.csv: is there already.*OUT="):
            place_csv(tmp_path / "train", "", ["c0", "c1", "c2"])

    @pytest.mark.parametrize("content", ['img,c0,"a, b"\n1.jpg,0,1\n', '"img","c0","a, b"\n'])
    def test_earlier_predictions_are_replaced(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "photographs").mkdir()
        (tmp_path / "photographs.csv").write_text(content)
        classes = ["c0", "a, b"]
        assert place_csv(tmp_path / "photographs", "", classes) == tmp_path / "photographs.csv"
        (tmp_path / "photographs.csv").write_text("something else")
        named = str(tmp_path / "photographs.csv")
        assert place_csv(tmp_path / "photographs", named, classes) == Path(named)

    def test_what_cannot_be_written_is_said_before_the_work(self, tmp_path: Path) -> None:
        (tmp_path / "photographs").mkdir()
        (tmp_path / "file").touch()
        for out, message in {".": "is a folder; name a file", "file/x.csv": "file is not writable"}.items():
            with pytest.raises(ConfigError, match=message):
                place_csv(tmp_path / "photographs", f"{tmp_path}/{out}", ["c0"])
