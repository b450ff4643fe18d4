"""From images to a submission where classes are shown by one subject or by two."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import TINY, calibrate
from distracted.config import load_config
from distracted.data.audit import check_split, never_scored
from distracted.ensemble.blend import blend_runs
from distracted.ensemble.blenders import ALL_BLENDERS
from distracted.jobs.fold import train_and_store
from distracted.paths import Workspace
from distracted.predictions.store import open_store
from distracted.report.status import pooled_scores
from distracted.report.write import write_report
from distracted.submission.submit import write_submission
from distracted.training.resolve import resolve

pytestmark = pytest.mark.slow

SETTINGS = (
    "training.num_folds=5",
    "training.sampling=subjects",
    "training.class_weights=balanced",
    "training.holdout=0.25",
    "phases.scratch.epochs=2",
    "phases.scratch.keep=best",
)


def keep_few(folder: Path) -> None:
    """Leave class c1 with two of the six subjects, and class c2 with one."""
    path = folder / "driver_imgs_list.csv"
    train = pd.read_csv(path)
    shown = {"c0": {f"p{n:03}" for n in range(6)}, "c1": {"p001", "p002"}, "c2": {"p000"}}
    kept = np.array([s in shown[c] for s, c in zip(train["subject"], train["classname"], strict=True)])
    for row in train[~kept].itertuples():
        (folder / "imgs/train" / str(row.classname) / str(row.img)).unlink()
    train[kept].to_csv(path, index=False)


def test_all_stages(folder: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    keep_few(folder)
    config = load_config(model="resnet50", data=str(folder), overrides=[*TINY, *SETTINGS])
    store = open_store(workspace, config.data, num_folds=5)
    folds = store.folds
    assert folds.num_folds == 5
    check_split(store.competition, folds)
    assert "p000 alone shows c2), 6 images, 22% of all" in caplog.text
    assert sum("class c1 is missing from the validation side" in line for line in caplog.messages) == 3
    resolved = resolve(config, num_folds=5)
    for fold in range(5):
        train_and_store(store, resolved, run="a", fold=fold)
    assert {"log_loss", "auc"} <= set(pooled_scores(store, "a"))
    calibrate(store, "a")
    blend_runs(store, runs=["a", "a_calibrated"], blenders=ALL_BLENDERS)
    submitted = pd.read_csv(write_submission(store).path)
    assert np.isfinite(submitted[["c0", "c1", "c2"]].to_numpy()).all()
    page = write_report(store, policies=config.augment.policies, runtime=None).read_text()
    assert never_scored(store.competition, folds.table) in page
