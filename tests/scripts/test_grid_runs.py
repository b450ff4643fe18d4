"""`make grid` with real processes, and on a real Ray cluster of two nodes, one of which is killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import lose_a_node, two_nodes
from trainings import SCRIPTS, SECONDS, has_lines, wait_for

from conftest import TINY, write_competition
from distracted.config import load_data_config
from distracted.files import sha256_file
from distracted.locks import holder
from distracted.paths import Workspace
from distracted.predictions.store import open_store

pytestmark = pytest.mark.slow

MODELS = ("resnet50", "vgg16")
SETTINGS = " ".join([*TINY, "phases.scratch.epochs=40"])


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_competition(tmp_path_factory.mktemp("drawn") / "tiny")


def grid(competition: Path, root: Path, *more: str, settings: str = SETTINGS) -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    where = ["--data", str(competition), "--root", str(root)]
    options = ["--models", " ".join(MODELS), *where, "--set", settings]
    command = ["nice", sys.executable, str(SCRIPTS / "grid.py"), *options, *more]  # as in Training.start
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def predictions(root: Path) -> dict[str, str]:
    folder = root / "oof/tiny"
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.glob("*/*/*.parquet")}


@pytest.fixture(scope="module")
def local(competition: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of two models and three folds on this machine."""
    root = tmp_path_factory.mktemp("local")
    process = grid(competition, root)
    output, _ = process.communicate(timeout=3 * SECONDS)
    assert process.returncode == 0, output
    for run in MODELS:
        assert f"{run}: pooled OOF log loss" in output
        assert all(f"{run}, fold {fold}: done, log loss" in output for fold in range(3))
    return root


def test_a_finished_grid_is_skipped(competition: Path, local: Path) -> None:
    before = predictions(local)
    assert len(before) == 12
    output, _ = grid(competition, local).communicate(timeout=SECONDS)
    assert "all folds are done" in output and predictions(local) == before


def test_a_failing_model_stops_no_other_model_and_sets_the_exit_code(
    competition: Path, local: Path, tmp_path: Path
) -> None:
    """VGG16 does not accept images of 20 pixels."""
    settings = SETTINGS.replace("model.backbone=test_resnet ", "").replace("epochs=40", "epochs=1")
    settings = settings.replace("image_size=32", "image_size=20")
    process = grid(competition, tmp_path / "work", "--folds", "0", settings=settings)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and "1 of 2 jobs failed" in output
    assert "vgg16, fold 0: model.image_size=20" in output and "resnet50, fold 0: done" in output


def test_a_stopped_grid_continues(competition: Path, local: Path, tmp_path: Path) -> None:
    root = tmp_path / "work"
    process = grid(competition, root, "--folds", "0")
    wait_for_steps(process, root, "resnet50", 0)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, output
    assert not [path for path in (root / "runs").rglob("lock.json") if holder(path)]
    process = grid(competition, root, "--folds", "0")
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert "goes on from step" in (root / "runs/tiny/resnet50/fold0/log.txt").read_text()
    resumed = predictions(root)
    assert len(resumed) == 4 and resumed.items() <= predictions(local).items()


def test_the_jobs_of_a_killed_grid_stop_by_themselves(competition: Path, tmp_path: Path) -> None:
    root = tmp_path / "work"
    process = grid(competition, root, settings=SETTINGS.replace("epochs=40", "epochs=5000"))
    wait_for_steps(process, root, "resnet50", 0)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + SECONDS
    while [path for path in (root / "runs").rglob("lock.json") if holder(path)]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (root / "runs/tiny/resnet50/fold0/last.ckpt").exists()


def wait_for_steps(process: subprocess.Popen[str], root: Path, run: str, fold: int) -> None:
    wait_for(process, lambda: has_lines(Workspace(root).metrics("tiny", run, fold)))


@pytest.fixture
def cluster() -> Iterator[Any]:
    with two_nodes() as cluster:
        yield cluster


def test_a_killed_node_does_not_change_a_clusters_predictions(
    competition: Path, local: Path, tmp_path: Path, cluster: Any
) -> None:
    """Readers see only complete files at any time, and the predictions equal those of a single machine."""
    root = tmp_path / "work"
    process = grid(competition, root, "--cluster", cluster.address)
    killed, looks = None, 0
    deadline = time.monotonic() + 4 * SECONDS
    while process.poll() is None:
        assert time.monotonic() < deadline
        killed = killed or lose_a_node(cluster, root)
        if (root / "oof/tiny/folds.csv").exists():
            store = open_store(Workspace(root), load_data_config(str(competition)))
            for run in store.runs():
                store.read_run(run, partial=True)
                looks += 1
        time.sleep(0.1)  # leaves the cores to the jobs
    output, _ = process.communicate()
    assert process.returncode == 0 and killed is not None and looks > 10, output
    assert predictions(root) == predictions(local)
    assert len(list((root / "runs").rglob("log.txt"))) == 6
    assert "goes on from step" in (killed / "log.txt").read_text()


def test_jobs_on_a_cluster_follow_the_grids_wandb_mode_and_project(
    competition: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes were started with another mode, and know nothing of the grid's environment."""
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    monkeypatch.setenv("WANDB_PROJECT", "secret")
    settings = " ".join([*TINY, "runtime.tracking=wandb"])
    process = grid(competition, tmp_path, "--cluster", cluster.address, "--folds", "0", settings=settings)
    output, _ = process.communicate(timeout=3 * SECONDS)
    assert process.returncode == 0, output
    for model in MODELS:
        [recording] = (tmp_path / "runs/tiny" / model / "fold0").glob("wandb/offline-run-*/*.wandb")
        assert b"secret" in recording.read_bytes()
