"""Fixtures: a tiny competition, its store, made-up runs, and a stand-in for W&B's server."""

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter

os.environ["WANDB_MODE"] = "disabled"  # tests of W&B enable it themselves
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same tests on a machine with a GPU, in processes they start too

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from hypothesis import settings

from distracted.config import load_config, load_data_config
from distracted.data import images
from distracted.data.competition import Competition, load_competition
from distracted.data.folds import read_folds
from distracted.ensemble.derive import Derived, derive_run
from distracted.locks import Owner, this_process
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights
from distracted.paths import Workspace
from distracted.postprocess.calibrate import CALIBRATIONS, Calibrate
from distracted.postprocess.step import Subset
from distracted.predictions.store import Store
from distracted.progress import Advance
from distracted.schema import DataConfig, HeadConfig, ModelConfig, RunConfig
from distracted.tracking.online import ask_server
from distracted.training.context import FoldContext
from distracted.training.loop import FoldResult, train_fold
from distracted.training.metrics_log import FileTracker
from distracted.training.resolve import resolve

if TYPE_CHECKING:
    from stand_in import StandIn

CLASSES = ("c0", "c1", "c2")

# The same examples everywhere; other ones are drawn with --hypothesis-profile=default.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with most slow tests first: one that is begun last would leave the other processes idle."""
    num_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[item.path])


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of the garbage collector's sight: each training has it collect."""
    gc.collect()
    gc.freeze()


#: Settings of a minimal run from random weights.
TINY = (
    "model.backbone=test_resnet",
    "model.weights=none",
    "model.image_size=32",
    "runtime.tracking=none",
    "training.num_folds=3",
    "phases.scratch.epochs=1",
)


torch.backends.mps.is_available = lambda: False  # type: ignore[method-assign]  # no variable hides a Mac's GPU


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks are fastest on one thread, and parallel tests do not compete for cores."""
    torch.set_num_threads(1)
    yield


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often this process has decoded each file since the test began."""
    counts, decode = Counter[Path](), images.decode_rgb

    def counting(data: bytes, path: Path, *, short_side: int | None = None) -> images.Image:
        counts[path] += 1
        return decode(data, path, short_side=short_side)

    monkeypatch.setattr(images, "decode_rgb", counting)
    return counts


def write_competition(
    folder: Path,
    *,
    num_subjects: int = 6,
    num_frames: int = 3,
    num_test: int = 7,
    size: int = 40,
    seed: int = 0,
) -> Path:
    """Write a competition: classes differ in the position of a bright square, subjects in colour."""
    rng = np.random.default_rng(seed)
    rows, names = [], iter(rng.permutation(10_000))

    def write(path: Path, label: int) -> None:
        image = np.full((size * 3 // 4, size, 3), rng.integers(0, 120, 3), np.uint8)
        left = (4, size // 2 - 5, size - 15)[label]
        image[8:20, left : left + 10] = 255
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image)

    for subject in range(num_subjects):
        for label, name in enumerate(CLASSES):
            for _ in range(num_frames):
                img = f"img_{next(names)}.jpg"
                rows.append((f"p{subject:03}", name, img))
                write(folder / "imgs/train" / name / img, label)
    pd.DataFrame(rows, columns=["subject", "classname", "img"]).to_csv(
        folder / "driver_imgs_list.csv", index=False
    )
    test = sorted(f"img_{next(names)}.jpg" for _ in range(num_test))
    for number, img in enumerate(test):
        write(folder / "imgs/test" / img, number % 3)
    sample = pd.DataFrame({"img": test} | dict.fromkeys(CLASSES, 1 / 3))
    sample.to_csv(folder / "sample_submission.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny competition, written once; tests get copies."""
    return write_competition(tmp_path_factory.mktemp("drawn") / "tiny")


@pytest.fixture
def folder(tmp_path: Path, drawn: Path) -> Path:
    """A copy of the tiny competition in a folder named `tiny`."""
    return shutil.copytree(drawn, tmp_path / "tiny")


@pytest.fixture
def data(folder: Path) -> DataConfig:
    return load_data_config(str(folder))


@pytest.fixture
def competition(data: DataConfig) -> Competition:
    return load_competition(data)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@dataclass
class RecordedProgress:
    """A `Progress` that records the total and the completed units of each task."""

    tasks: list[tuple[int, int]] = field(default_factory=list)

    @contextmanager
    def __call__(self, label: str, /, *, total: int, unit: str) -> Iterator[Advance]:
        counts: list[int] = []

        def step(count: int = 1, /, **fields: float) -> None:
            counts.append(count)

        yield step
        self.tasks.append((total, sum(counts)))


def model_config(backbone: str, size: int, **head_settings: object) -> ModelConfig:
    head = HeadConfig.model_validate({"dropout": 0.0, **head_settings})
    return ModelConfig(backbone=backbone, weights="none", image_size=size, crop=1.0, head=head)


@pytest.fixture
def network() -> Network:
    """A small network for three classes and images of 32 pixels, with random weights."""
    torch.manual_seed(0)
    return build_network(model_config("test_resnet", 32, dropout=0.5), Weights("none"), num_classes=3)


StoreWith = Callable[[dict[str, int]], Store]


@pytest.fixture
def store_with(workspace: Workspace, competition: Competition) -> StoreWith:
    """A function that makes a store from the fold of each subject; subjects left out have fold -1."""

    def store_with(held_out: dict[str, int]) -> Store:
        table = competition.train[["img", "subject", "label"]]
        path = workspace.folds(competition.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        fold = table["subject"].map(held_out).fillna(-1).astype(int)
        table.assign(fold=fold).to_csv(path, index=False)
        return Store(workspace, competition, read_folds(path, competition))

    return store_with


@pytest.fixture
def store(store_with: StoreWith) -> Store:
    """A store with the tiny competition, its six subjects in three fixed folds."""
    return store_with({f"p{subject:03}": subject % 3 for subject in range(6)})


@pytest.fixture
def write_run(store: Store) -> Callable[..., None]:
    """A function that writes a run of random predictions; `skill` moves them towards the labels."""

    def write(
        run: str,
        *,
        skill: float = 1.0,
        seed: int = 0,
        folds: tuple[int, ...] = (0, 1, 2),
        config: dict[str, Any] | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        num_classes = store.competition.num_classes
        for fold in folds:
            rows = store.folds.valid(fold)
            scores = rng.normal(size=(len(rows), num_classes))
            scores[np.arange(len(rows)), store.folds.labels[rows]] += skill
            test = rng.normal(size=(len(store.competition.test), num_classes))
            store.write_fold(
                run,
                fold,
                kind="model",
                config={"run": run, **(config or {})},
                valid=_log_softmax(scores),
                test=_log_softmax(test),
                scores={"valid/log_loss": 1.0, "valid/accuracy": 0.5},
            )

    return write


def calibrate(
    store: Store, run: str, *, parts: Sequence[str] = CALIBRATIONS, name: str = "", force: bool = False
) -> Derived:
    """Do what `make calibrate` does."""
    return derive_run(store, Calibrate(parts), [run], name=name, force=force)


@dataclass(frozen=True)
class MemorySpace:
    """A feature space whose neighbours or clusters come from a function, not from files."""

    get: Callable[[type, Subset], Any]


def stamps(store: Store, run: str) -> list[os.stat_result]:
    """The `stat` of each file of a run's folds; equal if nothing was written in between."""
    return [path.stat() for path in sorted(store.workspace.run("tiny", run).glob("fold*/*"))]


def dead_owner() -> Owner:
    """A lock's owner that was a process of this machine and has ended."""
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    return replace(this_process(), pid=ended.pid)


def write_owner(path: Path, owner: Owner) -> None:
    """Write the lock file of an owner."""
    path.write_text(json.dumps(asdict(owner)))


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


Train = Callable[..., FoldResult]


@pytest.fixture
def configure(data: DataConfig) -> Callable[..., RunConfig]:
    def make(
        *overrides: str, tiny: Sequence[str] = TINY, model: str = "resnet50", leaky: bool = False
    ) -> RunConfig:
        return load_config(model=model, data=str(data.folder), overrides=[*tiny, *overrides], leaky=leaky)

    return make


@pytest.fixture
def train(store: Store, configure: Callable[..., RunConfig], tmp_path: Path) -> Train:
    """A function that trains a fold with overrides; metrics go to tmp_path/scratch."""

    def run(*overrides: str, fold: int = 0, **settings: object) -> FoldResult:
        resolved = resolve(configure(*overrides, **settings), num_folds=3)
        with FileTracker(tmp_path / "scratch") as tracker:
            context = FoldContext(
                resolved,
                fold,
                competition=store.competition,
                folds=store.folds,
                cache=tmp_path / "cache",
                tracker=tracker,
            )
            return train_fold(context)

    return run


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["StandIn"]:
    """A stand-in for W&B's server, which the client uses; the working folder is tmp_path/work."""
    from stand_in import serve  # in tests/tracking/

    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    with serve() as stand_in:
        monkeypatch.setenv("WANDB_BASE_URL", stand_in.url)
        monkeypatch.setenv("WANDB_API_KEY", "1234567890abcdef" * 2 + "12345678")
        monkeypatch.setenv("WANDB_DATA_DIR", str(folder / "runs/.wandb"))
        monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
        yield stand_in
        wandb.teardown()


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that switches W&B's mode, which the client reads only once."""

    def switch(mode: str) -> None:
        monkeypatch.setenv("WANDB_MODE", mode)
        ask_server.cache_clear()
        wandb.teardown()

    return switch


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Like tmp_path, but with a short name, as sockets need, and not only for its owner."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
