"""Runs that a fitted step makes: stored, scored without a look at their labels, and members of a blend."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from conftest import stamps
from distracted.data.folds import Folds
from distracted.ensemble.blend import blend_runs
from distracted.ensemble.blenders import find_blenders
from distracted.ensemble.derive import calibrate_run, extent_of, settings_to_try, smooth_run
from distracted.ensemble.members import step_source
from distracted.ensemble.sources import Chosen, ScoredRows, Stored
from distracted.errors import ConfigError, StoreError
from distracted.metrics import log_loss
from distracted.postprocess.calibrate import Calibrate, Calibrated
from distracted.postprocess.methods import WAYS, Extent, parse_setting
from distracted.postprocess.neighbour_mean import NeighbourMean, averagings, neighbour_means
from distracted.postprocess.neighbours import nearest_neighbours
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.spaces import Space, make_spaces
from distracted.postprocess.step import STEP_VERSION, Subset
from distracted.predictions.store import Store

pytestmark = pytest.mark.slow  # networks or whole runs in each

WriteRun = Callable[..., None]
LINEAR = find_blenders(["linear_pool"])


def space_of(store: Store, way: str, *, telling: bool, seed: int = 0) -> Space[Any]:
    """Features of images: of the same class near each other, or (not telling) anywhere."""
    rng = np.random.default_rng(seed)

    def parts() -> Iterator[tuple[Subset, np.ndarray]]:
        test = rng.normal(size=(len(store.competition.test), 6)).astype(np.float32)
        for fold in range(store.folds.num_folds):
            labels = store.folds.labels[store.folds.valid(fold)]
            features = rng.normal(size=(len(labels), 6)) + 9 * telling * np.eye(6)[labels]
            yield Subset(fold), features.astype(np.float32)
            yield Subset(fold, test=True), test

    layout = WAYS[way].layout
    return make_spaces(store, [layout], parts(), describes="made up")[layout.name]


def tried(store: Store, space: str = "x") -> list[Any]:
    """Every way to average neighbours in a space."""
    return settings_to_try(store, [WAYS["neighbours"]], [space])


def relabelled(store: Store, fold: int) -> Store:
    rows = store.folds.ids == fold
    table = store.folds.table.assign(label=np.where(rows, (store.folds.labels + 1) % 3, store.folds.labels))
    return Store(store.workspace, store.competition, Folds(table, store.folds.hash))


def bytes_of(store: Store, run: str, fold: int) -> bytes:
    made = store.read_run(run)
    return made.oof[store.folds.ids == fold].tobytes() + made.test[fold].tobytes()


def test_what_there_is_to_smooth(store: Store) -> None:
    sizes = [int((store.folds.ids == fold).sum()) for fold in range(store.folds.num_folds)]
    smallest = min(*sizes, len(store.competition.test))
    num_subjects = store.folds.table["subject"].nunique()
    assert extent_of(store) == Extent(smallest, len(store.folds.table) // num_subjects)
    columns = store.competition.config.columns.model_copy(update={"group": None})
    config = store.competition.config.model_copy(update={"columns": columns})
    without = Store(store.workspace, replace(store.competition, config=config), store.folds)
    assert extent_of(without) == Extent(smallest, None)


# Calibration


def test_a_calibrated_run_is_each_fold_by_what_the_others_taught(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    made = calibrate_run(store, "a", parts=("temperature",))
    parent, run = store.read_run("a"), store.read_run("a_calibrated")
    assert run.kind == "derived" and run.fitted and not parent.fitted
    for fold, manifest in enumerate(run.manifests):
        fitted = Calibrated(**{**manifest.details["fitted"], "prior": ()})
        assert fitted.temperature == made.fitted[fold].temperature
        rows = store.folds.valid(fold)
        step = Calibrate(("temperature",))
        valid = step.apply(fitted, parent.oof[None, rows], Subset(fold))
        test = step.apply(fitted, parent.test[fold][None], Subset(fold, test=True))
        np.testing.assert_allclose(run.oof[rows], valid, atol=1e-5)
        np.testing.assert_allclose(run.test[fold], test, atol=1e-5)
    assert made.gain.after == pytest.approx(log_loss(run.oof, store.folds.labels))
    assert made.gain.before == pytest.approx(log_loss(parent.oof, store.folds.labels))


def test_unknown_parts_and_names_that_are_taken_are_refused(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    write_run("b")
    with pytest.raises(ConfigError, match="PARTS: expected some of prior, temperature, clip; got 'bias'"):
        calibrate_run(store, "a", parts=["bias"])
    with pytest.raises(ConfigError, match="got none"):
        calibrate_run(store, "a", parts=[])
    with pytest.raises(StoreError, match="NAME=b: there is a run of that name that is not derived"):
        calibrate_run(store, "a", name="b")
    with pytest.raises(StoreError, match="there is no run 'c'"):
        calibrate_run(store, "c")
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
        calibrate_run(store, "a")


# Smoothing


def test_a_space_that_tells_classes_apart_is_used(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    calibrate_run(store, "a", parts=("temperature",))
    spaces = {"neighbours": {"telling": space_of(store, "neighbours", telling=True)}}
    made = smooth_run(store, "a_calibrated", candidates=tried(store, "telling"), spaces=spaces, name="good")
    assert [fitted.how.space for fitted in made.fitted] == ["telling"] * 3
    assert made.gain.after < made.gain.before - 0.2
    assert store.manifest("good", 0).details["num_candidates"] == 1 + 2 * 4 * 3


def test_where_neighbours_say_nothing_calibrated_predictions_are_left_alone() -> None:
    """Labels follow the predictions, neighbours are anybody: for every fold the choice is no smoothing."""
    rng = np.random.default_rng(0)
    num, folds = 1500, np.arange(1500) % 5
    log_probs = log_softmax(2 * rng.normal(size=(num, 4)), axis=1)
    labels = (np.exp(log_probs).cumsum(axis=1) < rng.random((num, 1))).sum(axis=1)
    scored = ScoredRows(labels, folds, np.arange(num) // 50)
    neighbours = nearest_neighbours(rng.normal(size=(300, 16)).astype(np.float32), 20)
    step = Smooth(NeighbourMean({"any": lambda part: neighbours}, averagings(["any"], most=20)))
    source = step_source("smooth", step, [Stored("run", log_probs, scored)], scored)
    assert isinstance(source, Chosen)
    assert [source.choice(frozenset({fold})) for fold in range(5)] == [0] * 5
    np.testing.assert_allclose(source.predict(Subset(0), frozenset({0})), log_probs[folds == 0], atol=1e-12)


def test_a_fixed_setting_smooths_each_part_by_its_own_neighbours(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    space = space_of(store, "neighbours", telling=False)
    fixed = parse_setting(WAYS["neighbours"], "k=3 bandwidth=none mean=geometric", "x", Extent(7, 7))
    smooth_run(store, "a", candidates=[fixed], spaces={"neighbours": {"x": space}}, fixed=True)
    parent, made = store.read_run("a"), store.read_run("a_smooth")
    assert not made.fitted  # nothing was read of any label: it may teach
    for fold in range(3):
        rows = store.folds.valid(fold)
        (valid,) = neighbour_means(parent.oof[rows], space(Subset(fold)), "geometric", None, [3])
        (test,) = neighbour_means(parent.test[fold], space(Subset(fold, True)), "geometric", None, [3])
        np.testing.assert_allclose(made.oof[rows], valid, atol=1e-5)
        np.testing.assert_allclose(made.test[fold], test, atol=1e-5)


# Honest in a blend, too


def make_all(store: Store, space: Space[Any]) -> None:
    """A calibrated, smoothed run beside another, calibrated one, and their blend."""
    for run in ("a", "b"):
        calibrate_run(store, run, force=True)
    smooth_run(
        store,
        "a_calibrated",
        candidates=tried(store),
        spaces={"neighbours": {"x": space}},
        name="smooth",
        force=True,
    )
    blend_runs(store, runs=["smooth", "b_calibrated"], blenders=LINEAR)


def test_a_folds_labels_reach_neither_its_steps_nor_its_blend(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    write_run("b", skill=2.0, seed=1)
    runs = ("a_calibrated", "smooth", "ensemble")
    space = space_of(store, "neighbours", telling=True)
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


def test_members_as_files_would_let_a_folds_labels_into_its_weights(
    store: Store, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same check, with a blend that takes a derived run's stored predictions as they are."""
    write_run("a", skill=2.0)
    write_run("b", skill=2.0, seed=1)

    def weights(store: Store) -> object:
        for run in ("a", "b"):
            calibrate_run(store, run, force=True)
        for run in ("a_calibrated", "b_calibrated"):
            made = store.read_run(run)
            for fold in range(3):
                store.write_fold(
                    f"file_of_{run}",
                    fold,
                    kind="model",
                    config={"run": run},
                    valid=made.oof[store.folds.valid(fold)],
                    test=made.test[fold],
                )
        blend_runs(store, runs=["file_of_a_calibrated", "file_of_b_calibrated"], blenders=LINEAR)
        return store.manifest("ensemble", 1).details["fitted"]

    assert weights(store) != weights(relabelled(store, 1))


def test_a_derived_run_whose_parent_has_changed_is_no_member(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    write_run("b")
    calibrate_run(store, "a")
    write_run("a", skill=2.0, seed=5)
    with pytest.raises(StoreError, match="a_calibrated: its parent a has changed since it was made"):
        blend_runs(store, runs=["a_calibrated", "b"], blenders=LINEAR)


def test_a_step_that_would_give_the_same_is_not_taken_again(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    made = calibrate_run(store, "a")
    before = stamps(store, "a_calibrated")
    again = calibrate_run(store, "a")
    assert again.gain == made.gain and again.fitted == () and stamps(store, "a_calibrated") == before
    assert len(calibrate_run(store, "a", force=True).fitted) == 3
    (store.workspace.fold("tiny", "a_calibrated", 1) / "valid.parquet").unlink()
    assert len(calibrate_run(store, "a").fitted) == 3
    (store.workspace.fold("tiny", "a_calibrated", 1) / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="make a_calibrated anew with FORCE=1"):
        calibrate_run(store, "a")
    assert len(calibrate_run(store, "a", force=True).fitted) == 3
    write_run("a", skill=2.0, seed=5)
    assert len(calibrate_run(store, "a").fitted) == 3


def test_a_smoothing_is_taken_again_where_its_space_has_changed(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    for telling, num_fitted in ((True, 3), (True, 0), (False, 3)):
        spaces = {"neighbours": {"x": space_of(store, "neighbours", telling=telling)}}
        assert len(smooth_run(store, "a", candidates=tried(store), spaces=spaces).fitted) == num_fitted


def test_a_space_that_is_gone_is_named(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    spaces = {"neighbours": {"x": space_of(store, "neighbours", telling=True)}}
    smooth_run(store, "a", candidates=tried(store), spaces=spaces)
    for path in store.workspace.spaces("tiny").glob("*.npz"):
        path.unlink()
    with pytest.raises(StoreError, match=r"\.npz: gone or damaged; .*make smooth"):
        blend_runs(store, runs=["a", "a_smooth"], blenders=LINEAR)


def test_a_space_of_other_images_is_named(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    space = space_of(store, "neighbours", telling=True)
    [of_test] = {space.keys[Subset(fold, test=True)] for fold in range(3)}
    for path in store.workspace.spaces("tiny").glob("*.npz"):
        path.write_bytes((space.folder / f"{of_test}.npz").read_bytes())
    with pytest.raises(StoreError, match=r"\.npz: of other images: expected 18 rows; remove it"):
        smooth_run(store, "a", candidates=tried(store), spaces={"neighbours": {"x": space}})
    assert store.runs() == ["a"]


def test_what_is_made_of_a_blend_is_no_member_and_is_left_out(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=2.0)
    write_run("b", seed=1)
    blend_runs(store, blenders=LINEAR)
    made = calibrate_run(store, "ensemble")
    assert made.gain.after < 5
    assert blend_runs(store, name="other", blenders=LINEAR).members == ("a", "b")
    with pytest.raises(StoreError, match="ensemble_calibrated is a blend, or made of one"):
        blend_runs(store, runs=["a", "ensemble_calibrated"], name="third", blenders=LINEAR)


# What is stored is what comes out


def test_a_step_on_a_blend_that_chooses_among_blenders(store: Store, write_run: WriteRun) -> None:
    """Reopened, the blend chooses as it did when it was made, without what is hidden from the step."""
    for seed, (run, skill) in enumerate([("a", 4.0), ("b", 1.0), ("c", 0.0)]):
        write_run(run, skill=skill, seed=seed)
    blenders = find_blenders(["arithmetic_mean", "linear_pool"])
    ensemble = blend_runs(store, blenders=blenders)
    assert {blender.name for blender in ensemble.fit.chosen} == {"linear pool"}
    calibrate_run(store, "ensemble", parts=("temperature",))
    before = bytes_of(store, "ensemble_calibrated", 1)
    other = relabelled(store, 1)
    blend_runs(other, runs=["a", "b", "c"], blenders=blenders)
    calibrate_run(other, "ensemble", parts=("temperature",))
    assert bytes_of(other, "ensemble_calibrated", 1) == before


def test_a_run_that_comes_out_otherwise_than_stored_is_refused(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    write_run("b", seed=1)
    spaces = {"neighbours": {"x": space_of(store, "neighbours", telling=True)}}
    smooth_run(store, "a", candidates=tried(store), spaces=spaces)
    manifest = store.manifest("a_smooth", 2)
    path = store.workspace.spaces("tiny") / f"{manifest.details['spaces']['neighbours']['x']['valid']}.npz"
    with np.load(path) as arrays:
        indices, distances = arrays["indices"], arrays["distances"]
    np.savez(path, indices=(indices + 7) % len(indices), distances=distances)
    with pytest.raises(StoreError, match=r"a_smooth: fold \d comes out otherwise now than it is stored"):
        blend_runs(store, runs=["a_smooth", "b"], blenders=LINEAR)


def test_no_run_is_made_of_itself(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    calibrate_run(store, "a", name="x")
    calibrate_run(store, "x", name="y")
    for run in ("x", "y"):
        with pytest.raises(StoreError, match=f"NAME=x: {run} is made of it, or is it; choose another name"):
            calibrate_run(store, run, name="x", force=True)
    assert calibrate_run(store, "y", name="z").name == "z"


def test_a_stale_run_is_left_out_unless_it_is_named(
    store: Store, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    write_run("a", skill=2.0)
    write_run("b")
    calibrate_run(store, "a")
    write_run("a", skill=2.0, seed=5)
    assert blend_runs(store, blenders=LINEAR).members == ("a", "b")
    assert "a_calibrated: its parent a has changed since it was made; make it again" in caplog.text
    with pytest.raises(StoreError, match="a_calibrated: its parent a has changed"):
        calibrate_run(store, "a_calibrated")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"name": "smooth", "version": STEP_VERSION, "candidates": [{"method": "magic"}]}, "magic"),
        ({"name": "calibrate", "parts": ["clip"]}, "steps of version 1"),
    ],
)
def test_a_step_of_another_version_is_named(
    step: dict[str, Any], message: str, store: Store, write_run: WriteRun
) -> None:
    write_run("a")
    calibrate_run(store, "a")
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
        settings_to_try(store, [WAYS["neighbours"]], ["x"])
