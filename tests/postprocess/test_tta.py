"""The mean over views is a run like any other, predicted by each fold's own network."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from conftest import RecordedProgress
from distracted.data.picture_sets import Images
from distracted.ensemble.blend import blend_runs
from distracted.errors import ConfigError, StoreError, TrainingError, WeightsError
from distracted.inference.views import VIEWS, Viewer, average_views, find_views
from distracted.metrics import difference_and_error, log_losses
from distracted.postprocess.networks import load_trained
from distracted.postprocess.tta import augment_run
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Advance
from distracted.submission.submit import write_submission
from untrained import RUNTIME, write_untrained

CENTRE = VIEWS["centre"]


pytestmark = pytest.mark.slow  # networks or whole runs in each


@pytest.fixture
def parent(store: Store) -> Run:
    return write_untrained(store)


def tta(store: Store, groups: str = "centre", **options: object) -> list[int]:
    """Run test-time augmentation; returns the folds that were predicted."""
    folds: list[int] = []
    views = find_views(groups.split())
    augment_run(
        store,
        **{"run": "tiny", "views": views, "runtime": RUNTIME, **options},  # type: ignore[arg-type]
        after_fold=lambda manifest: folds.append(manifest.fold),
    )
    return folds


def test_the_centre_alone_is_the_run_itself(store: Store, parent: Run) -> None:
    assert tta(store) == [0, 1, 2]
    derived = store.read_run("tiny_tta")
    np.testing.assert_allclose(derived.oof, parent.oof, atol=1e-5)
    np.testing.assert_allclose(derived.test, parent.test, atol=1e-5)


def test_a_fold_is_the_mean_of_its_own_networks_views(store: Store, parent: Run) -> None:
    tta(store, "scales colour", average="log_probs", name="mean")
    derived = store.read_run("mean")
    for fold in range(3):
        trained = load_trained(store, parent, fold, runtime=RUNTIME)
        images = Images.to_train(store.competition), Images.to_test(store.competition)
        stored = derived.oof[store.folds.valid(fold)], derived.test[fold]
        for of, rows, predicted in zip(
            images, (store.folds.valid(fold), images[1].rows), stored, strict=True
        ):
            views = find_views(["scales", "colour"])
            [by_view] = trained.feed.log_probs_of_views([trained.network], of, rows, views, "")
            np.testing.assert_allclose(predicted, average_views(by_view, "log_probs"), atol=1e-5)


def test_its_manifests_describe_views_and_parent(store: Store, parent: Run) -> None:
    tta(store, "rotations")
    for manifest in store.read_run("tiny_tta").manifests:
        assert manifest.kind == "derived" and manifest.parents == (parent.as_parent(),)
        step = manifest.config["step"]
        assert (step["name"], step["average"]) == ("tta", "probs")
        assert [(view["name"], view["degrees"]) for view in step["views"]] == [
            ("rotate_left", 6),
            ("rotate_right", -6),
        ]
        assert manifest.config["parent"]["config_hash"] == parent.manifests[0].config_hash
        assert manifest.details["num_views"] == 2
        assert manifest.seconds == pytest.approx(2 * manifest.details["seconds_per_view"])
        assert manifest.images_per_second > 0 and manifest.scores["valid/log_loss"] > 0
        assert manifest.weights == parent.manifests[0].weights and not manifest.leaky


def test_the_gain_is_the_paired_difference(store: Store, parent: Run) -> None:
    gain = augment_run(store, run="tiny", views=VIEWS["five_crops"], runtime=RUNTIME)
    labels = store.folds.labels
    before, after = (log_losses(run.oof, labels) for run in (parent, store.read_run("tiny_tta")))
    assert (gain.before, gain.after) == (pytest.approx(before.mean()), pytest.approx(after.mean()))
    expected = difference_and_error(after, before, store.folds.subjects)
    assert (gain.difference, gain.error) == pytest.approx(expected)


def test_progress_counts_every_image_once(store: Store, parent: Run) -> None:
    progress = RecordedProgress()
    augment_run(store, run="tiny", views=VIEWS["scales"], runtime=RUNTIME, progress=progress)
    checks, held_out, test_set = [(18, 18)] * 3, [(18, 18)] * 3, [(7, 7)]  # one pass for all folds
    assert progress.tasks == checks + test_set + held_out


def test_an_interrupted_pass_over_the_test_set_goes_on(store: Store, parent: Run) -> None:
    class Interrupted(Exception):
        pass

    @contextmanager
    def stopping(label: str, /, *, total: int, unit: str) -> Iterator[Advance]:
        def advance(number: int = 1, /, **_: float) -> None:
            if "test set" in label:
                raise Interrupted

        yield advance

    runtime = RUNTIME.model_copy(update={"prediction_batch_size": 3})
    options: dict[str, Any] = {"run": "tiny", "views": VIEWS["scales"], "runtime": runtime}
    augment_run(store, name="whole", **options)
    shutil.rmtree(store.workspace.cache("tiny") / "views")
    with pytest.raises(Interrupted):
        augment_run(store, **options, progress=stopping)
    progress = RecordedProgress()
    augment_run(store, **options, progress=progress)
    assert (4, 4) in progress.tasks and (7, 7) not in progress.tasks  # of seven, three were done
    assert store.read_run("tiny_tta").test.tobytes() == store.read_run("whole").test.tobytes()


# What is done already


def test_finished_folds_are_skipped_unless_forced(store: Store, parent: Run) -> None:
    tta(store)
    store.workspace.fold("tiny", "tiny_tta", 1).joinpath("manifest.json").unlink()
    assert tta(store) == [1]
    assert tta(store) == []
    assert tta(store, force=True) == [0, 1, 2]


def test_folds_are_redone_when_the_parent_has_changed(
    store: Store, parent: Run, caplog: pytest.LogCaptureFixture
) -> None:
    tta(store)
    rows = store.folds.valid(2)
    store.write_fold(  # its test predictions are others now
        "tiny",
        2,
        kind="model",
        config=parent.manifests[2].config,
        valid=parent.oof[rows],
        test=parent.test[2][:, ::-1],
    )
    with pytest.raises(StoreError, match="tiny_tta: its parent tiny has changed since it was made; make it"):
        write_submission(store, name="tiny_tta")
    caplog.set_level("INFO")
    assert tta(store) == [0, 1, 2]
    assert "tiny_tta, fold 0: made again, since it or tiny has changed" in caplog.text


def test_other_views_need_another_name_or_force(store: Store, parent: Run) -> None:
    tta(store)
    with pytest.raises(StoreError, match="NAME=tiny_tta_2"):
        tta(store, "scales")
    with pytest.raises(StoreError, match="NAME=tiny_tta_2"):
        tta(store, average="log_probs")
    assert tta(store, "scales", force=True) == [0, 1, 2]
    assert tta(store, "scales", name="other", average="log_probs") == [0, 1, 2]


# As a run


def test_it_is_blended_and_submitted_like_any_other(store: Store, parent: Run) -> None:
    tta(store, "five_crops")
    ensemble = blend_runs(store)
    assert ensemble.members == ("tiny", "tiny_tta")
    assert write_submission(store).run == "ensemble"
    submission = write_submission(store, name="tiny_tta")
    provenance = json.loads(submission.path.with_suffix(".json").read_text())
    assert provenance["kind"] == "derived"
    assert provenance["members"] == [parent.as_parent().model_dump(mode="json")]


def test_a_leaky_parent_makes_it_leaky(store: Store, parent: Run) -> None:
    config = json.loads(json.dumps(parent.manifests[0].config))
    config["training"]["leaky"] = True
    for fold in range(3):
        valid, test = parent.oof[store.folds.valid(fold)], parent.test[fold]
        store.write_fold("leaky", fold, kind="model", config=config, valid=valid, test=test)
    leaky = store.read_run("leaky")
    for fold in range(3):
        network = store.workspace.network("tiny", "leaky", fold)
        network.parent.mkdir(parents=True)
        shutil.copy(store.workspace.network("tiny", "tiny", fold), network)
        content = network.read_bytes()
        old, new = parent.manifests[0].config_hash, leaky.manifests[0].config_hash
        network.write_bytes(content.replace(old.encode(), new.encode()))
    tta(store, run="leaky")
    assert store.read_run("leaky_tta").leaky


# What is refused


def test_a_run_that_cannot_be_augmented_is_refused(store: Store, parent: Run) -> None:
    def refused(error: type[Exception], message: str, **options: object) -> None:
        before = store.runs()
        with pytest.raises(error, match=message):
            tta(store, **options)  # type: ignore[arg-type]
        assert store.runs() == before

    refused(ConfigError, "AVERAGE=median: expected probs or log_probs", average="median")
    refused(StoreError, "there is no run 'tinny' on tiny; there are: tiny", run="tinny")
    refused(StoreError, "NAME=tiny: there is a run of that name that is not derived", name="tiny")
    tta(store)
    refused(StoreError, "RUN=tiny_tta: a derived run has no networks of its own", run="tiny_tta")
    store.workspace.network("tiny", "tiny", 0).unlink()
    refused(WeightsError, r"fold0.model\.safetensors: no such file.*FORCE=1", name="again")
    store.workspace.fold("tiny", "tiny", 1).joinpath("manifest.json").unlink()
    refused(StoreError, "tiny: fold 1 of 3 is missing; `make cv` finishes a run", name="again")


@pytest.mark.parametrize(
    ("fail", "num_workers", "message"),
    [
        ("lack memory", 0, r"memory ran out \(CUDA out of memory\).*the same command goes on"),
        ("die", 1, r"a process that decodes images was ended by the system .*runtime\.num_workers=2"),
    ],
)
def test_what_ends_a_prediction_is_named(
    store: Store, parent: Run, monkeypatch: pytest.MonkeyPatch, fail: str, num_workers: int, message: str
) -> None:
    """As in training: a container's 64 MB of shared memory, or a GPU that others fill."""

    def view(*_: object, **__: object) -> None:
        if fail == "die":
            os.kill(os.getpid(), signal.SIGBUS)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Viewer, "__call__", view)
    runtime = RUNTIME.model_copy(update={"num_workers": num_workers})
    with pytest.raises(TrainingError, match=message):
        tta(store, "scales", runtime=runtime)
