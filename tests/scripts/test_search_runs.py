"""`make search` with real processes, killed on the way."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from trainings import SCRIPTS, SECONDS, wait_for

from conftest import write_competition
from distracted.config import load_data_config
from distracted.paths import Workspace
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.store import Store, open_store
from distracted.report.status import next_steps, run_statuses

pytestmark = pytest.mark.slow

SPACE = """
method: random
parameters:
  phases.finetune.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-2}
  model.head.dropout: {values: [0.0, 0.5]}
"""


def start(root: Path) -> subprocess.Popen[str]:
    fixed = (
        f"model.backbone=test_resnet model.weights={root / 'net.pth'} model.image_size=32 "
        "training.num_folds=3 phases.finetune.epochs=2 training.batch_size=8 runtime.tracking=none"
    )
    options = ["--model", "resnet50", "--trials", "3", "--file", str(root / "space.yaml"), "--set", fixed]
    options += ["--data", f"{root / 'tiny'}/", "--root", str(root)]
    command = ["nice", sys.executable, str(SCRIPTS / "search.py"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_search_goes_on_and_chooses_for_each_fold_by_the_others(tmp_path: Path) -> None:
    """Dropped settings keep what they have, and are no work to do."""
    write_competition(tmp_path / "tiny")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "net.pth")
    (tmp_path / "space.yaml").write_text(SPACE)
    process = start(tmp_path)
    decided = tmp_path / "runs/tiny/.searches/resnet50_search/decided.json"
    wait_for(process, decided.exists)  # the first short fit is scored
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    process = start(tmp_path)
    output, _ = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, output
    assert "resnet50_search: log loss" in output and 'make grid MODELS=resnet50 SEEDS="1 2"' in output
    store = open_store(Workspace(tmp_path), load_data_config(str(tmp_path / "tiny")))
    check_choice(store)
    statuses = run_statuses(Catalogue(store))
    left = [status for status in statuses if status.left_by]
    assert len(left) == 3 - num_complete(store)
    assert all(status.left_by.startswith("make search MODEL=resnet50 TRIALS=3 FILE=") for status in left)
    meant = Catalogue(store).meant_run
    assert meant is not None and meant.run == "resnet50_search"  # not the trial with the best score
    assert not [step for step in next_steps(Catalogue(store), statuses) if "trial" in step.partition(":")[0]]


def num_complete(store: Store) -> int:
    return sum("_trial_" in run and len(store.finished_folds(run)) == 3 for run in store.runs())


def check_choice(store: Store) -> None:
    chosen = [store.manifest("resnet50_search", fold) for fold in range(3)]
    config = chosen[0].config["step"]
    assert config["search"]["num_trials"] == config["search"]["num_tried"] == 3
    assert config["search"]["command"].startswith("make search MODEL=resnet50 TRIALS=3")
    parents = [parent.run for parent in chosen[0].parents]
    for fold, manifest in enumerate(chosen):
        assert manifest.details["chosen"] in [parents[number] for number in config["offered"][fold]]
        assert 1 <= manifest.details["num_candidates"] <= 2
