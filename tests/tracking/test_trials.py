"""A search's trials on W&B, in offline files that are read back."""

from pathlib import Path

import pytest
from wandb_files import read_runs

from distracted.config import load_runtime_config
from distracted.predictions.store import Store
from distracted.tracking.trials import track_trial


@pytest.mark.slow
def test_a_trial_is_a_run_with_its_settings_and_scores(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Logged twice, it is one run on W&B, with the later scores."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    runtime = load_runtime_config(["runtime.tracking=wandb"])
    settings = ("phases.finetune.lr=0.001", "augment.policy=heavy", "model.head.dropout=null")
    for losses, scores in (({"epoch 1": 0.7}, {}), ({"epoch 1": 0.7, "one fold": 0.5}, {"log_loss": 0.6})):
        track_trial(store, "a_trial", settings, losses, scores, search="a_search", runtime=runtime)
    recorded = read_runs(store.workspace.root)
    first, last = recorded
    assert first.run.run_id == last.run.run_id
    assert (last.run.display_name, last.run.job_type, last.run.run_group) == (
        "a_trial",
        "search",
        f"{store.competition.name}/a_search",
    )
    assert last.config["phases.finetune.lr"] == 0.001
    assert last.config["augment.policy"] == "heavy" and last.config["model.head.dropout"] is None
    assert last.summary["search/one fold"] == 0.5 and last.summary["oof/log_loss"] == 0.6
    assert last.summary["search/rungs"] == 2
