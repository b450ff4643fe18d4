"""From images to a submission for other tasks: two classes, no subjects, a single split."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import TINY
from distracted.config import load_config
from distracted.data.audit import check_split
from distracted.data.folds import split_holdout
from distracted.ensemble.blend import blend_runs
from distracted.jobs.fold import train_and_store
from distracted.paths import Workspace
from distracted.predictions.store import Store, open_store
from distracted.report.status import pooled_scores
from distracted.schema import RunConfig
from distracted.submission.submit import write_submission
from distracted.training.resolve import resolve

pytestmark = pytest.mark.slow


def run_all_stages(config: RunConfig, workspace: Workspace) -> tuple[Store, pd.DataFrame]:
    """Make folds, train, blend and write a submission; returns the store and the submitted table."""
    store = open_store(workspace, config.data, num_folds=config.training.num_folds)
    check_split(store.competition, store.folds)
    resolved = resolve(config, num_folds=store.folds.num_folds)
    for run in ("a", "b"):
        for fold in range(store.folds.num_folds):
            train_and_store(store, resolved, run=run, fold=fold)
    blend_runs(store)
    return store, pd.read_csv(write_submission(store).path)


def config_for(folder: Path, *overrides: str) -> RunConfig:
    return load_config(
        model="resnet50", data=str(folder), overrides=[*TINY, "phases.scratch.epochs=2", *overrides]
    )


def test_two_classes(folder: Path, workspace: Workspace) -> None:
    train = pd.read_csv(folder / "driver_imgs_list.csv")
    train[train["classname"] != "c2"].to_csv(folder / "driver_imgs_list.csv", index=False)
    shutil.rmtree(folder / "imgs/train/c2")
    sample = pd.read_csv(folder / "sample_submission.csv").drop(columns="c2")
    sample.to_csv(folder / "sample_submission.csv", index=False)
    store, submitted = run_all_stages(config_for(folder), workspace)
    assert list(submitted.columns) == ["img", "c0", "c1"]
    np.testing.assert_allclose(submitted[["c0", "c1"]].sum(axis=1), 1, atol=1e-6)
    assert set(pooled_scores(store, "a")) == {"log_loss", "accuracy", "macro_f1", "auc"}


def test_no_subjects(folder: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    config = config_for(folder)
    columns = config.data.columns.model_copy(update={"group": None})
    config = config.model_copy(update={"data": config.data.model_copy(update={"columns": columns})})
    store, submitted = run_all_stages(config, workspace)
    assert "no subjects (data.columns.group: null): the split is by image" in caplog.text
    assert store.competition.num_subjects == len(store.competition.train)
    assert len(submitted) == len(store.competition.test)


def test_a_single_split_with_an_inner_holdout(folder: Path, workspace: Workspace) -> None:
    """One of six subjects is scored and one is in the holdout; with ten subjects it would be 80/10/10."""
    overrides = ["training.num_folds=1", "training.holdout=0.2", "phases.scratch.keep=best"]
    store, submitted = run_all_stages(config_for(folder, *overrides), workspace)
    rows, holdout = split_holdout(store.folds, 0, share=0.2, seed=0)
    sides = [store.folds.subjects[side] for side in (rows, holdout, store.folds.valid(0))]
    assert [len(set(side)) for side in sides] == [4, 1, 1]
    assert store.folds.num_folds == 1
    manifest = store.manifest("ensemble", 0)
    assert manifest.details["blender"] == "arithmetic mean"
    assert len(submitted) == len(store.competition.test)
