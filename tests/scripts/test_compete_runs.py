"""`make compete` with real processes: chosen runs, a person's plan, stops and kills on the way."""

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
from ray_nodes import lose_a_node, two_nodes
from trainings import SCRIPTS, SECONDS, has_lines, wait_for

from conftest import write_competition
from distracted.config import load_data_config
from distracted.data.sample_submission import sample_path
from distracted.paths import Workspace
from distracted.predictions.store import Store, open_store
from distracted.report.status import pooled_scores
from distracted.report.write import write_report

pytestmark = pytest.mark.slow

#: A plan of two runs, views of one, and no more, as a person writes it.
PLAN = """
extend: false
runs:
- {run: head, model: resnet50, set: recipe=features}
- {run: tuned, model: resnet50, set: recipe=full phases.finetune.epochs=2}
- {run: tuned_tta, views: scales}
"""


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


def start(
    competition: Path, root: Path, weights: Path, *more: str, hours: str = "1h"
) -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    fixed = (
        f"model.backbone=test_resnet model.weights={weights} model.image_size=32 training.num_folds=3 "
        f"training.seed=0 training.batch_size=8 runtime.tracking=none"
    )
    options = ["--hours", hours, "--models", "resnet50", "--data", f"{competition}/", "--root", str(root)]
    command = ["nice", sys.executable, str(SCRIPTS / "compete.py"), *options, *more, "--set", fixed]
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


def blends(root: Path) -> list[dict[str, float]]:
    path = root / "runs/tiny/.compete/blends.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_it_chooses_trains_and_blends_until_it_is_stopped(
    competition: Path, weights: Path, tmp_path: Path
) -> None:
    """The first two runs are there after two blends; what the manifests and the plan say agrees."""
    root = tmp_path / "work"
    process = start(competition, root, weights)
    wait_for(process, lambda: len(blends(root)) > 1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, output
    check_submission(competition, root)
    plan = yaml.safe_load((root / "runs/tiny/plan.yaml").read_text())
    done = [entry for entry in plan["runs"] if entry["state"] == "done"]
    assert [entry["run"] for entry in done[:2]] == plan["choices"][0][:2]
    assert done[0]["run"] == "resnet50_features" and all(entry["by"] == [0, 1, 2] for entry in done[:2])
    store = opened(competition, root)
    for entry in done:
        assert store.finished_folds(entry["run"]) == [0, 1, 2]
        assert entry["loss"] == pytest.approx(pooled_scores(store, entry["run"])["log_loss"], rel=0.01)
    assert store.manifest("compete", 0).config["search"]["num_runs"] >= 2
    assert all(part in output for part in ("the plan after", "blend of", "cross-fitted log loss"))
    assert "the same command goes on" in output
    page = write_report(store, policies={"none": ()}, runtime=None).read_text()
    assert "What each run bought" in page and all(entry["run"] in page for entry in done)


def test_a_killed_competition_goes_on_and_ends(competition: Path, weights: Path, tmp_path: Path) -> None:
    """Killed while a network is trained; a submission that was written stays whole."""
    root, plan = tmp_path / "work", tmp_path / "work/runs/tiny/plan.yaml"
    plan.parent.mkdir(parents=True)
    plan.write_text(PLAN)
    for run in ("head", "tuned"):
        process = start(competition, root, weights)
        metrics = f"runs/tiny/{run}/fold*/metrics.jsonl"
        wait_for(process, lambda metrics=metrics: any(map(has_lines, root.glob(metrics))))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (root / "submissions/tiny/compete.csv").exists():
            check_submission(competition, root)
    process = start(competition, root, weights)
    output, _ = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, output
    check_submission(competition, root)
    written = yaml.safe_load(plan.read_text())
    assert [(entry["run"], entry["state"]) for entry in written["runs"]] == [
        ("head", "done"),
        ("tuned", "done"),
        ("tuned_tta", "done"),
    ]
    store = opened(competition, root)
    assert {run for run in store.runs() if store.kinds(run) == {"model"}} == {"head", "tuned"}
    parts = ["the blend as it grew", "expected log loss", "submission: ", "minutes used"]
    assert all(part in output for part in parts)
    (root / "runs/tiny/.compete/clock.json").write_text('{"used_seconds": 3600}')
    before = (root / "submissions/tiny/compete.csv").stat()
    output, _ = start(competition, root, weights).communicate(timeout=SECONDS)
    assert "all of HOURS=1h is used; a larger HOURS goes on" in output
    assert (root / "submissions/tiny/compete.csv").stat() == before


def test_a_plan_ends_on_a_cluster_that_loses_a_node(competition: Path, weights: Path, tmp_path: Path) -> None:
    root, plan = tmp_path / "work", tmp_path / "work/runs/tiny/plan.yaml"
    plan.parent.mkdir(parents=True)
    tuned = PLAN.replace("- {run: head, model: resnet50, set: recipe=features}\n", "")
    plan.write_text(tuned.replace("epochs=2", "epochs=40"))
    with two_nodes() as cluster:
        process, killed = start(competition, root, weights, "--cluster", cluster.address), None
        deadline = time.monotonic() + 4 * SECONDS
        while process.poll() is None:
            assert time.monotonic() < deadline
            killed = killed or lose_a_node(cluster, root)
            time.sleep(0.1)
        output, _ = process.communicate()
    assert process.returncode == 0 and killed is not None, output
    states = {entry["run"]: entry["state"] for entry in yaml.safe_load(plan.read_text())["runs"]}
    assert states == {"tuned": "done", "tuned_tta": "done"}
    assert "goes on from step" in (killed / "log.txt").read_text()
    check_submission(competition, root)


def test_a_plan_that_leads_to_no_blend_says_why(competition: Path, weights: Path, tmp_path: Path) -> None:
    """A run that cannot be trained, or none for some folds; the time is not to blame."""
    root, plan = tmp_path / "work", tmp_path / "work/runs/tiny/plan.yaml"
    plan.parent.mkdir(parents=True)
    plan.write_text("extend: false\nruns:\n- {run: mine, model: resnet50, set: recipe=nonsense}\n")
    output, _ = (process := start(competition, root, weights)).communicate(timeout=SECONDS)
    assert process.returncode == 1 and "nothing is blended: no run was finished" in output
    assert "mine: " in output and "HOURS=1h: no run" not in output
    plan.write_text(
        "extend: false\nruns:\n- {run: head, model: resnet50, set: recipe=features, by: [0, 1]}\n"
    )
    output, _ = (process := start(competition, root, weights)).communicate(timeout=SECONDS)
    assert process.returncode == 1 and "no finished run is for the folds 2; `by`" in output
