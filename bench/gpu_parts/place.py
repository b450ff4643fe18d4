"""Where the parts of `make gpu-check` work: the device, a folder, photographs, and trainings on them."""

import gc
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import torch

from distracted.config import load_config, load_data_config
from distracted.errors import TrainingError
from distracted.files import sha256_file
from distracted.inference.device import Precision, fast_precision
from distracted.jobs.fold import train_and_store
from distracted.locks import holder
from distracted.models.network import build_network
from distracted.paths import CONFIGS, Workspace
from distracted.predictions.manifest import Manifest
from distracted.predictions.store import Store, open_store
from distracted.progress import Progress, silent
from distracted.sample import render_sample
from distracted.schema import TrainPhase
from distracted.training.checkpoints import newest_state
from distracted.training.context import FoldContext
from distracted.training.loop import FoldTraining
from distracted.training.metrics_log import Tracker
from distracted.training.phase_training import PhaseTraining
from distracted.training.resolve import resolve

_SCRIPTS = CONFIGS.parent / "scripts"
_FP32: list[Precision] = ["fp32"]
_LONGEST = 240.0  # seconds that any one training may take


@dataclass(frozen=True)
class Place:
    """The device, and how much to do.

    Attributes:
        folder: Holds photographs, and a workspace for each training.
        device: As torch names it: cuda, mps or cpu.
        is_short: Smaller networks, images and numbers, for a CPU.
    """

    folder: Path
    device: str
    is_short: bool

    @property
    def is_cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def photographs(self) -> Path:
        return self.folder / ("few" if self.is_short else "photographs")

    @property
    def settings(self) -> list[str]:
        """Overrides that all trainings share."""
        return [
            f"runtime.device={self.device}",
            "runtime.tracking=none",
            "training.num_folds=2",
            "model.weights=none",
            *(["training.batch_size=4"] if self.is_short else []),
        ]

    def render(self, progress: Progress = silent) -> None:
        """Render driver scenes, unless they are there already."""
        if not self.photographs.exists():
            frames, width = (1, 160) if self.is_short else (8, 640)
            render_sample(
                self.photographs,
                num_subjects=4,
                num_test_subjects=1,
                num_frames=frames,
                width=width,
                progress=progress,
            )

    def precisions(self) -> list[Precision]:
        """Those that the device computes, fp32 first, then its fast one."""
        if not self.is_cuda:
            return ["fp32", "bf16"] if self.device == "cpu" else _FP32
        capability = torch.cuda.get_device_capability()
        native: list[Precision] = ["fp16", "bf16"] if capability >= (8, 0) else ["fp16"]
        return list(dict.fromkeys([*_FP32, fast_precision(capability), *native]))

    def store(self, name: str) -> Store:
        """The store of a workspace of that name; all workspaces share one cache."""
        workspace = Workspace(self.folder / name, cache_dir=self.folder / "cache")
        return open_store(workspace, load_data_config(str(self.photographs.absolute())), num_folds=2)

    def context(self, model: str, *overrides: str, name: str = "steps") -> FoldContext:
        """Fold 0 of a model's config with overrides."""
        data, settings = str(self.photographs.absolute()), [*self.settings, *overrides]
        resolved = resolve(load_config(model=model, data=data, overrides=settings), num_folds=2)
        store = self.store(name)
        cache = store.workspace.cache(store.competition.name)
        return FoldContext(resolved, 0, store.competition, store.folds, cache, Tracker())

    def phase(self, model: str, *overrides: str, name: str = "steps", lasts: int = 10_000) -> PhaseTraining:
        """The running phase of a training from random weights, ready for its first step.

        Args:
            lasts: Epochs of the phase.
        """
        gc.collect()  # earlier phases, whose parts refer to each other
        context = self.context(model, f"phases.scratch.epochs={lasts}", *overrides, name=name)
        training = FoldTraining(context)
        torch.manual_seed(0)
        network = build_network(
            context.config.model, context.resolved.weights, num_classes=context.num_classes
        )
        training.network = network.to(context.device)
        [(title, phase)] = context.config.phases.items()
        assert isinstance(phase, TrainPhase)
        run = PhaseTraining(training, title, phase)
        run.set_modes()
        return run

    def train(self, name: str, model: str, *overrides: str, run: str = "net") -> tuple[Manifest, list[str]]:
        """Train and store fold 0 of a run in this process; its manifest, and the lines that it logged."""
        store, context = self.store(name), self.context(model, *overrides, name=name)
        with logged() as lines:
            manifest = train_and_store(store, context.resolved, run=run, fold=0)
        return manifest, lines


def fresh(folder: Path) -> Path:
    """A folder without the contents of an earlier check."""
    rmtree(folder, ignore_errors=True)
    return folder


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collects the lines that the library logs."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, handler = logging.getLogger("distracted"), Lines()
    before, log.propagate = (log.level, log.propagate), False
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


@dataclass(frozen=True)
class Command:
    """Fold 0 of the run `net` as users train it: a process with its own workspace.

    Attributes:
        name: The workspace.
    """

    place: Place
    name: str
    model: str
    overrides: Sequence[str]

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.place.folder / self.name)

    def arguments(self, script: str = "train.py", *more: str) -> list[str]:
        which = "--models" if script == "grid.py" else "--model"
        cache = f"'runtime.cache_dir={(self.place.folder / 'cache').absolute()}'"
        settings = [*self.place.settings, cache, *self.overrides]
        data = str(self.place.photographs.absolute())
        run = [which, self.model, "--name", "net", "--data", data, "--root", str(self.workspace.root)]
        return [sys.executable, str(_SCRIPTS / script), *run, "--set", " ".join(settings), *more]

    def start(self, script: str = "train.py", *more: str) -> subprocess.Popen[str]:
        """Start it in a process group of its own; its output goes to a pipe."""
        self.workspace.root.mkdir(parents=True, exist_ok=True)
        parent = ["--parent", str(os.getpid())] if script == "train.py" else []
        command, pipe = self.arguments(script, *more, *parent), subprocess.PIPE
        return subprocess.Popen(
            command, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def run(self, script: str = "train.py", *more: str) -> tuple[int, str]:
        """Run it to its end; its exit code and its output."""
        process = self.start(script, *more)
        output, _ = process.communicate(timeout=_LONGEST)
        return process.returncode, output

    def wait_for_work(self, process: subprocess.Popen[str]) -> None:
        """Wait until the fold has logged its first steps.

        Raises:
            TrainingError: it ended before.
        """
        metrics = self.workspace.metrics(self.place.photographs.name, "net", 0)
        wait_for(process, lambda: metrics.is_file() and metrics.stat().st_size > 0 and self.lead() != 0)

    def lead(self) -> int:
        """The process that holds the fold; 0: none."""
        owner = holder(self.workspace.lock(self.place.photographs.name, "net", 0))
        return owner.pid if owner is not None else 0

    def predictions(self, *folds: int) -> list[str]:
        """Hashes of the predictions of some folds."""
        found = [self.workspace.fold(self.place.photographs.name, "net", fold) for fold in folds]
        return [sha256_file(folder / f"{part}.parquet") for folder in found for part in ("valid", "test")]

    def step(self) -> int:
        """Step of the newest checkpoint; 0: none."""
        scratch = self.workspace.scratch(self.place.photographs.name, "net", 0)
        newest = newest_state(scratch)
        return int(newest[2]["clock"]["step"]) if newest is not None else 0


def wait_for(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    """Wait for a condition that a running process will fulfil.

    Raises:
        TrainingError: it ended before, or takes too long.
    """
    deadline = time.monotonic() + _LONGEST
    while not condition():
        if process.poll() is not None:
            raise TrainingError(f"the training ended early: {process.communicate()[0][-500:]}")
        if time.monotonic() > deadline:
            process.kill()
            raise TrainingError(f"the training did not begin within {_LONGEST:.0f} seconds")
        time.sleep(0.02)
