"""Commands answer at once: heavy packages are imported only where they are used."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import audit
from distracted import files
from distracted.paths import CONFIGS

SCRIPTS = CONFIGS.parent / "scripts"
STORE = Path(__file__).parents[1] / "fixtures/store_0.1.0.tar.gz"
#: Each takes from a tenth of a second to four seconds to import.
HEAVY = {"albumentations", "cv2", "jinja2", "kaggle", "kagglesdk", "matplotlib", "ray", "requests", "sklearn"}
HEAVY |= {"timm", "torch", "torchvision", "wandb"}
COMMANDS = sorted(
    path.stem for path in SCRIPTS.glob("*.py") if path.stem not in ("console", "vulnerabilities")
)


def imported_by(code: str, *arguments: str) -> set[str]:
    """Heavy packages that a new process has imported after running the code."""
    report = f"import sys; print('HEAVY', *sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    lines = ["import sys, atexit", f"atexit.register(lambda: exec({report!r}))", code]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), *arguments],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS), "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split()[1:])


def test_help_imports_nothing_heavy() -> None:
    """`--help` imports its script; this imports all scripts in one process."""
    assert len(COMMANDS) > 20
    assert imported_by("; ".join(f"import {name}" for name in COMMANDS)) == set()


def test_imported_by_detects_a_heavy_package() -> None:
    assert imported_by("import cv2") == {"cv2"}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["status", "ensemble", "submit", "report"])
def test_a_command_on_stored_predictions_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    where = extracted(tmp_path)
    quiet = [] if command == "status" else ["--set", "runtime.tracking=none"]
    runs = ["--runs", "one two", "--name", "plain"] if command == "ensemble" else []
    first = imported_by(running(command), *where, *quiet, *runs)
    if command != "report":  # draws the page
        assert first <= {"cv2"}  # reads the images and caches their digests
    assert imported_by(running(command), *where, *quiet, *runs) == set()


@pytest.mark.slow
def test_an_audit_that_is_up_to_date_imports_nothing_heavy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, small = extracted(tmp_path), "model.image_size=32 runtime.num_workers=0"
    monkeypatch.setattr(files, "_SETTLED_NS", -(10**12))
    audit.main(data=where[1], set=small, root=tmp_path)
    assert imported_by(running("audit"), *where, "--set", small) == set()


def extracted(folder: Path) -> list[str]:
    """Extract a store with its data; the arguments that name them."""
    with tarfile.open(STORE) as archive:
        archive.extractall(folder, filter="data")
    return ["--data", str(folder / "tiny"), "--root", str(folder)]


def running(command: str) -> str:
    """Code that runs a command; it keeps digests of files that are younger than two seconds, too."""
    code = f"import runpy, sys; sys.argv[0] = {command!r}; runpy.run_module({command!r}, run_name='__main__')"
    return f"from distracted import files; files._SETTLED_NS = -(10**12); {code}"
