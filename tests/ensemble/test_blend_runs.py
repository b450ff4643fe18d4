"""A blend is a run like any other: its fold k pools the members' fold-k networks with fold k's weights."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from conftest import stamps
from distracted.data.folds import Folds
from distracted.ensemble.blend import Ensemble, blend_command, blend_runs
from distracted.ensemble.blenders import ALL_BLENDERS, BLENDERS
from distracted.errors import StoreError
from distracted.metrics import accuracy, log_loss, prior_log_loss, scores
from distracted.predictions.store import Store

pytestmark = pytest.mark.slow

WriteRun = Callable[..., None]
POOLS = {blender.name: blender.pool for blender in BLENDERS}


def check_folds(store: Store, ensemble: Ensemble) -> None:
    """Each fold's valid and test rows are pooled from the members' with the weights in the manifest."""
    blend = store.read_run(ensemble.name)
    members = [store.read_run(run) for run in ensemble.members]
    for fold, manifest in zip(blend.folds, blend.manifests, strict=True):
        rows = store.folds.valid(fold)
        pool = POOLS[manifest.details["blender"]]
        weights = np.array([manifest.details["weights"][run.name] for run in members])
        valid = pool(np.stack([run.oof[rows] for run in members]), weights)
        test = pool(np.stack([run.test[run.folds.index(fold)] for run in members]), weights)
        np.testing.assert_allclose(blend.oof[rows], valid, rtol=1e-6)
        np.testing.assert_allclose(blend.test[blend.folds.index(fold)], test, rtol=1e-6)
        labels = store.folds.labels[rows]
        assert manifest.scores["valid/log_loss"] == pytest.approx(log_loss(valid, labels))
        assert manifest.scores["valid/accuracy"] == accuracy(valid, labels)


def write_members(write_run: WriteRun) -> None:
    """Three runs of which the second is the best."""
    for seed, (run, skill) in enumerate([("a", 1.0), ("b", 4.0), ("c", 2.0)]):
        write_run(run, skill=skill, seed=seed)


def test_a_fold_pools_the_members_networks_by_weights_fitted_on_the_other_folds(
    store: Store, write_run: WriteRun
) -> None:
    write_members(write_run)
    ensemble = blend_runs(store)
    check_folds(store, ensemble)
    oof = np.stack([store.read_run(run).oof for run in ensemble.members])
    for fold in range(3):
        details = store.manifest("ensemble", fold).details
        blender = next(blender for blender in BLENDERS if blender.name == details["blender"])
        others = store.folds.train(fold)
        fitted = blender.fit_weights(oof[:, others], store.folds.labels[others])
        np.testing.assert_allclose(list(details["weights"].values()), fitted, atol=1e-9)


def test_a_folds_labels_do_not_reach_the_blends_fold(store: Store, write_run: WriteRun) -> None:
    for seed, (run, skill) in enumerate([("good", 3.0), ("fair", 2.0), ("noise", 0.0), ("more", 0.0)]):
        write_run(run, skill=skill, seed=seed)
    blend_runs(store)
    before = store.read_run("ensemble")
    rows = store.folds.ids == 1
    table = store.folds.table.assign(label=np.where(rows, (store.folds.labels + 1) % 3, store.folds.labels))
    relabelled = Store(store.workspace, store.competition, Folds(table, store.folds.hash))
    blend_runs(relabelled, force=True)
    after = relabelled.read_run("ensemble")
    assert after.oof[rows].tobytes() == before.oof[rows].tobytes()
    assert after.test[1].tobytes() == before.test[1].tobytes()
    assert (after.test[[0, 2]] != before.test[[0, 2]]).any()  # elsewhere the labels do count


def test_the_headline_is_the_stored_blends_score(store: Store, write_run: WriteRun) -> None:
    write_members(write_run)
    ensemble = blend_runs(store)
    labels = store.folds.labels
    score = log_loss(store.read_run("ensemble").oof, labels)
    assert ensemble.interval.mean == pytest.approx(score, rel=1e-6)
    assert ensemble.interval.low < score < ensemble.interval.high
    assert ensemble.pooled == pytest.approx(scores(store.read_run("ensemble").oof, labels), rel=1e-6)
    assert ensemble.scores == {run: log_loss(store.read_run(run).oof, labels) for run in ("a", "b", "c")}
    assert ensemble.prior == prior_log_loss(labels, store.folds.ids, 3)


def test_manifests_hold_members_weights_and_candidates(store: Store, write_run: WriteRun) -> None:
    write_members(write_run)
    ensemble = blend_runs(store, runs=["b", "a"], name="best")
    blend = store.read_run("best")
    assert blend.kind == "blend"
    for fold, manifest in enumerate(blend.manifests):
        assert list(manifest.parents) == [store.read_run(run).as_parent() for run in ("b", "a")]
        assert manifest.details["blender"] == ensemble.fit.chosen[fold].name
        assert manifest.details["weights"] == dict(
            zip(("b", "a"), ensemble.fit.weights[fold].tolist(), strict=True)
        )
        assert manifest.details["num_candidates"] == len(BLENDERS)
        on_all = manifest.details["on_all_folds"]
        assert on_all["blender"] == ensemble.fit.overall.name
        assert list(on_all["weights"]) == ["b", "a"]
        shown = [blender.name for blender in ALL_BLENDERS]
        assert list(on_all["in_sample"]) == list(on_all["cross_fitted"]) == shown
        assert manifest.config["blenders"] == [blender.key for blender in BLENDERS]
    assert len({manifest.config_hash for manifest in blend.manifests}) == 1


def test_blending_again_replaces_the_blend(store: Store, write_run: WriteRun) -> None:
    write_members(write_run)
    blend_runs(store, runs=["a", "b"])
    blend_runs(store, runs=["a", "c"])
    blend = store.read_run("ensemble")
    assert all([parent.run for parent in manifest.parents] == ["a", "c"] for manifest in blend.manifests)


def test_an_unchanged_blend_is_not_repeated(
    store: Store, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    write_members(write_run)
    first = blend_runs(store)
    before = stamps(store, "ensemble")
    with caplog.at_level(logging.INFO):
        again = blend_runs(store)
    assert "ensemble: done already (FORCE=1 redoes it)" in caplog.text
    assert again == replace(first, fit=None) and stamps(store, "ensemble") == before


@pytest.mark.parametrize("changed", ["members", "a member", "blenders", "a file", "a manifest", "force"])
def test_a_blend_is_repeated_if_anything_has_changed(changed: str, store: Store, write_run: WriteRun) -> None:
    write_members(write_run)
    blend_runs(store)
    if changed == "a member":
        write_run("a", skill=1.0, seed=7)
    if changed == "a file":
        (store.workspace.fold("tiny", "ensemble", 1) / "test.parquet").write_bytes(b"damaged")
    if changed == "a manifest":
        (store.workspace.fold("tiny", "ensemble", 0) / "manifest.json").write_text("{")
    runs = ["a", "b"] if changed == "members" else []
    blenders = BLENDERS[:1] if changed == "blenders" else BLENDERS
    ensemble = blend_runs(store, runs=runs, blenders=blenders, force=changed == "force")
    assert ensemble.fit is not None
    check_folds(store, ensemble)


# One run


def test_a_single_run_passes_through_with_a_log_message(
    store: Store, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    write_run("a", skill=2.0)
    with caplog.at_level(logging.INFO, logger="distracted"):
        ensemble = blend_runs(store)
    assert caplog.messages == ["one run only: a passes through with weight 1"]
    run, blend = store.read_run("a"), store.read_run("ensemble")
    np.testing.assert_allclose(blend.oof, run.oof, rtol=2e-7, atol=1e-7)  # float32 has 24 bits
    np.testing.assert_allclose(blend.test, run.test, rtol=2e-7, atol=1e-7)
    for manifest in blend.manifests:
        assert manifest.details["weights"] == {"a": 1.0} and manifest.details["num_candidates"] == 1
    assert ensemble.interval.mean == pytest.approx(ensemble.scores["a"])


# Which runs are blended


def test_complete_runs_that_are_no_blends_are_taken_and_others_named(
    store: Store, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    write_run("a", seed=0)
    write_run("unfinished", seed=1, folds=(0, 2))
    write_run("b", seed=2)
    for _ in range(2):  # the second time there is a blend, which is no member of itself
        caplog.clear()
        assert blend_runs(store).members == ("a", "b")
        assert caplog.messages == ["unfinished: fold 1 of 3 is missing; left out"]
    assert blend_runs(store, name="another").members == ("a", "b")


def test_named_runs_are_taken_once_each_in_their_order(store: Store, write_run: WriteRun) -> None:
    write_members(write_run)
    ensemble = blend_runs(store, runs=["c", "a", "c"])
    assert ensemble.members == ("c", "a")
    check_folds(store, ensemble)


def test_a_run_of_an_older_split_is_passed_over(store: Store, write_run: WriteRun) -> None:
    write_members(write_run)
    folder = store.workspace.run("tiny", "a")
    for fold in range(3):
        (folder / f"fold{fold}").rename(folder / f"fold{fold + 5}")
    assert blend_runs(store).members == ("b", "c")


def test_runs_that_cannot_be_blended_are_refused(store: Store, write_run: WriteRun) -> None:
    with pytest.raises(StoreError, match="no complete run to blend; `make cv"):
        blend_runs(store)
    write_run("unfinished", folds=(0, 2))
    with pytest.raises(StoreError, match="no complete run to blend"):
        blend_runs(store)
    with pytest.raises(StoreError, match="unfinished: fold 1 of 3 is missing"):
        blend_runs(store, runs=["unfinished"])
    write_run("a")
    with pytest.raises(StoreError, match="there is no run 'stranger' on tiny; there are: a, unfinished"):
        blend_runs(store, runs=["a", "stranger"])
    with pytest.raises(StoreError, match="NAME=a: there is a run of that name that is no blend"):
        blend_runs(store, name="a")
    assert store.runs() == ["a", "unfinished"]
    blend_runs(store)
    with pytest.raises(StoreError, match="NAME=ensemble is among RUNS"):
        blend_runs(store, runs=["ensemble", "a"])


def test_a_damaged_run_stops_the_blend(store: Store, write_run: WriteRun) -> None:
    write_members(write_run)
    (store.workspace.fold("tiny", "b", 1) / "test.parquet").write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"fold1.test\.parquet: not the file"):
        blend_runs(store)
    assert store.runs() == ["a", "b", "c"]


def write_leaky(store: Store, run: str) -> None:
    """A run whose config says that it watched the folds that it is scored on."""
    for fold in range(3):
        rows = store.folds.valid(fold)
        perfect = np.log(np.eye(3)[store.folds.labels[rows]] * 0.94 + 0.02)
        store.write_fold(
            run,
            fold,
            kind="model",
            config={"training": {"leaky": True}},
            valid=perfect,
            test=np.full((len(store.competition.test), 3), -np.log(3)),
        )


def test_a_run_that_watched_its_scored_folds_joins_by_the_same_word_alone(
    store: Store, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    write_members(write_run)
    write_leaky(store, "watched")
    with caplog.at_level(logging.WARNING):
        assert blend_runs(store).members == ("a", "b", "c")
    [left_out] = caplog.messages
    assert left_out.startswith("watched: leaky, ") and left_out.endswith("left out (LEAKY=1 takes it)")
    with pytest.raises(StoreError, match=r"RUNS: 'watched' watched the folds .*LEAKY=1"):
        blend_runs(store, runs=["a", "watched"])
    assert not store.read_run("ensemble").leaky
    assert blend_runs(store, leaky=True, name="all").members == ("a", "b", "c", "watched")
    assert store.read_run("all").leaky  # and says so from then on
    blend_runs(store, runs=["a", "b"], leaky=True, name="ab")
    assert not store.read_run("ab").leaky


def test_the_command_of_a_blend_names_its_members_blenders_and_leak(
    store: Store, write_run: WriteRun
) -> None:
    write_run("a", seed=0)
    write_run("b", seed=1)
    write_leaky(store, "watched")
    blend_runs(store, runs=["b", "a"], name="plain")
    blend_runs(store, runs=["a"], name="one")
    blend_runs(store, runs=["a", "watched"], blenders=BLENDERS[:1], leaky=True, name="all")
    assert blend_command(store, "plain") == 'make ensemble RUNS="b a" NAME=plain'
    assert blend_command(store, "one") == 'make ensemble RUNS="a" NAME=one'
    ending = f'BLENDERS="{BLENDERS[0].key}" LEAKY=1'
    assert blend_command(store, "all") == f'make ensemble RUNS="a watched" NAME=all {ending}'
