"""Runs derived by a fitted step: stored, scored by fits that never saw their labels, and blended."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from conftest import MemorySpace, calibrate, stamps
from distracted.data.folds import Folds
from distracted.ensemble.blend import blend_runs
from distracted.ensemble.blenders import find_blenders
from distracted.ensemble.derive import Derived, derive_run
from distracted.ensemble.members import step_source
from distracted.ensemble.sources import ChosenSource, ScoredRows, StoredSource
from distracted.errors import ConfigError, StoreError
from distracted.metrics import log_loss
from distracted.postprocess.calibrate import Calibrate, Calibration
from distracted.postprocess.candidates import all_candidates, find_limits, parse_candidate
from distracted.postprocess.method import Method
from distracted.postprocess.neighbour_mean import NeighbourMean, neighbour_means
from distracted.postprocess.neighbours import Neighbours, nearest_neighbours
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.spaces import Space, make_space
from distracted.postprocess.step import STEP_VERSION, Rows, Subset
from distracted.predictions.store import Store

pytestmark = pytest.mark.slow  # networks or whole runs in each

WriteRun = Callable[..., None]
LINEAR = find_blenders(["linear_pool"])


def space_of(store: Store, *, informative: bool, seed: int = 0) -> Space:
    """Random features; if `informative`, images of a class lie near each other."""
    rng = np.random.default_rng(seed)

    def features() -> Iterator[tuple[Subset, np.ndarray]]:
        test = rng.normal(size=(len(store.competition.test), 6)).astype(np.float32)
        for fold in range(store.folds.num_folds):
            labels = store.folds.labels[store.folds.valid(fold)]
            rows = rng.normal(size=(len(labels), 6)) + 9 * informative * np.eye(6)[labels]
            yield Subset(fold), rows.astype(np.float32)
            yield Subset(fold, test=True), test

    return make_space(store, [Neighbours], features(), description="made up")


def candidates_in(store: Store, space: str = "x") -> list[Method]:
    """All settings of the neighbour mean in a space."""
    return all_candidates(store, [NeighbourMean], [space])


def smooth(
    store: Store, run: str, space: Space, *, name: str = "", force: bool = False, how: Method | None = None
) -> Derived:
    """Smooth a run in the space `x` by the best candidate, or by `how`."""
    candidates = candidates_in(store) if how is None else [how]
    step = Smooth({"x": space}, candidates, fixed=how is not None)
    return derive_run(store, step, [run], name=name, force=force)


def relabelled(store: Store, fold: int) -> Store:
    rows = store.folds.ids == fold
    table = store.folds.table.assign(label=np.where(rows, (store.folds.labels + 1) % 3, store.folds.labels))
    return Store(store.workspace, store.competition, Folds(table, store.folds.hash))


def bytes_of(store: Store, run: str, fold: int) -> bytes:
    stored = store.read_run(run)
    return stored.oof[store.folds.ids == fold].tobytes() + stored.test[fold].tobytes()


def test_limits_follow_from_the_sizes_of_folds_and_subjects(store: Store) -> None:
    sizes = [int((store.folds.ids == fold).sum()) for fold in range(store.folds.num_folds)]
    smallest = min(*sizes, len(store.competition.test))
    per_subject = len(store.folds.table) // store.folds.table["subject"].nunique()
    assert find_limits(store) == {"k": smallest - 1, "size": min(per_subject, smallest // 2)}
    columns = store.competition.config.columns.model_copy(update={"group": None})
    config = store.competition.config.model_copy(update={"columns": columns})
    without = Store(store.workspace, replace(store.competition, config=config), store.folds)
    assert find_limits(without) == {"k": smallest - 1, "size": smallest // 2}


# Calibration


def test_each_fold_is_calibrated_by_the_fit_on_the_others(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    derived = calibrate(store, "a", parts=("temperature",))
    parent, run = store.read_run("a"), store.read_run("a_calibrated")
    assert run.kind == "derived" and run.fitted and not parent.fitted
    for fold, manifest in enumerate(run.manifests):
        fitted = Calibration(**{**manifest.details["fitted"], "prior": ()})
        assert fitted.temperature == derived.fits[fold].temperature
        rows = store.folds.valid(fold)
        step = Calibrate(("temperature",))
        valid = step.predict(fitted, Rows(Subset(fold), parent.oof[None, rows]))
        test = step.predict(fitted, Rows(Subset(fold, test=True), parent.test[fold][None]))
        np.testing.assert_allclose(run.oof[rows], valid, atol=1e-5)
        np.testing.assert_allclose(run.test[fold], test, atol=1e-5)
    assert derived.gain.after == pytest.approx(log_loss(run.oof, store.folds.labels))
    assert derived.gain.before == pytest.approx(log_loss(parent.oof, store.folds.labels))


def test_unknown_parts_and_names_already_in_use_are_refused(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    write_run("b")
    with pytest.raises(ConfigError, match="PARTS: expected some of prior, temperature, clip; got 'bias'"):
        calibrate(store, "a", parts=["bias"])
    with pytest.raises(ConfigError, match="got none"):
        calibrate(store, "a", parts=[])
    with pytest.raises(StoreError, match="NAME=b: there is a run of that name that is not derived"):
        calibrate(store, "a", name="b")
    with pytest.raises(StoreError, match="there is no run 'c'"):
        calibrate(store, "c")
    assert store.runs() == ["a", "b"]


def test_a_single_split_has_nothing_to_fit_on(
    store_with: Callable[[dict[str, int]], Store], write_run: WriteRun
) -> None:
    store = store_with({"p000": 0})
    rows = store.folds.valid(0)
    uniform = np.full((len(rows), 3), -np.log(3))
    test = np.full((len(store.competition.test), 3), -np.log(3))
    store.write_fold("a", 0, kind="model", config={"run": "a"}, valid=uniform, test=test)
    with pytest.raises(StoreError, match="a single split has no other fold to fit calibrate on"):
        calibrate(store, "a")


# Smoothing


def test_an_informative_space_is_used(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    calibrate(store, "a", parts=("temperature",))
    derived = smooth(store, "a_calibrated", space_of(store, informative=True), name="good")
    assert [fitted.how.space for fitted in derived.fits] == ["x"] * 3
    assert derived.gain.after < derived.gain.before - 0.2
    assert store.manifest("good", 0).details["num_candidates"] == 1 + 2 * 4 * 3


def test_with_uninformative_neighbours_calibrated_predictions_are_left_alone() -> None:
    """Labels are drawn from the predictions and neighbours are random: each fold chooses no smoothing."""
    rng = np.random.default_rng(0)
    num, folds = 1500, np.arange(1500) % 5
    log_probs = log_softmax(2 * rng.normal(size=(num, 4)), axis=1)
    labels = (np.exp(log_probs).cumsum(axis=1) < rng.random((num, 1))).sum(axis=1)
    scored = ScoredRows(labels, folds, np.arange(num) // 50)
    neighbours = nearest_neighbours(rng.normal(size=(300, 16)).astype(np.float32), 20)
    space = MemorySpace(lambda index, subset: neighbours)
    step = Smooth({"any": space}, NeighbourMean.candidates(["any"], {"k": 20}))
    source = step_source(step, [StoredSource("run", log_probs, scored)])
    assert isinstance(source, ChosenSource)
    assert [source.choice(frozenset({fold})) for fold in range(5)] == [0] * 5
    np.testing.assert_allclose(source.predict(Subset(0), frozenset({0})), log_probs[folds == 0], atol=1e-12)


def test_a_fixed_setting_smooths_each_part_by_its_own_neighbours(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    space = space_of(store, informative=False)
    how = parse_candidate(NeighbourMean, "k=3 bandwidth=none mean=geometric", "x", find_limits(store))
    smooth(store, "a", space, how=how)
    parent, smoothed = store.read_run("a"), store.read_run("a_smooth")
    assert not smoothed.fitted  # no label was read: it may teach
    for fold in range(3):
        rows = store.folds.valid(fold)
        near = space.get(Neighbours, Subset(fold))
        (valid,) = neighbour_means(parent.oof[rows], near, "geometric", None, [3])
        near = space.get(Neighbours, Subset(fold, True))
        (test,) = neighbour_means(parent.test[fold], near, "geometric", None, [3])
        np.testing.assert_allclose(smoothed.oof[rows], valid, atol=1e-5)
        np.testing.assert_allclose(smoothed.test[fold], test, atol=1e-5)


# Honest in a blend, too


def make_all(store: Store, space: Space) -> None:
    """A calibrated and smoothed run, a calibrated one, and their blend."""
    for run in ("a", "b"):
        calibrate(store, run, force=True)
    smooth(store, "a_calibrated", space, name="smooth", force=True)
    blend_runs(store, runs=["smooth", "b_calibrated"], blenders=LINEAR)


def test_a_folds_labels_reach_neither_its_steps_nor_its_blend(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    write_run("b", skill=2.0, seed=1)
    runs = ("a_calibrated", "smooth", "ensemble")
    space = space_of(store, informative=True)
    make_all(store, space)
    before = {run: bytes_of(store, run, 1) for run in runs}
    choices = store.manifest("smooth", 1).details["fitted"], store.manifest("ensemble", 1).details["fitted"]
    other = relabelled(store, 1)
    make_all(other, space)
    assert {run: bytes_of(other, run, 1) for run in runs} == before
    now = other.manifest("smooth", 1).details["fitted"], other.manifest("ensemble", 1).details["fitted"]
    assert now == choices
    changed = relabelled(store, 0)
    make_all(changed, space)
    assert all(bytes_of(changed, run, 1) != before[run] for run in runs)  # other folds' labels do count


def test_blending_stored_predictions_would_leak_a_folds_labels_into_its_weights(
    store: Store, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same check fails for a blend of the derived runs' stored predictions."""
    write_run("a", skill=2.0)
    write_run("b", skill=2.0, seed=1)

    def weights(store: Store) -> object:
        for run in ("a", "b"):
            calibrate(store, run, force=True)
        for run in ("a_calibrated", "b_calibrated"):
            derived = store.read_run(run)
            for fold in range(3):
                store.write_fold(
                    f"file_of_{run}",
                    fold,
                    kind="model",
                    config={"run": run},
                    valid=derived.oof[store.folds.valid(fold)],
                    test=derived.test[fold],
                )
        blend_runs(store, runs=["file_of_a_calibrated", "file_of_b_calibrated"], blenders=LINEAR)
        return store.manifest("ensemble", 1).details["fitted"]

    assert weights(store) != weights(relabelled(store, 1))


def test_a_derived_run_whose_parent_has_changed_is_no_member(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    write_run("b")
    calibrate(store, "a")
    write_run("a", skill=2.0, seed=5)
    with pytest.raises(StoreError, match="a_calibrated: its parent a has changed since it was made"):
        blend_runs(store, runs=["a_calibrated", "b"], blenders=LINEAR)


def test_a_step_is_repeated_only_if_its_inputs_or_files_changed(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    first = calibrate(store, "a")
    before = stamps(store, "a_calibrated")
    again = calibrate(store, "a")
    assert again.gain == first.gain and again.fits == () and stamps(store, "a_calibrated") == before
    assert len(calibrate(store, "a", force=True).fits) == 3
    (store.workspace.fold("tiny", "a_calibrated", 1) / "valid.parquet").unlink()
    assert len(calibrate(store, "a").fits) == 3
    (store.workspace.fold("tiny", "a_calibrated", 1) / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="make a_calibrated again with FORCE=1"):
        calibrate(store, "a")
    assert len(calibrate(store, "a", force=True).fits) == 3
    write_run("a", skill=2.0, seed=5)
    assert len(calibrate(store, "a").fits) == 3


def test_a_smoothing_is_repeated_if_its_space_has_changed(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    for informative, num_fitted in ((True, 3), (True, 0), (False, 3)):
        assert len(smooth(store, "a", space_of(store, informative=informative)).fits) == num_fitted


def test_a_missing_space_is_named(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    smooth(store, "a", space_of(store, informative=True))
    for path in store.workspace.spaces("tiny").glob("*.npz"):
        path.unlink()
    with pytest.raises(StoreError, match=r"\.npz: gone or damaged; .* makes it again"):
        blend_runs(store, runs=["a", "a_smooth"], blenders=LINEAR)


def test_a_space_of_other_images_is_refused(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    space = space_of(store, informative=True)
    [of_test] = {space.keys["neighbours"][Subset(fold, test=True)] for fold in range(3)}
    for path in store.workspace.spaces("tiny").glob("*.npz"):
        path.write_bytes((space.folder / f"{of_test}.npz").read_bytes())
    with pytest.raises(StoreError, match=r"\.npz: of other images: expected 18 rows; remove it"):
        smooth(store, "a", space)
    assert store.runs() == ["a"]


def test_a_run_derived_from_a_blend_is_no_member(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    write_run("b", seed=1)
    blend_runs(store, blenders=LINEAR)
    derived = calibrate(store, "ensemble")
    assert derived.gain.after < 5
    assert blend_runs(store, name="other", blenders=LINEAR).members == ("a", "b")
    with pytest.raises(StoreError, match="ensemble_calibrated is a blend, or made from one"):
        blend_runs(store, runs=["a", "ensemble_calibrated"], name="third", blenders=LINEAR)


# Stored runs can be made again


def test_a_step_on_a_blend_that_chooses_among_blenders(store: Store, write_run: WriteRun) -> None:
    """When a step opens the blend again, the blend chooses its blender without the hidden fold."""
    for seed, (run, skill) in enumerate([("a", 4.0), ("b", 1.0), ("c", 0.0)]):
        write_run(run, skill=skill, seed=seed)
    blenders = find_blenders(["arithmetic_mean", "linear_pool"])
    ensemble = blend_runs(store, blenders=blenders)
    assert {blender.name for blender in ensemble.fit.chosen} == {"linear pool"}
    calibrate(store, "ensemble", parts=("temperature",))
    before = bytes_of(store, "ensemble_calibrated", 1)
    other = relabelled(store, 1)
    blend_runs(other, runs=["a", "b", "c"], blenders=blenders)
    calibrate(other, "ensemble", parts=("temperature",))
    assert bytes_of(other, "ensemble_calibrated", 1) == before


def test_a_run_that_cannot_be_reproduced_is_refused(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    write_run("b", seed=1)
    smooth(store, "a", space_of(store, informative=True))
    manifest = store.manifest("a_smooth", 2)
    path = store.workspace.spaces("tiny") / f"{manifest.details['spaces']['neighbours']['x']['valid']}.npz"
    with np.load(path) as arrays:
        indices, distances = arrays["indices"], arrays["distances"]
    np.savez(path, indices=(indices + 7) % len(indices), distances=distances)
    with pytest.raises(StoreError, match=r"a_smooth: fold \d comes out otherwise now than it is stored"):
        blend_runs(store, runs=["a_smooth", "b"], blenders=LINEAR)


def test_no_run_is_derived_from_itself(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    calibrate(store, "a", name="x")
    calibrate(store, "x", name="y")
    for run in ("x", "y"):
        with pytest.raises(
            StoreError, match=f"NAME=x: {run} is that run, or made from it; choose another name"
        ):
            calibrate(store, run, name="x", force=True)
    assert calibrate(store, "y", name="z").name == "z"


def test_a_stale_run_is_left_out_unless_it_is_named(
    store: Store, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    write_run("a", skill=2.0)
    write_run("b")
    calibrate(store, "a")
    write_run("a", skill=2.0, seed=5)
    assert blend_runs(store, blenders=LINEAR).members == ("a", "b")
    assert "a_calibrated: its parent a has changed since it was made; make it again" in caplog.text
    with pytest.raises(StoreError, match="a_calibrated: its parent a has changed"):
        calibrate(store, "a_calibrated")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"name": "smooth", "version": STEP_VERSION, "candidates": [{"method": "magic"}]}, "magic"),
        ({"name": "calibrate", "parts": ["clip"]}, "steps of version 1"),
    ],
)
def test_a_step_of_another_version_is_refused(
    step: dict[str, Any], message: str, store: Store, write_run: WriteRun
) -> None:
    write_run("a")
    calibrate(store, "a")
    run = store.read_run("a_calibrated")
    config = {**run.manifests[0].config, "step": step}
    for fold in range(3):
        store.write_fold(
            "a_calibrated",
            fold,
            kind="derived",
            config=config,
            valid=run.oof[store.folds.valid(fold)],
            test=run.test[fold],
            parents=run.manifests[0].parents,
        )
    with pytest.raises(StoreError, match=f"a_calibrated: made by another version of the project .*{message}"):
        blend_runs(store, blenders=LINEAR)


def test_two_folds_are_too_few_to_choose_a_smoothing_by(
    store_with: Callable[[dict[str, int]], Store],
) -> None:
    store = store_with({f"p{subject:03}": subject % 2 for subject in range(6)})
    with pytest.raises(StoreError, match=r"2 folds are too few to choose a smoothing by; .*HOW="):
        candidates_in(store)
