"""Two processes that share a fold's training get the same result as one."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from trainings import SECONDS, Training

from conftest import write_competition
from distracted.locks import holder

pytestmark = pytest.mark.slow

#: 20 steps on batches of 12; only the images' own augmentation is random, and BatchNorm is frozen. Where a
#: gradient is nearly zero, AdamW would make rounding errors as large as steps.
SETTINGS = (
    "training.batch_size=12 model.head.dropout=0 training.ema=0.9 phases.finetune.epochs=5 "
    "phases.finetune.batchnorm=frozen phases.finetune.optimizer=sgd phases.finetune.lr=0.02 "
    "phases.finetune.head_lr=0.02"
)


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A competition with odd numbers of images, so that two processes get unequal shares."""
    return write_competition(tmp_path_factory.mktemp("drawn") / "tiny", num_frames=4, num_test=41)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Settings with weights that count as pretrained: with random weights BatchNorm would not be frozen."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return f"{SETTINGS} model.weights={path}"


@pytest.fixture(scope="module")
def alone(competition: Path, settings: str, tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = Training(competition, tmp_path_factory.mktemp("alone"), settings)
    code, output = training.run("--fold", "0")
    assert code == 0, output
    return training


def tables(training: Training) -> list[pd.DataFrame]:
    folder = training.workspace.fold("tiny", "net", 0)
    return [pd.read_parquet(folder / f"{part}.parquet") for part in ("valid", "test")]


def tracked(training: Training) -> list[dict[str, float]]:
    """The lines of the metrics log with a training loss."""
    lines = training.workspace.metrics("tiny", "net", 0).read_text().splitlines()
    return [line for line in map(json.loads, lines) if "train/loss" in line]


def children(parent: int) -> list[int]:
    """Processes that a process has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def losses(training: Training) -> list[float]:
    return [line["train/loss"] for line in tracked(training)]


def test_two_processes_agree_with_one(
    competition: Path, settings: str, alone: Training, tmp_path: Path
) -> None:
    both = Training(competition, tmp_path / "work", settings)
    code, output = both.run("--fold", "0", "--gpus", "2")
    assert code == 0, output
    assert output.count("net, fold 0: log loss") == 1  # only the first process prints
    assert tracked(both)[-1]["step"] == 20 and np.ptp(losses(alone)) > 0.05
    np.testing.assert_allclose(losses(both), losses(alone), atol=1e-5)
    for ours, theirs in zip(tables(both), tables(alone), strict=True):
        assert ours["img"].equals(theirs["img"])
        np.testing.assert_allclose(ours.iloc[:, 1:], theirs.iloc[:, 1:], atol=1e-5)
    assert both.leftovers() == []


def test_a_stopped_team_of_three_continues_to_the_same_bytes(competition: Path, tmp_path: Path) -> None:
    """It is stopped within an epoch, when each process has seen its own share of the batches.

    A sum of three gradients depends on their order, which has to be the same in each step.
    """
    settings = "phases.scratch.epochs=10 model.head.dropout=0.5 training.batch_size=6 training.ema=0.9"
    training = Training(competition, tmp_path / "work", settings)
    whole = Training(competition, tmp_path / "whole", training.settings)
    code, output = whole.run("--fold", "0", "--gpus", "3")
    assert code == 0 and "find_unused_parameters" not in output, output
    step = 0
    while step % 8 == 0:  # until the stop falls within an epoch
        process = training.start("--fold", "0", "--gpus", "3")
        training.wait_for_work(process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 75, output
        step = training.step()
    code, output = training.run("--fold", "0", "--gpus", "3")
    assert code == 0 and f"goes on from step {step}" in output, output
    assert training.predictions(0) == whole.predictions(0)


def test_a_signal_to_a_teams_process_group_stops_it_and_it_continues(
    competition: Path, settings: str, alone: Training, tmp_path: Path
) -> None:
    training = Training(competition, tmp_path / "work", f"{settings} runtime.num_workers=1")
    process = training.start("--fold", "0", "--gpus", "2", group=True)
    training.wait_for_work(process)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75 and "memory" not in output, output
    code, output = training.run("--fold", "0", "--gpus", "2")
    assert code == 0 and "goes on from step" in output, output
    np.testing.assert_allclose(losses(training), losses(alone), atol=1e-5)


def start_two(training: Training) -> tuple[subprocess.Popen[str], int, int]:
    """A team of two that works: its launcher, and the process numbers of the lead and of the second."""
    process = training.start("--fold", "0", "--gpus", "2")
    training.wait_for_work(process)
    lead = holder(training.lock())
    assert lead is not None
    [second] = set(children(process.pid)) - {lead.pid}
    return process, lead.pid, second


def test_a_signal_to_one_process_alone_stops_its_team(competition: Path, tmp_path: Path) -> None:
    training = Training(competition, tmp_path / "work", "phases.scratch.epochs=5000")
    process, _, second = start_two(training)
    os.kill(second, signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75 and "another process of the team was asked to" in output, output
    assert training.step() > 0


@pytest.mark.parametrize("lead_hangs", [False, True])
def test_a_process_that_fails_ends_its_team_within_seconds(
    competition: Path, tmp_path: Path, lead_hangs: bool
) -> None:
    """Even a process that hears no signal, such as one that waits in an exchange on GPUs."""
    training = Training(competition, tmp_path / "work", "phases.scratch.epochs=5000")
    process, lead, second = start_two(training)
    if lead_hangs:
        os.kill(lead, signal.SIGSTOP)
    os.kill(second, signal.SIGKILL)
    begin = time.monotonic()
    output, _ = process.communicate(timeout=SECONDS)
    assert time.monotonic() - begin < 15
    assert process.returncode == 1 and "a process of the team was ended by signal 9" in output, output


def test_an_error_of_the_second_process_is_the_teams(competition: Path, tmp_path: Path) -> None:
    """An image that only the second process reads is gone."""
    folder = shutil.copytree(competition, tmp_path / "tiny")
    training = Training(folder, tmp_path / "work", "runtime.cache_gb=0")
    process = training.start("--fold", "0", "--gpus", "2")
    training.wait_for_work(process)
    test_images = sorted((folder / "imgs" / "test").iterdir())
    test_images[-1].unlink()
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and f"error: {test_images[-1]}" in output, output
    assert "a process of the team failed with exit code 1; see above" in output


def test_an_error_in_a_team_is_printed_and_sets_the_exit_code(competition: Path, tmp_path: Path) -> None:
    training = Training(competition, tmp_path / "work", "training.batch_size=1")
    code, output = training.run("--fold", "0", "--gpus", "2")
    assert code == 1 and "leave none for some of 2 processes" in output, output


def test_a_team_stops_by_itself_when_its_launcher_is_killed(competition: Path, tmp_path: Path) -> None:
    training = Training(competition, tmp_path / "work", "phases.scratch.epochs=5000")
    process = training.start("--fold", "0", "--gpus", "2")
    training.wait_for_work(process)
    process.kill()
    process.communicate(timeout=SECONDS)  # returns when its processes have closed their output
    assert holder(training.lock()) is None
    assert "last.ckpt" in {path.name for path in training.leftovers()}
