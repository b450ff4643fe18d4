"""Real processes that are told to stop, or begun twice: nothing is lost, and nothing shows it."""

import os
import signal
from pathlib import Path

import pytest
from trainings import SECONDS, Training

from conftest import write_competition

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_competition(tmp_path_factory.mktemp("drawn") / "tiny")


@pytest.fixture(scope="module")
def whole(competition: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Fold 0, trained without interruption."""
    training = Training(competition, tmp_path_factory.mktemp("whole"))
    code, said = training.run("--fold", "0")
    assert code == 0, said
    return training


@pytest.fixture
def training(competition: Path, tmp_path: Path) -> Training:
    return Training(competition, tmp_path / "work")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(
    sent: signal.Signals, training: Training, whole: Training
) -> None:
    process = training.start("--fold", "0")
    training.wait_for_work(process)
    process.send_signal(sent)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, said
    assert "stopping at the next good moment" in said and "the same command goes on" in said
    assert "Traceback" not in said
    assert {path.suffix for path in training.leftovers()} == {".ckpt"}
    code, said = training.run("--fold", "0")
    assert code == 0 and "goes on from step" in said
    assert training.predictions(0) == whole.predictions(0)
    assert training.leftovers() == []


def test_a_second_ctrl_c_leaves_at_once(training: Training, whole: Training) -> None:
    process = training.start("--fold", "0")
    training.wait_for_work(process)
    os.kill(process.pid, signal.SIGSTOP)  # both arrive while it cannot react to the first
    process.send_signal(signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode in (75, -signal.SIGINT), said
    code, said = training.run("--fold", "0")
    assert code == 0 and training.predictions(0) == whole.predictions(0)


def test_a_time_limit_stops_by_itself(competition: Path, tmp_path: Path) -> None:
    """With a limit that is reached in the middle, of a training that takes longer."""
    training = Training(competition, tmp_path / "work", "phases.scratch.epochs=5000")
    code, said = training.run("--fold", "0", "--time-limit", "15s")
    assert code == 75 and "stopped (the time limit)" in said
    assert not list(training.workspace.oof("tiny").rglob("manifest.json"))


def test_of_two_that_train_one_fold_one_works_and_the_other_says_who(
    competition: Path, tmp_path: Path
) -> None:
    training = Training(competition, tmp_path / "work", "phases.scratch.epochs=5000")
    first = training.start("--fold", "0")
    training.wait_for_work(first)
    code, said = training.run("--fold", "0")
    assert code == 1
    assert f"net, fold 0: locked by process {first.pid} on" in said
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=SECONDS)
    assert first.returncode == 75, said


def test_a_redo_that_was_stopped_goes_on_without_force(training: Training, whole: Training) -> None:
    assert training.run("--fold", "0")[0] == 0
    process = training.start("--fold", "0", "--force")
    training.wait_for(process, lambda: {"last.ckpt", "redo"} <= {path.name for path in training.leftovers()})
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75 and "without FORCE=1 the same command goes on" in said
    assert training.predictions(0) == whole.predictions(0)  # the old ones, meanwhile
    code, said = training.run("--fold", "0")
    assert code == 0 and "done already" not in said
    assert training.predictions(0) == whole.predictions(0)
    assert training.leftovers() == []
    code, said = training.run("--fold", "0")
    assert code == 0 and "done already" in said
