"""Processes that are stopped or started twice lose no work, and the final predictions are the same bytes."""

import os
import signal
from pathlib import Path

import pytest
from trainings import SECONDS, Training, wait_for

from conftest import write_competition

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_competition(tmp_path_factory.mktemp("drawn") / "tiny")


@pytest.fixture(scope="module")
def whole(competition: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Fold 0, trained without interruption."""
    training = Training(competition, tmp_path_factory.mktemp("whole"))
    code, output = training.run("--fold", "0")
    assert code == 0, output
    return training


@pytest.fixture
def training(competition: Path, tmp_path: Path) -> Training:
    return Training(competition, tmp_path / "work")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_the_same_command_continues(
    sent: signal.Signals, training: Training, whole: Training
) -> None:
    process = training.start("--fold", "0")
    training.wait_for_work(process)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, output
    assert "stopping at the next good moment" in output and "the same command goes on" in output
    assert "Traceback" not in output
    assert {path.suffix for path in training.leftovers()} == {".ckpt"}
    code, output = training.run("--fold", "0")
    assert code == 0 and "goes on from step" in output
    assert training.predictions(0) == whole.predictions(0)
    assert training.leftovers() == []


def test_a_signal_to_the_process_group_spares_the_workers(
    competition: Path, whole: Training, tmp_path: Path
) -> None:
    """SLURM, systemd and torch's launcher signal a whole group: the loader's workers, too."""
    training = Training(competition, tmp_path / "work", f"{whole.settings} runtime.num_workers=2")
    process = training.start("--fold", "0", group=True)
    training.wait_for_work(process)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)  # returns when the workers have ended, too
    assert process.returncode == 75 and "memory" not in output, output
    code, output = training.run("--fold", "0")
    assert code == 0 and "goes on from step" in output, output
    assert training.predictions(0) == whole.predictions(0)


def test_a_second_signal_stops_at_once(training: Training, whole: Training) -> None:
    process = training.start("--fold", "0")
    training.wait_for_work(process)
    os.kill(process.pid, signal.SIGSTOP)  # so that both signals are pending when it continues
    process.send_signal(signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode in (75, -signal.SIGINT), output
    code, output = training.run("--fold", "0")
    assert code == 0 and training.predictions(0) == whole.predictions(0)


def test_a_time_limit_stops_the_training(competition: Path, tmp_path: Path) -> None:
    """The training would take longer than the limit."""
    training = Training(competition, tmp_path / "work", "phases.scratch.epochs=5000")
    code, output = training.run("--fold", "0", "--time-limit", "15s")
    assert code == 75 and "stopped (the time limit)" in output
    assert not list(training.workspace.oof("tiny").rglob("manifest.json"))


def test_a_second_process_on_the_same_fold_names_the_first_and_exits(
    competition: Path, tmp_path: Path
) -> None:
    training = Training(competition, tmp_path / "work", "phases.scratch.epochs=5000")
    first = training.start("--fold", "0")
    training.wait_for_work(first)
    code, output = training.run("--fold", "0")
    assert code == 1
    assert f"net, fold 0: locked by process {first.pid} on" in output
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=SECONDS)
    assert first.returncode == 75, output


def test_a_stopped_retraining_continues_without_force(training: Training, whole: Training) -> None:
    assert training.run("--fold", "0")[0] == 0
    process = training.start("--fold", "0", "--force")
    wait_for(process, lambda: {"last.ckpt", "redo"} <= {path.name for path in training.leftovers()})
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75 and "without FORCE=1 the same command goes on" in output
    assert training.predictions(0) == whole.predictions(0)  # still those of the first training
    code, output = training.run("--fold", "0")
    assert code == 0 and "done already" not in output
    assert training.predictions(0) == whole.predictions(0)
    assert training.leftovers() == []
    code, output = training.run("--fold", "0")
    assert code == 0 and "done already" in output
