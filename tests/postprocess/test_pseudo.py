"""Pseudo-labels: a fold's student never sees the fold's labels, and teachers that would leak are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import TINY, calibrate
from distracted.config import load_config
from distracted.data.folds import Folds
from distracted.data.picture_sets import Images
from distracted.ensemble.blend import blend_runs
from distracted.ensemble.blenders import find_blenders
from distracted.ensemble.derive import derive_run
from distracted.errors import ConfigError, StoreError
from distracted.files import sha256_json
from distracted.jobs.fold import train_folds
from distracted.postprocess import pseudo
from distracted.postprocess.neighbour_mean import NeighbourMean
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.pseudo import read_pseudo_labels, with_teachers
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.spaces import make_space
from distracted.postprocess.step import Subset
from distracted.predictions.store import Store
from distracted.schema import PseudoConfig, RunConfig
from distracted.training.context import PseudoLabels
from distracted.training.resolve import resolve
from distracted.training.training_set import joint_targets

pytestmark = pytest.mark.slow  # networks or whole runs in each

WriteRun = Callable[..., None]
BLEND = find_blenders(["linear_pool"])


def config_of(store: Store, *overrides: str) -> RunConfig:
    folder = store.competition.config.folder
    return load_config(model="resnet50", data=str(folder), overrides=[*TINY, *overrides])


def train(store: Store, run: str, *overrides: str, folds: tuple[int, ...] = (0, 1, 2)) -> None:
    config = with_teachers(store, config_of(store, *overrides), student=run)
    train_folds(store, resolve(config, num_folds=3), run=run, folds=folds, force=True)


def relabelled(store: Store, fold: int) -> Store:
    """The same competition with other labels for the rows of a fold."""
    rows = store.folds.ids == fold
    table = store.folds.table.assign(label=np.where(rows, (store.folds.labels + 1) % 3, store.folds.labels))
    return Store(store.workspace, store.competition, Folds(table, store.folds.hash))


def taught_by(store: Store, *teachers: str, **settings: object) -> PseudoConfig:
    """As `with_teachers` fills it in."""
    digests = {name: sha256_json(store.read_run(name).as_parent().predictions) for name in teachers}
    return PseudoConfig.model_validate({"teachers": teachers, "predictions": digests, **settings})


def student_of_fold_1(store: Store, teacher: str) -> bytes:
    train(store, "student", f"pseudo.teachers=[{teacher}]", "pseudo.own_fold=true", folds=(1,))
    student = store.read_run("student", partial=True)
    return student.oof[store.folds.valid(1)].tobytes() + student.test.tobytes()


def test_a_folds_labels_do_not_reach_its_student(store: Store) -> None:
    train(store, "teacher")
    before = student_of_fold_1(store, "teacher")
    other = relabelled(store, 1)
    train(other, "teacher")  # the teacher is retrained, too
    assert student_of_fold_1(other, "teacher") == before
    assert student_of_fold_1(relabelled(store, 0), "teacher") != before  # other labels do count


def test_a_cross_fitted_blend_as_teacher_would_leak_labels(
    store: Store, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members' other networks were trained on fold 1's labels. With other labels they predict otherwise,
    and the blend's weights for fold 1 change."""

    def student(store: Store) -> bytes:
        for seed in (0, 1):
            train(store, f"member{seed}", f"training.seed={seed}", "phases.scratch.epochs=4")
        blend_runs(store, runs=["member0", "member1"], blenders=BLEND, name="blend")
        return student_of_fold_1(store, "blend")

    with pytest.raises(StoreError, match="blend was fitted on out-of-fold rows: through the networks"):
        student(store)
    monkeypatch.setattr(pseudo, "_check_blind", lambda teacher: None)
    assert student(store) != student(relabelled(store, 1))


def test_a_teacher_that_has_seen_the_fold_is_refused(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    write_run("b", seed=1)
    write_run("unfinished", folds=(0, 2))
    calibrate(store, "a")
    for teacher, message in [
        ("a_calibrated", "a_calibrated was fitted on out-of-fold rows"),
        ("unfinished", "unfinished: fold 1 of 3 is missing"),
        ("stranger", "there is no run 'stranger'"),
        ("student", "student cannot teach itself"),
    ]:
        with pytest.raises(StoreError, match=message):
            with_teachers(store, config_of(store, f"pseudo.teachers=[{teacher}]"), student="student")


def test_a_leaky_teacher_is_refused(store: Store) -> None:
    for fold in range(3):
        store.write_fold(
            "watched",
            fold,
            kind="model",
            config={"training": {"leaky": True}},
            valid=np.full((len(store.folds.valid(fold)), 3), -np.log(3)),
            test=np.full((len(store.competition.test), 3), -np.log(3)),
        )
    with pytest.raises(StoreError, match=r"watched the folds that it is scored on .LEAKY=1"):
        read_pseudo_labels(store, taught_by(store, "watched"), 0)


def test_labels_come_from_the_teachers_networks_of_the_fold(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    write_run("b", seed=1)
    a, b = store.read_run("a"), store.read_run("b")
    config = taught_by(store, "a", "b", teacher_weights=(3.0, 1.0), own_fold=True)
    labels, parents = read_pseudo_labels(store, config, 2)
    assert parents == (a.as_parent(), b.as_parent())
    rows = store.folds.valid(2)
    expected = 0.75 * np.exp(a.test[2]) + 0.25 * np.exp(b.test[2])
    own = 0.75 * np.exp(a.oof[rows]) + 0.25 * np.exp(b.oof[rows])
    np.testing.assert_allclose(labels.probs, np.concatenate([expected, own]), rtol=1e-5)
    train_paths = Images.to_train(store.competition).paths
    assert labels.images.paths == store.competition.test_paths() + [train_paths[row] for row in rows]


def test_a_threshold_keeps_confident_labels_and_keeping_none_is_an_error(
    store: Store, write_run: WriteRun
) -> None:
    write_run("a")
    everything, _ = read_pseudo_labels(store, taught_by(store, "a"), 0)
    sure = everything.probs.max(axis=1) >= 0.6
    assert 0 < sure.sum() < len(sure)
    kept, _ = read_pseudo_labels(store, taught_by(store, "a", threshold=0.6), 0)
    np.testing.assert_array_equal(kept.probs, everything.probs[sure])
    with pytest.raises(StoreError, match=r"threshold=0.999 keeps none of 7 images in fold 0: the surest"):
        read_pseudo_labels(store, taught_by(store, "a", threshold=0.999), 0)


def test_another_teacher_makes_another_run(store: Store, write_run: WriteRun) -> None:
    hashes = set()
    for seed in (0, 1):
        write_run("a", seed=seed)
        config = with_teachers(store, config_of(store, "pseudo.teachers=[a]"), student="student")
        hashes.add(resolve(config, num_folds=3).config.hash)
    assert len(hashes) == 2
    with pytest.raises(ConfigError, match="filled in from the teachers' files; leave the key out"):
        config_of(store, "pseudo.predictions={a: b}")


def test_a_teacher_that_changes_between_two_folds_is_noticed(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    config = taught_by(store, "a")
    read_pseudo_labels(store, config, 0)
    write_run("a", seed=1, folds=(2,))
    with pytest.raises(StoreError, match="a has changed since this run began; FORCE=1 begins it again"):
        read_pseudo_labels(store, config, 1)


def test_a_run_derived_from_a_calibrated_run_may_not_teach(store: Store, write_run: WriteRun) -> None:
    """The smoothing itself reads no label, but its parent was fitted on labels."""
    write_run("a", skill=2.0)
    calibrate(store, "a")
    rng = np.random.default_rng(0)
    features = [
        (Subset(fold, test), rng.normal(size=(len(rows), 4)).astype(np.float32))
        for fold in range(3)
        for test, rows in ((False, store.folds.valid(fold)), (True, store.competition.test))
    ]
    space = make_space(store, [Neighbours], features, description="")
    smooth = Smooth({"x": space}, [NeighbourMean("x", "arithmetic", None, 2)], fixed=True)
    derive_run(store, smooth, ["a_calibrated"])
    assert store.read_run("a_calibrated_smooth").fitted
    with pytest.raises(StoreError, match="a_calibrated_smooth was fitted on out-of-fold rows"):
        read_pseudo_labels(store, taught_by(store, "a_calibrated_smooth"), 0)
    derive_run(store, smooth, ["a"])
    assert len(read_pseudo_labels(store, taught_by(store, "a_smooth"), 0)[0].probs) == 7
    write_run("a", skill=2.0, seed=3)
    with pytest.raises(StoreError, match="a_smooth: its parent a has changed since it was made"):
        read_pseudo_labels(store, taught_by(store, "a_smooth"), 0)


def test_labels_of_held_out_rows_are_nan() -> None:
    labels, rows = np.array([0, 1, 2, 1]), np.array([0, 3])
    pseudo_labels = PseudoLabels(Images([Path("x")], ["x"]), np.array([[0.2, 0.5, 0.3]], dtype=np.float32))
    targets, weights = joint_targets(labels, rows, pseudo_labels, weight=0.5)
    assert targets[[1, 2]].isnan().all()
    np.testing.assert_allclose(targets[[0, 3, 4]], [[1, 0, 0], [0, 1, 0], [0.2, 0.5, 0.3]])
    np.testing.assert_allclose(weights, [1, 1, 1, 1, 0.5])


def test_the_manifest_names_the_teachers_and_counts_the_labels(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=3.0)
    train(store, "student", "pseudo.teachers=[a]", "pseudo.threshold=0.5", folds=(0,))
    manifest = store.manifest("student", 0)
    assert [parent.run for parent in manifest.parents] == ["a"] and manifest.kind == "model"
    kept = len(read_pseudo_labels(store, taught_by(store, "a", threshold=0.5), 0)[0].probs)
    assert manifest.details == {"num_pseudo_labels": kept}
    assert list(manifest.config["pseudo"]["predictions"]) == ["a"]
