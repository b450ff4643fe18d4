"""Adapted runs: a fold's labels reach neither its clusters nor its predictions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from conftest import TINY
from distracted.config import load_config
from distracted.data.folds import Folds
from distracted.ensemble.derive import derive_run
from distracted.errors import ConfigError
from distracted.postprocess import adapt
from distracted.postprocess.adapt import Adapt
from distracted.postprocess.spaces import Space
from distracted.postprocess.steps import command_for, open_step
from distracted.postprocess.subject_clusters import SubjectClusters, subject_space
from distracted.predictions.store import Store
from distracted.training.resolve import Resolved, resolve

pytestmark = pytest.mark.slow  # a network in each

WriteRun = Callable[..., None]


@pytest.fixture
def resolved(store: Store, tmp_path: Path) -> Resolved:
    weights = tmp_path / "trunk.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), weights)
    overrides = [*TINY, f"model.weights={weights}"]
    config = load_config(model="resnet50", data=str(store.competition.config.folder), overrides=overrides)
    return resolve(config, num_folds=3)


def relabelled(store: Store, fold: int) -> Store:
    labels = np.where(store.folds.ids == fold, (store.folds.labels + 1) % 3, store.folds.labels)
    folds = Folds(store.folds.table.assign(label=labels), store.folds.hash)
    return Store(store.workspace, store.competition, folds)


def clusters_of(store: Store, space: Space) -> list[bytes]:
    subsets = space.keys[SubjectClusters.kind]
    return [space.get(SubjectClusters, subset).clusters.tobytes() for subset in subsets]


def test_a_folds_labels_reach_neither_its_clusters_nor_its_predictions(
    store: Store, write_run: WriteRun, resolved: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt, "MIN_AGREEMENT", -1.0)  # an untrained network tells nobody apart
    monkeypatch.setattr(Adapt, "must_beat_identity", False)
    write_run("a", skill=2.0)
    space = subject_space(store, resolved)

    def predicted(of: Store) -> bytes:
        opened = subject_space(of, resolved)
        assert opened.keys == space.keys and clusters_of(of, opened) == clusters_of(store, space)
        derive_run(of, Adapt({"resnet50": opened}), ["a"], force=True)
        run = of.read_run("a_adapted")
        return run.oof[of.folds.valid(1)].tobytes() + run.test[1].tobytes()

    before = predicted(store)
    assert predicted(relabelled(store, 1)) == before
    assert predicted(relabelled(store, 0)) != before  # other folds' labels do count


def test_a_run_names_its_command_and_opens_again(
    store: Store, write_run: WriteRun, resolved: Resolved
) -> None:
    write_run("a")
    made = derive_run(store, Adapt({"resnet50": subject_space(store, resolved)}), ["a"])
    manifest = store.manifest("a_adapted", 0)
    assert command_for(manifest) == "make adapt RUNS=a MODEL=resnet50 NAME=a_adapted"
    step = open_step(store, store.find_run("a_adapted"))
    assert isinstance(step, Adapt) and step.inputs(0)["spaces"] == manifest.details["spaces"]
    again = derive_run(store, Adapt({"resnet50": subject_space(store, resolved)}), ["a"])
    assert made.fits and not again.fits


def test_a_network_without_pretrained_weights_is_refused(store: Store) -> None:
    folder = str(store.competition.config.folder)
    resolved = resolve(load_config(model="resnet50", data=folder, overrides=TINY), num_folds=3)
    with pytest.raises(ConfigError, match="MODEL: test_resnet has no pretrained weights here"):
        subject_space(store, resolved)
