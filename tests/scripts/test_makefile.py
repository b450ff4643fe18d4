"""The Makefile passes variables from the command line to the scripts, and none from the environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory", f"VENV={sys.prefix}", *arguments],
        capture_output=True,
        text=True,
        env=environment | (env or {}),
    )


def test_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    [phony] = [line for line in text.splitlines() if line.startswith(".PHONY:")]
    targets = set(phony.removeprefix(".PHONY:").split()) - {"check-venv", "check-dev", "always"}
    listed = {line.split()[1] for line in make("help").stdout.splitlines()}
    assert listed == targets


def test_exported_variables_are_ignored() -> None:
    exported = {"NAME": "evil", "DATA": "evil", "FOLD": "3", "FORCE": "1", "SET": "training.seed=9"}
    line = make("-n", "train", "MODEL=resnet50", env=exported).stdout.splitlines()[-1]
    assert "evil" not in line and "--force" not in line and "--fold '0'" in line
    print_settings = ("--eval", 'settings:\n\t@printf %s "$$SETTINGS"', "settings")
    assert make(*print_settings, env=exported).stdout == ""


def test_settings_with_spaces_braces_and_quotes_survive() -> None:
    settings = """a={b: 1} c="x  y" d='$HOME `id`' e=(f)"""
    print_settings = ("--eval", 'settings:\n\t@printf %s "$$SETTINGS"', "settings")
    assert make(*print_settings, f"SET={settings}").stdout == settings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("cv", "MODEL=vgg16", "NAME=x", "FORCE=1"),
            "--model 'vgg16' --set \"$SETTINGS\" --name 'x' --force",
        ),
        (("cv", "MODEL=vgg16", "FORCE=0"), "--model 'vgg16' --set \"$SETTINGS\""),
        (("grid", "MODELS=vgg16 resnet50", "DATA=a/b"), "--models 'vgg16 resnet50' --data 'a/b'"),
        (("submit", "PARTIAL=1", "SEND=1"), "--partial --send"),
        (("compete", "HOURS=1h30m", "MODELS=a b", "SEND=1"), "--hours '1h30m' --models 'a b' --send"),
        (("search", "MODEL=a", "TRIALS=4", "FILE=b c.yaml"), "--model 'a' --trials '4' --file 'b c.yaml'"),
        (("ensemble", "RUNS=a b", "NAME=c"), "--runs 'a b' --name 'c'"),
        (
            ("tta", "RUN=a", "VIEWS=centre scales", "AVERAGE=log_probs", "FORCE=1"),
            "--run 'a' --views 'centre scales' --average 'log_probs' --set \"$SETTINGS\" --force",
        ),
        (("sample", "SUBJECTS=3", "SEED=5"), "--subjects '3'"),
    ],
)
def test_variables_become_options(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in " ".join(make("-n", *arguments).stdout.split())


def test_quotes_in_values_survive() -> None:
    lines = make("-n", "cv", "MODEL=vgg16", "DATA=/home/o'brien/data", "NAME=it's").stdout
    assert r"--data '/home/o'\''brien/data'" in lines and r"--name 'it'\''s'" in lines


def test_paths_are_passed_as_typed() -> None:
    path = "/kaggle/input/it's  $HOME (2)/"
    line = make("-n", "predict", f"IMAGES={path}", f"OUT={path}x.csv", f"DATA={path}").stdout
    quoted = path.replace("'", r"'\''")
    for option, value in {"images": quoted, "out": f"{quoted}x.csv", "data": quoted}.items():
        assert f"--{option} '{value}'" in line


@pytest.mark.parametrize(("value", "on"), [("1", True), ("yes", True), ("0", False), ("no", False)])
def test_flags_are_on_or_off(value: str, on: bool) -> None:
    assert ("--send" in make("-n", "submit", f"SEND={value}").stdout) is on


def test_any_other_value_of_a_flag_is_an_error() -> None:
    done = make("-n", "submit", "SEND=maybe")
    assert done.returncode != 0 and "SEND=maybe: expected 1 or 0" in done.stderr


def test_an_environment_without_the_project_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to("/bin/false")
    done = make(f"VENV={tmp_path}", "status")
    assert done.returncode != 0 and "the project is not installed there" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_failing_command_prints_one_line_and_exits_with_an_error() -> None:
    done = make("train", "MODEL=nope", "DATA=sample")
    assert done.returncode != 0
    assert done.stderr.startswith("error: unknown model 'nope'; configs/models/ holds: caformer")
    assert "Traceback" not in done.stderr
