"""Predictions are read as they were written and aligned by image; whatever does not fit is refused with an
error that names the file, the image and the remedy."""

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from distracted import files
from distracted.data.competition import load_competition
from distracted.errors import ConfigError, StoreError
from distracted.files import sha256_file
from distracted.paths import Workspace
from distracted.predictions import store as store_module
from distracted.predictions.manifest import Parent
from distracted.predictions.provenance import package_versions
from distracted.predictions.store import Store, open_store
from distracted.schema import DataConfig, hash_config

WriteRun = Callable[..., None]
Change = Callable[[pd.DataFrame], pd.DataFrame]
PARTS = ("valid", "test")


def file_of(store: Store, run: str, fold: int, name: str) -> Path:
    return store.workspace.fold(store.competition.name, run, fold) / name


def edit_manifest(store: Store, run: str, fold: int, values: dict[str, Any]) -> None:
    path = file_of(store, run, fold, "manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_table(store: Store, run: str, fold: int, part: str, change: Change) -> None:
    """Change a parquet file and its hash in the manifest, so that only the content shows the change."""
    path = file_of(store, run, fold, f"{part}.parquet")
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    edit_manifest(store, run, fold, {f"{part}_sha256": sha256_file(path)})


def made_up(store: Store, fold: int, *, seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Log-probabilities of a fold's valid and test rows."""
    rng = np.random.default_rng(seed)
    sizes = {"valid": len(store.folds.valid(fold)), "test": len(store.competition.test)}
    return {
        part: log_softmax(scale * rng.normal(size=(size, store.competition.num_classes)), axis=1)
        for part, size in sizes.items()
    }


def write(store: Store, run: str, fold: int, **parts: Any) -> None:
    store.write_fold(run, fold, kind="model", config={}, **made_up(store, fold) | parts)


# Round trip


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 1.0, 20.0, 300.0]))
def test_predictions_come_back_as_written(store: Store, seed: int, scale: float) -> None:
    written = [made_up(store, fold, seed=seed + fold, scale=scale) for fold in range(3)]
    for fold, parts in enumerate(written):
        write(store, "a", fold, **parts)
    run = store.read_run("a")
    assert (run.name, run.kind, run.folds) == ("a", "model", (0, 1, 2))
    for fold, parts in enumerate(written):
        np.testing.assert_array_equal(run.oof[store.folds.valid(fold)], parts["valid"].astype(np.float32))
        np.testing.assert_array_equal(run.test[fold], parts["test"].astype(np.float32))
    np.testing.assert_allclose(np.exp(run.oof).sum(axis=1), 1, atol=1e-5)


def test_rows_are_aligned_by_image_not_by_position(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    before = store.read_run("a")
    for fold in range(3):
        for part in PARTS:
            edit_table(store, "a", fold, part, lambda table: table.sample(frac=1, random_state=1))
    after = store.read_run("a")
    np.testing.assert_array_equal(after.oof, before.oof)
    np.testing.assert_array_equal(after.test, before.test)


def test_files_hold_images_then_classes_in_the_submissions_order(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    for part in ("valid", "test"):
        table = pd.read_parquet(file_of(store, "a", 1, f"{part}.parquet"))
        assert list(table.columns) == ["img", "c0", "c1", "c2"]
        assert (table.dtypes.iloc[1:] == np.float32).all()
    assert table["img"].tolist() == store.competition.test["img"].tolist()


def test_test_prediction_is_the_mean_of_probabilities_over_folds(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    run = store.read_run("a")
    np.testing.assert_allclose(np.exp(run.test_log_probs), np.exp(run.test).mean(axis=0), rtol=1e-12)


def test_test_mean_survives_probabilities_too_small_for_a_float(store: Store) -> None:
    certain = np.tile([0.0, -800.0, -900.0], (len(store.competition.test), 1))
    for fold in range(3):
        write(store, "a", fold, test=certain)
    np.testing.assert_allclose(store.read_run("a").test_log_probs, certain, rtol=1e-6, atol=1e-12)


# The manifest


def test_the_manifest_holds_every_field(store: Store) -> None:
    parent = Parent(run="b", config_hash="two", predictions={"0": "three"})
    manifest = store.write_fold(
        "a",
        1,
        kind="derived",
        config={"model": {"backbone": "x"}},
        **made_up(store, 1),
        parents=[parent],
        weights={"origin": "timm"},
        scores={"valid/log_loss": 0.5},
        seconds=2.5,
        images_per_second=10.0,
        details={"k": 3},
    )
    assert store.manifest("a", 1) == manifest
    folder = store.workspace.fold("tiny", "a", 1)
    stored = json.loads((folder / "manifest.json").read_text())
    packages, written = stored.pop("packages"), stored.pop("written")
    assert stored == {
        "kind": "derived",
        "run": "a",
        "fold": 1,
        "data": "tiny",
        "config": {"model": {"backbone": "x"}},
        "config_hash": hash_config({"model": {"backbone": "x"}}),
        "index_hash": store.competition.index_hash,
        "folds_hash": sha256_file(store.workspace.folds("tiny")),
        "valid_sha256": sha256_file(folder / "valid.parquet"),
        "test_sha256": sha256_file(folder / "test.parquet"),
        "parents": [{"run": "b", "config_hash": "two", "predictions": {"0": "three"}}],
        "weights": {"origin": "timm"},
        "scores": {"valid/log_loss": 0.5},
        "seconds": 2.5,
        "images_per_second": 10.0,
        "details": {"k": 3},
        "git_commit": stored["git_commit"],
    }
    assert stored["git_commit"] is None or len(stored["git_commit"].removesuffix("+changes")) == 40
    assert packages["numpy"] == np.__version__ and {"torch", "timm", "pandas"} <= set(packages)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(written)).total_seconds()) < 60


def test_a_parent_is_identified_by_its_predictions(store: Store, write_run: WriteRun) -> None:
    write_run("a", seed=0)
    parent = store.read_run("a").as_parent()
    assert (parent.run, set(parent.predictions)) == ("a", {"0", "1", "2"})
    assert parent.config_hash == hash_config({"run": "a"})
    write_run("a", seed=0)
    assert store.read_run("a").as_parent() == parent
    write_run("a", seed=1, folds=(2,))
    redone = store.read_run("a").as_parent().predictions
    assert {fold for fold in redone if redone[fold] != parent.predictions[fold]} == {"2"}


MANIFEST_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"index_hash": "0" * 64}, "made from other data"),
    ({"folds_hash": "0" * 64}, "made with other folds"),
    ({"run": "b"}, "run is 'b', expected 'a'"),
    ({"fold": 2}, "fold is 2, expected 1"),
    ({"data": "state_farm"}, "data is 'state_farm', expected 'tiny'"),
    ({"kind": "guess"}, "not a manifest"),
    ({"extra": 1}, "not a manifest"),
    ({"config": {"run": "b"}, "config_hash": hash_config({"run": "b"})}, "different configs"),
    ({"config": {"run": "b"}}, "its config does not have its stated hash"),
    ({"config_hash": "0" * 64}, "its config does not have its stated hash"),
    ({"valid_sha256": "0" * 64}, "not the file that its manifest describes"),
]


def test_a_manifest_that_does_not_fit_is_refused(store: Store, write_run: WriteRun) -> None:
    write_run("a", folds=(0, 2))
    for values, message in MANIFEST_FAULTS:
        write_run("a", folds=(1,))
        edit_manifest(store, "a", 1, values)
        with pytest.raises(StoreError, match=message) as refusal:
            store.read_run("a")
        assert "FORCE=1" in str(refusal.value)


def test_a_damaged_manifest_is_refused(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    for content in (b"", b"{", b"[]", b"\xff\xfe"):
        file_of(store, "a", 2, "manifest.json").write_bytes(content)
        with pytest.raises(StoreError, match=r"fold2.manifest\.json: not a manifest"):
            store.read_run("a")


# Tables that do not fit


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00" * 64], ids=["empty", "short", "zeros"])
def test_a_file_that_is_no_table_is_refused_even_with_the_right_hash(
    store: Store, write_run: WriteRun, content: bytes
) -> None:
    write_run("a")
    path = file_of(store, "a", 1, "valid.parquet")
    path.write_bytes(content)
    edit_manifest(store, "a", 1, {"valid_sha256": files.sha256_file(path)})
    with pytest.raises(StoreError, match=r"valid\.parquet: not a readable parquet file"):
        store.read_run("a")


def test_a_config_with_an_infinite_number_is_refused(store: Store, write_run: WriteRun) -> None:
    """Python reads such numbers from JSON, but they cannot be hashed."""
    write_run("a")
    edit_manifest(store, "a", 1, {"config": {"lr": float("inf")}})
    with pytest.raises(StoreError, match="its config does not have its stated hash"):
        store.read_run("a")


def test_an_edited_table_is_refused(store: Store, write_run: WriteRun) -> None:
    write_run("a", folds=(0, 2))
    for part in PARTS:
        write_run("a", folds=(1,))
        path = file_of(store, "a", 1, f"{part}.parquet")
        table = pd.read_parquet(path)
        table.iloc[::-1].to_parquet(path, index=False)
        with pytest.raises(StoreError, match=rf"fold1.{part}\.parquet: not the file that its manifest"):
            store.read_run("a")


def test_a_missing_table_is_refused(store: Store, write_run: WriteRun) -> None:
    for part in PARTS:
        write_run("a")
        file_of(store, "a", 0, f"{part}.parquet").unlink()
        with pytest.raises(StoreError, match=rf"fold0.{part}\.parquet: no such file"):
            store.read_run("a")


def _set(row: int, column: str, value: Any) -> Change:
    return lambda table: table.assign(
        **{column: table[column].where(np.arange(len(table)) != row, value).astype(table[column].dtype)}
    )


TABLE_FAULTS: list[tuple[Change, str]] = [
    (lambda table: table.drop(index=2), "image {img} is missing;"),
    (lambda table: pd.concat([table, table.iloc[[2]]]), "image {img} is there more than once"),
    (_set(2, "img", "stranger.jpg"), "image stranger.jpg does not belong there"),
    (_set(2, "c1", np.nan), "image {img} has a value that is not finite"),
    (_set(2, "c1", -np.inf), "image {img} has a value that is not finite"),
    (_set(2, "c1", 0.5), "image {img}: probabilities sum to"),
    (lambda table: table.assign(c1="much"), "not a readable parquet file (could not convert string"),
    (lambda table: table.assign(c1=table["c1"].astype(object).where(table.index != 2)), "image {img} has a"),
    (lambda table: table[["img", "c1", "c0", "c2"]], "expected the columns img, c0, c1, c2"),
    (lambda table: table.drop(columns="c2"), "expected the columns img, c0, c1, c2"),
    (lambda table: table.assign(c3=-50.0), "expected the columns img, c0, c1, c2"),
]


@pytest.mark.parametrize("part", PARTS)
def test_a_table_that_does_not_fit_is_refused_even_with_the_right_hash(
    store: Store, write_run: WriteRun, part: str
) -> None:
    for change, message in TABLE_FAULTS:
        write_run("a", folds=(1,))
        path = file_of(store, "a", 1, f"{part}.parquet")
        img = pd.read_parquet(path)["img"].iloc[2]
        edit_table(store, "a", 1, part, change)
        with pytest.raises(StoreError) as refusal:
            store.read_run("a", partial=True)
        assert str(refusal.value).startswith(f"{path}: {message.format(img=img)}")
        assert "again with FORCE=1" in str(refusal.value)


SPOILT: list[tuple[Callable[[np.ndarray], np.ndarray], str]] = [
    (lambda values: values[:-1], r"expected log-probabilities of shape \(\d+, 3\), got \(\d+, 3\)"),
    (lambda values: values[:, :2], r"expected log-probabilities of shape \(\d+, 3\), got \(\d+, 2\)"),
    (lambda values: np.where(np.arange(len(values))[:, None] == 1, np.nan, values), "not finite"),
    (lambda values: values + 0.01, r"probabilities sum to 1\.01\d+, expected 1"),
    (np.exp, "probabilities sum to"),
]


def test_invalid_predictions_are_not_written(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    before = contents(store.workspace.oof("tiny"))
    for spoil, message in SPOILT:
        for part in PARTS:
            with pytest.raises(StoreError, match=message):
                write(store, "a", 1, **{part: spoil(made_up(store, 1)[part])})
    assert contents(store.workspace.oof("tiny")) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sums_within_the_tolerance_are_accepted(store: Store) -> None:
    for fold in range(3):
        write(store, "a", fold, **{part: values + 9e-5 for part, values in made_up(store, fold).items()})
    store.read_run("a")


def test_a_run_needs_a_name_that_can_be_a_folder(store: Store) -> None:
    for run in ("", "../b", ".hidden", "a b", "a/b"):
        with pytest.raises(ConfigError, match="NAME"):
            write(store, run, 0)


# Folds: there or not


def test_a_missing_fold_is_refused_unless_partial(store: Store, write_run: WriteRun) -> None:
    write_run("a", folds=(0, 2))
    with pytest.raises(StoreError, match="a: fold 1 of 3 is missing"):
        store.read_run("a")
    run = store.read_run("a", partial=True)
    assert run.folds == (0, 2) and run.test.shape == (2, 7, 3)
    held_out = store.folds.ids == 1
    assert np.isnan(run.oof[held_out]).all() and np.isfinite(run.oof[~held_out]).all()


def test_a_run_without_folds_is_refused(store: Store) -> None:
    for partial in (False, True):
        with pytest.raises(StoreError, match="there is no run 'a' on tiny; there are: none yet"):
            store.read_run("a", partial=partial)
    with pytest.raises(StoreError, match="no such prediction"):
        store.manifest("a", 0)


def test_a_run_that_is_replaced_while_it_is_read_is_read_again(
    store: Store, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a", seed=0)
    before = store.manifests("a")
    write_run("a", seed=1)
    now, reads = store.manifests, iter([before])
    monkeypatch.setattr(store, "manifests", lambda run: next(reads, None) or now(run))
    assert store.read_run("a").manifests == now("a")
    with pytest.raises(StoreError, match="a, fold 0 was made again just now"):
        store.check_files(*before)


def test_a_fold_without_a_manifest_does_not_exist(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    write_run("b", folds=(1,))
    assert store.runs() == ["a", "b"]
    file_of(store, "a", 0, "manifest.json").unlink()
    file_of(store, "b", 1, "manifest.json").unlink()
    assert store.finished_folds("a") == [1, 2] and store.finished_folds("b") == []
    assert store.runs() == ["a"]


def test_folds_of_an_older_split_are_ignored(store: Store, write_run: WriteRun) -> None:
    write_run("a", folds=(1,))
    file_of(store, "a", 1, ".").rename(store.workspace.run("tiny", "a") / "fold7")
    assert store.finished_folds("a") == [] and store.runs() == []


@pytest.mark.parametrize("moment", ["while a file is written", "before it is renamed", "between renamings"])
def test_a_crash_at_any_write_leaves_the_old_fold_or_none(
    store: Store, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The crash comes at each of the three files in turn, with the fold stored before or not."""
    write_run("a", folds=(0, 2))
    for number in range(3):
        for before in ((), (1,)):
            write_run("a", folds=before)
            kept = store.read_run("a", partial=True)
            with monkeypatch.context() as patch:
                if moment == "before it is renamed":
                    patch.setattr(files.os, "fsync", crash_at(number, files.os.fsync))
                elif moment == "between renamings":
                    patch.setattr(Path, "replace", crash_at(number, Path.replace))
                elif number < 2:
                    patch.setattr(pd.DataFrame, "to_parquet", crash_at(number, pd.DataFrame.to_parquet))
                else:
                    patch.setattr(Path, "write_text", crash_at(0, Path.write_text))
                with pytest.raises(OSError, match="the disk is full"):
                    write_run("a", seed=1, folds=(1,))
            if moment == "between renamings":
                assert store.finished_folds("a") == [0, 2]
                with pytest.raises(StoreError, match="fold 1 of 3 is missing"):
                    store.read_run("a")
            else:
                now = store.read_run("a", partial=True)
                assert now.folds == kept.folds and np.array_equal(now.oof, kept.oof, equal_nan=True)
            assert not list(store.workspace.oof("tiny").rglob("*.tmp"))
            write_run("a", folds=(1,))
            store.read_run("a")
            file_of(store, "a", 1, "manifest.json").unlink()


def crash_at(number: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, except that its call number `number` fails."""
    calls = itertools.count()

    def crashing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            raise OSError("the disk is full")
        return real(*args, **kwargs)

    return crashing


def test_a_fold_never_mixes_the_files_of_two_processes(
    store: Store, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks: another process writes the whole fold just before this one does."""
    write_run("a", folds=(0, 2))
    write_run("a", seed=2, folds=(1,))
    alone = store.read_run("a")
    file_of(store, "a", 1, "manifest.json").unlink()
    with monkeypatch.context() as patch:

        def overtaken(*args: Any) -> dict[str, str]:
            patch.undo()
            write_run("a", seed=1, folds=(1,))
            assert store.finished_folds("a") == [0, 1, 2]
            return package_versions()

        patch.setattr(store_module, "package_versions", overtaken)
        write_run("a", seed=2, folds=(1,))
    assert np.array_equal(store.read_run("a").oof, alone.oof)


# Configs


def test_another_config_is_refused_and_a_name_suggested(store: Store, write_run: WriteRun) -> None:
    write_run("a", folds=(0, 1))
    store.check_config("a", hash_config({"run": "a"}))
    with pytest.raises(StoreError, match="NAME=a_2"):
        store.check_config("a", "another")


def test_another_config_may_redo_all_of_a_runs_folds(store: Store, write_run: WriteRun) -> None:
    write_run("a", folds=(0, 1))
    store.check_config("a", "another", redone={0, 1})
    with pytest.raises(StoreError, match=r"fold1 was made with another config"):
        store.check_config("a", "another", redone={0})
    with pytest.raises(StoreError, match=r"fold0 was made with another config"):
        store.check_config("a", "another", redone={1, 2})


def test_a_new_run_may_have_any_config(store: Store) -> None:
    store.check_config("a", "any")
    with pytest.raises(ConfigError, match="NAME"):
        store.check_config("../a", "any")


# Data and folds


def test_a_data_name_is_bound_to_one_index(store: Store, workspace: Workspace, data: DataConfig) -> None:
    bound = json.loads(workspace.data_binding("tiny").read_text())
    assert bound == {"name": "tiny", "index_hash": store.competition.index_hash}
    open_store(workspace, data)  # the same data again
    binding = workspace.data_binding("tiny")
    binding.write_bytes(binding.read_bytes().replace(b"\n", b"\r\n"))  # as an editor or git may save it
    open_store(workspace, data)

    path = data.folder / data.sample_submission
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert load_competition(data).index_hash != store.competition.index_hash
    with pytest.raises(StoreError, match=r"data\.json: the name 'tiny' belongs to other data"):
        open_store(workspace, data)


def test_predictions_of_other_folds_are_refused(
    store: Store, write_run: WriteRun, workspace: Workspace, data: DataConfig
) -> None:
    write_run("a")
    path = workspace.folds("tiny")
    table = pd.read_csv(path)
    table.assign(fold=(table["fold"] + 1) % 3).to_csv(path, index=False)
    with pytest.raises(StoreError, match=r"made with other folds than folds\.csv"):
        open_store(workspace, data).read_run("a")
