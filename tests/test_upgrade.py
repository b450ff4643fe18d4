"""A store of version 0.1.0 stays valid: its runs are current, its training resumes, its hashes are the same.

tests/fixtures/README.md describes the files and how they were made.
"""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import Field

from distracted.config import load_config, load_data_config
from distracted.ensemble.blend import blend_runs
from distracted.paths import CONFIGS, Workspace
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.store import Store, open_store
from distracted.schema import RunConfig, TrainingConfig, added_later, hash_config
from distracted.training.checkpoints import newest_state
from distracted.training.resolve import resolve

FIXTURES = Path(__file__).parent / "fixtures"
WRITTEN_WITH = ("2.14.1+cu130", "AVX512")  # torch and processor; others round differently
RUNS = ["chosen", "ensemble", "one", "one_smooth", "one_tta", "two", "two_calibrated"]
OF_FULL = {"", "full", "fine_tune", "freeze_first_k", "gradual", "discriminative"}
DONE = {
    "calibrate": ["--runs", "two"],
    "smooth": ["--runs", "one", "--methods", "neighbours diffusion"],
    "tta": ["--run", "one", "--views", "centre scales"],
    "ensemble": ["--runs", "one_smooth two_calibrated one_tta chosen"],
}
BEGUN = (
    "training.num_folds=3 model.weights=none model.image_size=16 model.head.block=stem "
    "model.head.pooling=backbone model.head.hidden=0 phases.scratch.epochs=3 "
    "phases.scratch.patience=9 phases.scratch.soup=2 "
    "phases.scratch.optimizer=adamw training.seed=2 training.ema=0.9 training.holdout=0.3 "
    "training.batch_size=4 mixing.mixup.prob=0.5 runtime.tracking=none"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace that version 0.1.0 wrote."""
    with tarfile.open(FIXTURES / "store_0.1.0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def old(root: Path) -> Store:
    return open_store(Workspace(root), load_data_config(str(root / "tiny"), root=root))


def run(root: Path, script: str, *arguments: str) -> str:
    command = [sys.executable, str(CONFIGS.parent / "scripts" / f"{script}.py"), *arguments]
    command += ["--data", str(root / "tiny"), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_old_runs_are_complete_and_current(old: Store) -> None:
    entries = {entry.name: entry for entry in Catalogue(old).entries()}
    assert sorted(entries) == RUNS
    assert [entry.not_usable for entry in entries.values()] == [""] * len(RUNS)
    assert {entry.kind for entry in entries.values()} == {"model", "derived", "blend"}


def test_the_old_blend_is_the_default(old: Store) -> None:
    meant = Catalogue(old).meant_blend
    assert meant is not None and meant.run == "ensemble"


def test_old_hashes_match_their_configs(old: Store) -> None:
    for name in RUNS:
        for manifest in old.manifests(name):
            assert hash_config(manifest.config) == manifest.config_hash
            if manifest.kind == "model":
                data = {**manifest.config["data"], "folder": "."}
                runtime = load_config(model="cnn", data="sample").runtime
                config = RunConfig.model_validate({**manifest.config, "data": data, "runtime": runtime})
                assert config.hash == manifest.config_hash


@pytest.mark.slow
@pytest.mark.parametrize("command", DONE)
def test_old_stages_count_as_done(root: Path, command: str) -> None:
    def stamps() -> dict[Path, tuple[int, int]]:
        paths = [*root.glob("oof/**/*"), *root.glob("submissions/**/*")]
        files = [path for path in paths if path.is_file() and path.name != "index.parquet"]  # added
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}

    before = stamps()
    output = run(root, command, *DONE[command], "--set", "runtime.tracking=none")
    assert "done already" in output
    assert stamps() == before


@pytest.mark.slow
def test_an_old_submission_stays_and_gets_the_present_forecast(root: Path) -> None:
    """Version 0.1.0 forecast by another method, which its record shows."""
    path = root / "submissions/tiny/ensemble.csv"
    before, record = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
    output = run(root, "submit", "--set", "runtime.tracking=none")
    assert "expected log loss" in output and path.read_bytes() == before
    renewed = json.loads(path.with_suffix(".json").read_text())
    changed = {key for key in record | renewed if record.get(key) != renewed.get(key)}
    assert "expected_log_loss" in changed and record["sha256"] == renewed["sha256"]


@pytest.mark.slow
def test_an_old_killed_training_resumes_to_the_same_predictions(root: Path) -> None:
    assert newest_state(root / "runs/tiny/begun/fold0") is not None
    output = run(root, "train", "--model", "cnn", "--name", "begun", "--fold", "0", "--set", BEGUN)
    assert "begun, fold 0: goes on from step" in output
    same_rounding = (torch.__version__, torch.backends.cpu.get_cpu_capability()) == WRITTEN_WITH
    for part in ("valid", "test"):
        paths = [root / folder / f"{part}.parquet" for folder in ("oof/tiny/begun/fold0", "expected")]
        predicted, expected = map(pd.read_parquet, paths)
        assert predicted["img"].tolist() == expected["img"].tolist()
        np.testing.assert_allclose(predicted.iloc[:, 1:], expected.iloc[:, 1:], atol=1e-3)
        assert predicted.equals(expected) or not same_rounding


@pytest.mark.slow
def test_old_runs_are_blended_with_new_ones(root: Path, old: Store) -> None:
    settings = BEGUN.replace("training.seed=2", "training.seed=3")
    run(root, "train", "--model", "cnn", "--name", "new", "--set", settings)
    members = ["one_smooth", "two_calibrated", "chosen", "new"]
    ensemble = blend_runs(old, runs=members, name="mixed")
    assert ensemble.members == tuple(members)
    assert Catalogue(old).entry("mixed").is_current


def golden_hashes() -> dict[str, str]:
    hashes: dict[str, str] = json.loads((FIXTURES / "golden_hashes.json").read_text())
    return hashes


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in golden_hashes() if not key.endswith(", resolved")])
def test_configs_keep_their_hashes(key: str) -> None:
    model, _, recipe = key.partition(" ")
    overrides = [f"recipe={recipe}"] if recipe else []
    if recipe in OF_FULL:  # these have other defaults since
        overrides += ["augment.size=null"]
    overrides += ["model.image_size=128"] if model == "efficientnet_lite0" else []
    hashes = golden_hashes()
    assert load_config(model=model, data="sample", overrides=overrides).hash == hashes[key]
    overrides += ["model.weights=none", "training.precision=fp32", "runtime.device=cpu"]
    config = load_config(model=model, data="sample", overrides=overrides)
    assert resolve(config, num_folds=5).config.hash == hashes[f"{key}, resolved"]


def test_the_golden_hashes_cover_every_model_and_recipe_of_their_version() -> None:
    keys = {key.removesuffix(", resolved") for key in golden_hashes()}
    assert len(keys) == 59 and {"resnet50", "vgg16 gradual", "cnn scratch"} <= keys


class Extended(TrainingConfig):
    """The training section of a later version."""

    extra: str = added_later("plain")
    plain: str = Field(default="plain")


def test_a_key_added_later_leaves_the_hash_while_it_has_its_default() -> None:
    section = load_config(model="resnet50", data="sample").training.model_dump(mode="json")
    assert "extra" not in Extended.model_validate(section).model_dump(mode="json")
    assert "plain" in Extended.model_validate(section).model_dump(mode="json")
    changed = Extended.model_validate({**section, "extra": "other"}).model_dump(mode="json")
    assert changed == {**section, "plain": "plain", "extra": "other"}
