"""Training survives faults of the machine: full disks, vanished pictures, killed processes."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from distracted.data.competition import Competition
from distracted.errors import ImageError, TrainingError
from distracted.files import sha256_file
from distracted.jobs.fold import train_and_store
from distracted.paths import Workspace
from distracted.predictions.store import Store
from distracted.schema import RunConfig
from distracted.submission.submit import write_submission
from distracted.training.checkpoints import Checkpoints
from distracted.training.resolve import resolve

Configure = Callable[..., RunConfig]
WriteRun = Callable[..., None]


class Disk:
    """A small file system that a test can fill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, *, leaving: int) -> None:
        """Fill it up to the given number of free bytes."""
        self._filler.unlink(missing_ok=True)
        free = shutil.disk_usage(self.folder).free
        with self._filler.open("wb") as file:
            file.write(b"x" * (free - leaving))

    def empty(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    """A workspace, on the small disk if the test uses it."""
    on_disk = "disk" in request.fixturenames
    return Workspace(request.getfixturevalue("disk").folder if on_disk else tmp_path / "work")


def files(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "filler"]
    return {str(path.relative_to(folder)): sha256_file(path) for path in paths}


def test_a_full_disk_at_a_checkpoint(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(disk.folder / "fold0", {}, every=1)
    states = [{"weights": torch.full((1_000_000,), float(number))} for number in range(3)]
    checkpoints.after_step(lambda: states[0])
    before = files(disk.folder)
    disk.fill(leaving=2_000_000)
    checkpoints.after_step(lambda: states[1])
    assert "cannot be written (No space left on device); the one before it is kept" in caplog.text
    assert files(disk.folder) == before
    disk.empty()
    checkpoints.after_step(lambda: states[2])
    state = checkpoints.load()
    assert state is not None and state["weights"].equal(states[2]["weights"])


@pytest.mark.parametrize("room", [0, 4096, 8192])
def test_a_full_disk_at_the_predictions(disk: Disk, store: Store, write_run: WriteRun, room: int) -> None:
    """The earlier predictions stay, whichever of the three files does not fit."""
    write_run("a")
    before, oof = files(disk.folder), store.read_run("a").oof
    disk.fill(leaving=room)
    with pytest.raises(OSError) as caught:
        write_run("a", seed=1, folds=(1,))
    assert caught.value.errno == errno.ENOSPC
    assert files(disk.folder) == before and np.array_equal(store.read_run("a").oof, oof)
    disk.empty()
    write_run("a", seed=1, folds=(1,))
    assert not np.array_equal(store.read_run("a").oof, oof)


@pytest.mark.parametrize("room", [0, 4096])
def test_a_full_disk_at_the_submission(disk: Disk, store: Store, write_run: WriteRun, room: int) -> None:
    write_run("a")
    submitted = write_submission(store, name="a").path
    write_run("a", seed=1)
    before = files(disk.folder)
    disk.fill(leaving=room)
    with pytest.raises(OSError) as caught:
        write_submission(store, name="a")
    assert caught.value.errno == errno.ENOSPC
    assert files(disk.folder) == before
    disk.empty()
    old = submitted.read_bytes()
    assert write_submission(store, name="a").path.read_bytes() != old


@pytest.mark.slow
def test_a_full_disk_at_the_end_of_training_loses_no_work(
    disk: Disk, store: Store, configure: Configure
) -> None:
    """The predictions do not fit; once there is room, the fold continues from its last step."""
    resolved = resolve(configure("runtime.checkpoint_steps=1"), num_folds=3)
    whole = train_and_store(store, resolved, run="whole", fold=0)
    write_fold = Store.write_fold

    def fill_first(self: Store, *args: object, **facts: object) -> object:
        disk.fill(leaving=4096)
        return write_fold(self, *args, **facts)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write_fold", fill_first)
        with pytest.raises(OSError) as caught:
            train_and_store(store, resolved, run="a", fold=0)
    assert caught.value.errno == errno.ENOSPC and store.finished_folds("a") == []
    disk.empty()
    manifest = train_and_store(store, resolved, run="a", fold=0)
    assert manifest.test_sha256 == whole.test_sha256 and manifest.details["num_resumed"] == 1


def test_an_error_on_a_read_only_disk_names_the_folder(
    disk: Disk, store: Store, configure: Configure, write_run: WriteRun
) -> None:
    write_run("a")
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    for write in (
        lambda: train_and_store(store, resolve(configure(), num_folds=3), run="b", fold=0),
        lambda: write_submission(store, name="a"),
        lambda: write_run("a", seed=1),
    ):
        with pytest.raises(OSError) as caught:
            write()
        assert caught.value.errno == errno.EROFS and str(disk.folder) in str(caught.value.filename)
    assert len(store.read_run("a").oof)


def last_picture_of_first_epoch(competition: Competition, store: Store) -> Path:
    """Path of the picture that the first epoch reads last."""
    rows = np.random.default_rng([0, 0]).permutation(store.folds.train(0))
    return competition.train_paths()[int(rows[-1])]


@pytest.mark.slow
def test_a_fold_resumes_once_a_missing_picture_is_back(
    store: Store, configure: Configure, tmp_path: Path
) -> None:
    overrides = ["runtime.checkpoint_steps=1", "runtime.cache_gb=0", "phases.scratch.epochs=2"]
    resolved = resolve(configure(*overrides), num_folds=3)
    whole = train_and_store(store, resolved, run="whole", fold=0)
    path = last_picture_of_first_epoch(store.competition, store)
    path.rename(tmp_path / "aside")
    with pytest.raises(ImageError, match=str(path)):
        train_and_store(store, resolved, run="a", fold=0)
    (tmp_path / "aside").rename(path)
    manifest = train_and_store(store, resolved, run="a", fold=0)
    assert manifest.details["num_resumed"] == 1
    assert (manifest.valid_sha256, manifest.test_sha256) == (whole.valid_sha256, whole.test_sha256)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGKILL])
def test_after_the_death_of_the_decoding_process_the_fold_gives_the_same_bytes(
    store: Store, configure: Configure, sent: signal.Signals
) -> None:
    """It goes on without one if the memory ran out (SIGKILL), else when the same command is run again."""
    small = ("training.batch_size=2", "phases.scratch.epochs=6")  # 18 batches; metrics after 10
    none, one = (resolve(configure(f"runtime.num_workers={n}", *small), num_folds=3) for n in (0, 1))
    whole = train_and_store(store, none, run="whole", fold=0)
    metrics = store.workspace.metrics("tiny", "a", 0)
    has_ended = threading.Event()

    def kill() -> None:
        while not has_ended.is_set():
            if metrics.is_file() and metrics.stat().st_size:
                for child in multiprocessing.active_children():
                    assert child.pid
                    os.kill(child.pid, sent)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        if sent == signal.SIGKILL:
            train_and_store(store, one, run="a", fold=0)
        else:
            with pytest.raises(TrainingError, match=r"decodes images was ended by .*SIGUSR1.*num_workers"):
                train_and_store(store, one, run="a", fold=0)
    finally:
        has_ended.set()
        killer.join()
    manifest = train_and_store(store, none, run="a", fold=0)
    assert manifest.details.get("num_resumed", 0) == (sent != signal.SIGKILL)
    assert (manifest.valid_sha256, manifest.test_sha256) == (whole.valid_sha256, whole.test_sha256)
