"""Trainings as users start them: each a process with its own workspace."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conftest import TINY
from distracted.files import sha256_file
from distracted.locks import holder
from distracted.paths import CONFIGS, Workspace
from distracted.training.checkpoints import newest_state

SCRIPTS = CONFIGS.parent / "scripts"
SECONDS = 300.0  # the longest wait for anything


def wait_for(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    """Wait for a condition that a running process will fulfil."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_lines(path: Path) -> bool:
    """Whether a file exists and is not empty."""
    return path.is_file() and path.stat().st_size > 0


@dataclass(frozen=True)
class Training:
    """The run `net` on a competition's folder."""

    folder: Path
    root: Path
    settings: str = "phases.scratch.epochs=40 model.head.dropout=0.5"

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    def arguments(self, script: str = "train.py", *more: str) -> list[str]:
        model = "--models" if script == "grid.py" else "--model"
        run = [model, "resnet50", "--name", "net", "--data", str(self.folder), "--root", str(self.root)]
        settings = f"{' '.join(TINY)} {self.settings}"
        return [sys.executable, str(SCRIPTS / script), *run, "--set", settings, *more]

    def start(self, *more: str, script: str = "train.py", group: bool = False) -> subprocess.Popen[str]:
        """Start it at low priority, so that the test reacts at once; its output goes to a pipe.

        With `group` it leads a process group of its own.
        """
        self.root.mkdir(exist_ok=True)
        command, pipe = ["nice", *self.arguments(script, *more)], subprocess.PIPE
        return subprocess.Popen(
            command, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=group
        )

    def run(self, *more: str, script: str = "train.py") -> tuple[int, str]:
        """Run it to its end; returns its exit code and its output."""
        process = self.start(*more, script=script)
        output, _ = process.communicate(timeout=SECONDS)
        return process.returncode, output

    def wait_for_work(self, process: subprocess.Popen[str], fold: int = 0) -> None:
        """Wait until a new fold has logged its first steps."""
        metrics = self.workspace.metrics("tiny", "net", fold)
        wait_for(process, lambda: has_lines(metrics) and holder(self.lock(fold)))

    def step(self, fold: int = 0) -> int:
        """Number of steps in its newest checkpoint."""
        newest = newest_state(self.workspace.scratch("tiny", "net", fold))
        assert newest is not None
        return int(newest[2]["clock"]["step"])

    def lock(self, fold: int = 0) -> Path:
        return self.workspace.lock("tiny", "net", fold)

    def predictions(self, *folds: int) -> dict[str, str]:
        """Hashes of the prediction files of some folds."""
        return {
            f"{fold} {part}": sha256_file(self.workspace.fold("tiny", "net", fold) / f"{part}.parquet")
            for fold in folds
            for part in ("valid", "test")
        }

    def leftovers(self) -> list[Path]:
        """Half-written files, checkpoints and locks."""
        patterns = (".*.tmp", "*.ckpt", "lock.json*", "*.part", "*.lock", "redo")
        return [path for pattern in patterns for path in self.root.rglob(pattern)]
