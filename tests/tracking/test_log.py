"""W&B's offline files of a whole competition: folds, their run, the blend, the submission."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wandb
from wandb_files import Recorded, offline, read_runs

from distracted.config import load_runtime_config
from distracted.ensemble.blend import blend_runs
from distracted.files import sha256_file
from distracted.jobs.fold import train_folds
from distracted.predictions.manifest import as_parent
from distracted.predictions.store import Store
from distracted.report.curves import read_curves
from distracted.schema import RunConfig
from distracted.submission.answers import add_answer
from distracted.submission.submit import write_submission
from distracted.tracking.log import track_run, track_submission
from distracted.training.resolve import resolve


@pytest.fixture(scope="module")
def staging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("staging")


@pytest.mark.slow
def test_everything_is_recorded_and_read_back(
    store: Store,
    configure: Callable[..., RunConfig],
    write_run: Callable[..., None],
    staging: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(staging))
    wandb.teardown()
    config = configure("phases.scratch.epochs=2", "runtime.tracking=wandb")
    train_folds(store, resolve(config, num_folds=3), run="net", folds=range(3))
    write_run("other", skill=2.0)
    blend_runs(store)
    track_run(store, "ensemble", config.runtime)
    submitted = write_submission(store, name="ensemble")
    track_submission(store, submitted.path, config.runtime)
    runs = {recorded.run.display_name: recorded for recorded in read_runs(store.workspace.root)}
    assert set(runs) == {"net-fold0", "net-fold1", "net-fold2", "net", "ensemble", "submission ensemble"}
    for fold in range(3):
        check_fold(store, runs[f"net-fold{fold}"], fold, staging)
    check_pooled(store, runs["net"], "net", staging)
    assert runs["net"].run.job_type == "summary" and not artifact_names(runs["net"])
    blend = runs["ensemble"]
    check_pooled(store, blend, "ensemble", staging)
    assert blend.run.job_type == "ensemble" and blend.config["members"] == ["net", "other"]
    weights = blend.table("weights")
    assert weights["columns"] == ["member", "all folds", "fold 0", "fold 1", "fold 2"]
    details = store.manifest("ensemble", 1).details
    by_member = {row[0]: row[3] for row in weights["data"]}
    assert by_member == pytest.approx(details["weights"])
    assert artifact_names(blend) == {f"oof-tiny-ensemble-fold{fold}" for fold in range(3)}
    sent = runs["submission ensemble"]
    assert sent.run.job_type == "submission" and artifact_names(sent) == {"submission-tiny-ensemble"}
    assert sent.summary["expected/log_loss"] == submitted.expected.mean
    [artifact] = sent.artifacts
    assert {entry.path for entry in artifact.manifest.contents} == {"ensemble.csv", "ensemble.json"}
    assert json.loads(artifact.metadata)["sha256"] == sha256_file(submitted.path)
    for recorded in runs.values():
        assert recorded.run.host == "" and not list(recorded.folder.rglob("wandb-metadata.json"))


@pytest.mark.slow
def test_a_submission_shows_the_score_of_its_own_file(
    store: Store, write_run: Callable[..., None], staging: Path
) -> None:
    """Scores of earlier files stay in its JSON file."""
    write_run("a")
    written = write_submission(store, name="a")
    for sha256, score in ((written.sha256, 0.25), ("f" * 64, 0.75)):
        add_answer(written.provenance, sha256, written.expected, {"public": score})
    with offline(staging):
        track_submission(store, written.path, load_runtime_config())
    [recorded] = read_runs(store.workspace.root)
    assert recorded.summary["kaggle/public"] == 0.25


def artifact_names(recorded: Recorded) -> set[str]:
    return {artifact.name for artifact in recorded.artifacts if artifact.type in ("oof", "submission")}


def check_fold(store: Store, recorded: Recorded, fold: int, staging: Path) -> None:
    run, manifest = recorded.run, store.manifest("net", fold)
    assert (run.run_group, run.job_type) == ("tiny/net", "train")
    assert {"tiny", "test_resnet", "full"} <= set(run.tags)
    assert recorded.config["fold"] == fold and recorded.config["training"]["num_folds"] == 3
    curves = read_curves(store.workspace.metrics("tiny", "net", fold), fold)
    steps = [line for line in recorded.history if "train/loss" in line]
    keys = ("train/loss", "train/lr", "train/grad_norm", "train/images_per_second", "train/epoch")
    for key in keys:
        assert [line[key] for line in steps] == [line[key] for line in curves.steps]
    assert all(line["train/phase"] == 0 and line["phase"] == "scratch" for line in steps)
    epochs = [line for line in recorded.history if "train/epoch_loss" in line]
    assert [line["valid/log_loss"] for line in epochs] == [epoch.valid for epoch in curves.epochs]
    assert recorded.summary["valid/log_loss"] == manifest.scores["valid/log_loss"]
    assert recorded.summary["images_per_second"] == manifest.images_per_second
    oof = store.read_run("net", partial=True).oof
    check_pictures(store, recorded, oof, store.folds.valid(fold), staging)
    [artifact] = [artifact for artifact in recorded.artifacts if artifact.type == "oof"]
    assert artifact.name == f"oof-tiny-net-fold{fold}"
    metadata = json.loads(artifact.metadata)
    assert metadata["valid_sha256"] == manifest.valid_sha256 and metadata["index_hash"] == manifest.index_hash
    assert {entry.path for entry in artifact.manifest.contents} == {"valid.parquet", "manifest.json"}
    [digest] = as_parent([manifest]).predictions.values()
    assert set(artifact.aliases) == {"latest", digest[:16]}


def check_pooled(store: Store, recorded: Recorded, name: str, staging: Path) -> None:
    run = store.read_run(name)
    right = (run.oof.argmax(1) == store.folds.labels).mean()
    assert recorded.run.run_group == f"tiny/{name}" and recorded.summary["oof/accuracy"] == pytest.approx(
        right
    )
    assert recorded.summary["oof/low"] <= recorded.summary["oof/log_loss"] <= recorded.summary["oof/high"]
    assert recorded.summary["expected/log_loss"] > 0
    check_pictures(store, recorded, run.oof, np.arange(len(run.oof)), staging)


def check_pictures(
    store: Store, recorded: Recorded, oof: np.ndarray, rows: np.ndarray, staging: Path
) -> None:
    """The confusion matrix counts every row, and each of the worst images is there."""
    counts = recorded.table("confusion_table")
    names, labels = store.competition.classes, store.folds.labels
    assert sum(row[-1] for row in counts["data"]) == len(rows)
    for actual, predicted, number in counts["data"]:
        here = (labels[rows] == names.index(actual)) & (oof[rows].argmax(1) == names.index(predicted))
        assert number == here.sum()
    worst = recorded.table("worst_images")
    imgs = [row[worst["columns"].index("img")] for row in worst["data"]]
    assert set(imgs) <= set(store.competition.train["img"].iloc[rows]) and len(imgs) > 0
    [logged] = [artifact for artifact in recorded.artifacts if "worst" in artifact.name]
    pictures = [entry for entry in logged.manifest.contents if entry.path.endswith(".jpg")]
    assert len(pictures) == len(imgs)
    for entry in pictures:
        path = Path(entry.local_path).resolve()  # seen from the working directory
        assert path.is_relative_to(staging) or path.is_relative_to(store.workspace.root)
        assert path.read_bytes()[:2] == b"\xff\xd8"
