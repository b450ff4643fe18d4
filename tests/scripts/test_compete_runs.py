"""`make compete` with real processes: to its end, killed on the way, with little time, with faulty input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
import yaml
from trainings import SCRIPTS, SECONDS, has_lines, wait_for

from conftest import write_competition
from distracted.config import load_data_config
from distracted.data.sample_submission import sample_path
from distracted.paths import Workspace
from distracted.predictions.store import Store, open_store
from distracted.report.status import pooled_scores

pytestmark = pytest.mark.slow

HOURS = "80s"


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_competition(tmp_path_factory.mktemp("drawn") / "tiny")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny backbone, as a file: compete tunes pretrained networks only."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


def start(competition: Path, root: Path, weights: Path, *, hours: str = HOURS) -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    fixed = (
        f"model.backbone=test_resnet model.weights={weights} model.image_size=32 training.num_folds=3 "
        f"training.seed=0 training.batch_size=8 runtime.tracking=none"
    )
    options = ["--hours", hours, "--models", "resnet50", "--data", f"{competition}/", "--root", str(root)]
    command = ["nice", sys.executable, str(SCRIPTS / "compete.py"), *options, "--set", fixed]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def opened(competition: Path, root: Path) -> Store:
    return open_store(Workspace(root), load_data_config(str(competition)))


def check_submission(competition: Path, root: Path) -> pd.DataFrame:
    """The submission is whole: the sample's images and columns, and probabilities that sum to 1."""
    submission = pd.read_csv(root / "submissions/tiny/compete.csv")
    expected = pd.read_csv(sample_path(load_data_config(str(competition))))
    assert submission["img"].tolist() == expected["img"].tolist()
    assert submission.columns.tolist() == expected.columns.tolist()
    assert (submission.drop(columns="img").sum(axis=1) - 1).abs().max() < 1e-5
    return submission


@pytest.fixture(scope="module")
def finished(competition: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A competition until its time is up: the workspace and the output."""
    root, before = tmp_path_factory.mktemp("finished"), time.monotonic()
    process = start(competition, root, weights)
    output, _ = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, output
    assert time.monotonic() - before < float(HOURS[:-1]) + 15  # the process's own start is outside
    return root, output


def test_a_competition_ends_with_a_submission_and_says_what_was_chosen(
    competition: Path, finished: tuple[Path, str]
) -> None:
    root, output = finished
    check_submission(competition, root)
    plan = yaml.safe_load((root / "runs/tiny/plan.yaml").read_text())
    done = [entry["run"] for entry in plan["runs"] if entry["state"] == "done"]
    assert "resnet50_features" in done and len(done) > 1
    store = opened(competition, root)
    search = store.manifest("compete", 0).details["search"]
    assert search["num_runs"] == len(done) and search["num_candidates"] >= len(done)
    lines = [json.loads(line) for line in (root / "runs/tiny/.compete/blends.jsonl").read_text().splitlines()]
    assert len(lines) > 1 and [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    parts = ["the plan after", "cross-fitted log loss", "expected log loss", "submission: ", "minutes used"]
    assert all(part in output for part in parts)


def test_each_run_is_chosen_and_trained_once_and_over_all_folds(
    competition: Path, finished: tuple[Path, str]
) -> None:
    root, _ = finished
    store, plan = opened(competition, root), yaml.safe_load((root / "runs/tiny/plan.yaml").read_text())
    for entry in plan["runs"]:
        if entry["state"] == "done":
            assert store.finished_folds(entry["run"]) == [0, 1, 2]
            scored = pooled_scores(store, entry["run"])["log_loss"]
            assert entry["loss"] == pytest.approx(scored, rel=0.01)
    trained = {run for run in store.runs() if store.kinds(run) == {"model"}}
    assert trained == {entry["run"] for entry in plan["runs"] if entry["state"] == "done"}


def test_the_time_is_kept_and_more_of_it_goes_further(
    competition: Path, weights: Path, finished: tuple[Path, str]
) -> None:
    root, _ = finished
    used = json.loads((root / "runs/tiny/.compete/clock.json").read_text())["used_seconds"]
    assert used <= float(HOURS[:-1])
    before = (root / "submissions/tiny/compete.csv").stat()
    output, _ = start(competition, root, weights).communicate(timeout=SECONDS)
    assert f"all of HOURS={HOURS} is used; more goes further" in output
    assert (root / "submissions/tiny/compete.csv").stat() == before


def test_a_killed_competition_goes_on_and_ends(competition: Path, weights: Path, tmp_path: Path) -> None:
    """Killed while a network is trained; a submission that was written stays whole."""
    root = tmp_path / "work"
    for run in ("resnet50_features", "resnet50_full"):
        process = start(competition, root, weights)
        metrics = f"runs/tiny/{run}*/fold*/metrics.jsonl"
        wait_for(process, lambda metrics=metrics: any(map(has_lines, root.glob(metrics))))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (root / "submissions/tiny/compete.csv").exists():
            check_submission(competition, root)
    process = start(competition, root, weights)
    wait_for(process, (root / "submissions/tiny/compete.csv").exists)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode in (0, 75), output  # it may just have ended
    process = start(competition, root, weights, hours="100s")
    output, _ = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, output
    check_submission(competition, root)
    assert yaml.safe_load((root / "runs/tiny/plan.yaml").read_text())["runs"]


def test_an_edited_plan_is_followed(competition: Path, weights: Path, tmp_path: Path) -> None:
    root, plan = tmp_path / "work", tmp_path / "work/runs/tiny/plan.yaml"
    plan.parent.mkdir(parents=True)
    plan.write_text("extend: false\nruns:\n- {run: mine, model: resnet50, set: recipe=features}\n")
    output, _ = start(competition, root, weights).communicate(timeout=SECONDS)
    assert "was edited: its runs are trained as they stand there" in output, output
    store = opened(competition, root)
    assert [run for run in store.runs() if store.kinds(run) == {"model"}] == ["mine"]
    assert [entry["state"] for entry in yaml.safe_load(plan.read_text())["runs"]] == ["done"]
    check_submission(competition, root)
