"""A bundle holds whole runs in plain files, and is restored only if every hash is right."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet

from distracted.bundle.make import make_bundle
from distracted.bundle.manifest import find_bundle, read_bundle
from distracted.bundle.restore import restore_bundle
from distracted.bundle.wheels import needed_packages
from distracted.errors import BundleError, LockError, StoreError
from distracted.files import sha256_file
from distracted.locks import hold
from distracted.paths import CONFIGS, METRICS, Workspace
from distracted.predictions.store import Store, open_store

WriteRun = Callable[..., None]


@pytest.fixture
def filled(store: Store, write_run: WriteRun) -> Store:
    """Two finished runs with networks, and a run whose fold 0 is begun."""
    write_run("a")
    write_run("b", seed=1, folds=(0, 1))
    store = open_store(store.workspace, store.competition.config)  # writes the index
    for run, folds in {"a": 3, "b": 2}.items():
        for fold in range(folds):
            write(store, run, fold, "model.safetensors", f"{run}{fold}")
            write(store, run, fold, METRICS, "{}\n")
    begin(store)
    return store


def write(store: Store, run: str, fold: int, name: str, text: str) -> Path:
    path = store.scratch(run, fold) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def begin(store: Store) -> None:
    for name in (METRICS, "last.ckpt", "previous.ckpt", "job.json", "log.txt"):
        write(store, "c", 0, name, f"{name}\n")


def files(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}


@pytest.fixture
def bundle(filled: Store, tmp_path: Path) -> Path:
    make_bundle(filled, tmp_path / "out", code=False)
    return tmp_path / "out"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "another machine")


def test_a_bundle_is_plain_files_without_paths(filled: Store, bundle: Path, tmp_path: Path) -> None:
    listed, there = read_bundle(bundle), files(bundle)
    del there["bundle.json"]
    assert {file.path: file.sha256 for file in listed.files} == there
    assert [(run.name, run.finished, run.begun) for run in listed.runs] == [
        ("a", (0, 1, 2), ()),
        ("b", (0, 1), ()),
        ("c", (), (0,)),
    ]
    assert "runs/tiny/c/fold0/last.ckpt" in files(bundle)
    assert not {path for path in files(bundle) if path.endswith(("previous.ckpt", "log.txt", "lock.json"))}
    assert not [path for path in bundle.rglob("*") if path.name.startswith(".")]
    assert str(tmp_path) not in "".join(path.read_text(errors="replace") for path in bundle.rglob("*.json"))


def test_the_code_is_the_tracked_files(filled: Store, tmp_path: Path) -> None:
    made = make_bundle(filled, tmp_path / "out", runs=["a"])
    code = {file.path for file in made.files if file.path.startswith("code/")}
    assert {"code/Makefile", "code/pyproject.toml", "code/requirements.lock"} <= code
    assert "code/scripts/restore.py" in code
    assert "code/src/distracted/bundle/make.py" in code and "code/configs/train.yaml" in code
    assert not [path for path in code if "__pycache__" in path or "/." in path or "egg-info" in path]
    assert [run.name for run in made.runs] == ["a"]


def test_a_restored_workspace_is_the_same(filled: Store, bundle: Path, elsewhere: Workspace) -> None:
    expected = {path: sha for path, sha in files(bundle).items() if path.startswith(("oof/", "runs/"))}
    assert restore_bundle(bundle, elsewhere).num_written == len(expected)
    assert files(elsewhere.root) == expected
    there = open_store(elsewhere, filled.competition.config)
    assert there.read_run("a").manifests == filled.read_run("a").manifests
    assert restore_bundle(bundle, elsewhere).num_written == 0


def test_a_read_only_bundle_in_an_inner_folder(bundle: Path, elsewhere: Workspace, tmp_path: Path) -> None:
    moved = tmp_path / "my data set (1)" / "x"
    moved.parent.mkdir()
    bundle.rename(moved)
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert restore_bundle(find_bundle(moved.parent), elsewhere).num_written > 0
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o755)


@pytest.mark.parametrize("damage", ["changed", "gone", "longer"])
def test_a_damaged_bundle_changes_nothing(bundle: Path, elsewhere: Workspace, damage: str) -> None:
    path = bundle / "runs/tiny/b/fold1/model.safetensors"
    if damage == "gone":
        path.unlink()
    else:
        path.write_text("b0" if damage == "changed" else "b1b1")
    with pytest.raises(BundleError, match=r"runs/tiny/b/fold1/model.safetensors is .*again"):
        restore_bundle(bundle, elsewhere)
    assert files(elsewhere.root) == {}


def test_what_differs_here_is_not_overwritten(bundle: Path, elsewhere: Workspace) -> None:
    restore_bundle(bundle, elsewhere)
    network = elsewhere.network("tiny", "a", 1)
    network.write_text("mine")
    before = files(elsewhere.root)
    with pytest.raises(BundleError, match=rf"{network}: differ .*FORCE=1"):
        restore_bundle(bundle, elsewhere)
    assert files(elsewhere.root) == before
    assert restore_bundle(bundle, elsewhere, force=True).num_written == 1
    assert network.read_text() == "a1"


def test_an_interrupted_restore_goes_on(
    bundle: Path, elsewhere: Workspace, monkeypatch: pytest.MonkeyPatch, filled: Store
) -> None:
    """It is interrupted before each file; whatever is there then has a manifest only if it is whole."""
    copy, left = shutil.copyfile, 0

    def fail(source: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", fail)
    for room in range(40):
        left = room
        try:
            restore_bundle(bundle, elsewhere)
            break
        except OSError:
            for manifest in elsewhere.oof("tiny").glob("*/fold*/manifest.json"):
                stated = json.loads(manifest.read_text())
                assert sha256_file(manifest.with_name("valid.parquet")) == stated["valid_sha256"]
            shutil.rmtree(elsewhere.root, ignore_errors=room % 2 == 0) if room % 2 else None
    monkeypatch.undo()
    assert restore_bundle(bundle, elsewhere).num_written >= 0
    assert open_store(elsewhere, filled.competition.config).finished_folds("a") == [0, 1, 2]
    assert not list(elsewhere.root.rglob("*.tmp"))


def test_a_fold_that_went_on_here_is_kept(bundle: Path, elsewhere: Workspace, filled: Store) -> None:
    restore_bundle(bundle, elsewhere)
    scratch = elsewhere.scratch("tiny", "c", 0)
    (scratch / METRICS).write_text(f"{METRICS}\nmore\n")
    (scratch / "last.ckpt").write_text("later")
    assert restore_bundle(bundle, elsewhere).num_written == 0
    (scratch / METRICS).write_text("another training\n")
    with pytest.raises(BundleError, match=r"c/fold0/.*differ"):
        restore_bundle(bundle, elsewhere)


def test_other_data_or_folds_are_never_mixed(bundle: Path, elsewhere: Workspace) -> None:
    for name, what in {"data.json": "other data", "folds.csv": "another split"}.items():
        shutil.rmtree(elsewhere.root, ignore_errors=True)
        path = elsewhere.oof("tiny") / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        with pytest.raises(BundleError, match=rf"{name}: of {what} than .*move"):
            restore_bundle(bundle, elsewhere, force=True)


def test_a_second_store_of_the_same_data_is_refused(bundle: Path, elsewhere: Workspace) -> None:
    other = elsewhere.data_binding("attached")
    other.parent.mkdir(parents=True)
    other.write_bytes((bundle / "oof/tiny/data.json").read_bytes())
    with pytest.raises(BundleError, match=r"oof/attached: a store of the same data .*FORCE=1"):
        restore_bundle(bundle, elsewhere)
    assert restore_bundle(bundle, elsewhere, force=True).num_written


def test_a_fold_in_training_is_refused(filled: Store, bundle: Path, elsewhere: Workspace) -> None:
    with hold(filled.workspace.lock("tiny", "c", 0), "training"), pytest.raises(LockError):
        make_bundle(filled, bundle)
    with hold(elsewhere.lock("tiny", "a", 0), "training"), pytest.raises(LockError):
        restore_bundle(bundle, elsewhere)


def test_a_bundle_is_brought_up_to_date(filled: Store, bundle: Path) -> None:
    kept = (bundle / "oof/tiny/a/fold0/test.parquet").stat().st_ino
    shutil.rmtree(filled.scratch("c", 0))
    (bundle / "oof/tiny/.x.tmp").write_text("left by a killed process")
    make_bundle(filled, bundle, code=False)
    assert "runs/tiny/c/fold0/last.ckpt" not in files(bundle) and not (bundle / "runs/tiny/c").exists()
    assert (bundle / "oof/tiny/a/fold0/test.parquet").stat().st_ino == kept
    assert not list(bundle.rglob(".*"))


def test_wrong_folders_are_named(filled: Store, tmp_path: Path, bundle: Path, elsewhere: Workspace) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("")
    with pytest.raises(BundleError, match=r"OUT=.*full: holds other files"):
        make_bundle(filled, tmp_path / "full")
    with pytest.raises(BundleError, match=r"BUNDLE=.*full: no bundle.json"):
        find_bundle(tmp_path / "full")
    with pytest.raises(StoreError, match="there is no run 'x'"):
        make_bundle(filled, tmp_path / "new", runs=["x"])
    content = json.loads((bundle / "bundle.json").read_text())
    for key, value, message in (
        ("complete", False, "did not finish"),
        ("format", 9, "format 9"),
        ("files", [{"path": "../x", "size": 0, "sha256": ""}], "leads out"),
    ):
        (bundle / "bundle.json").write_text(json.dumps(content | {key: value}))
        with pytest.raises(BundleError, match=message):
            restore_bundle(bundle, elsewhere)


def test_configs_are_added_and_never_replaced(
    filled: Store, tmp_path: Path, elsewhere: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    ours = shutil.copytree(CONFIGS, tmp_path / "ours/configs")
    (ours / "models/mine.yaml").write_text("model: {backbone: test_resnet}\n")
    (ours / "data/tiny_drop.csv").write_text("img,reason\n")
    make_bundle(filled, tmp_path / "out", code=False, configs=ours)
    theirs = shutil.copytree(CONFIGS, tmp_path / "theirs/configs")
    (theirs / "train.yaml").write_text("recipe: full\n")
    with caplog.at_level("INFO", "distracted"):
        restore_bundle(tmp_path / "out", elsewhere, configs=theirs)
    assert (theirs / "models/mine.yaml").is_file() and (theirs / "data/tiny_drop.csv").is_file()
    assert (theirs / "train.yaml").read_text() == "recipe: full\n"
    assert any("train.yaml differs from the bundle's" in line for line in caplog.messages)
    (theirs / "data/tiny_drop.csv").write_text("img,reason\nx,y\n")
    with pytest.raises(BundleError, match=r"tiny_drop.csv: differ"):
        restore_bundle(tmp_path / "out", elsewhere, configs=theirs)


def test_wheels_that_cannot_be_had_leave_the_earlier_bundle_whole(
    filled: Store, bundle: Path, elsewhere: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of a notebook, in a session that has lost its network."""
    before = (bundle / "bundle.json").read_bytes()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BundleError, match="WHEELS=1"):
        make_bundle(filled, bundle, code=False, wheels=True)
    assert (bundle / "bundle.json").read_bytes() == before
    restore_bundle(bundle, elsewhere)
    with pytest.raises(BundleError, match="WHEELS=1"):
        make_bundle(filled, bundle.with_name("new"), code=False, wheels=True)
    make_bundle(filled, bundle.with_name("new"), code=False)  # the folder is known as a begun bundle
    assert read_bundle(bundle.with_name("new")).complete


def test_an_index_that_another_pandas_wrote_is_the_same(bundle: Path, elsewhere: Workspace) -> None:
    """The file names the version that wrote it."""
    restore_bundle(bundle, elsewhere)
    index = elsewhere.index("tiny")
    table = parquet.read_table(index)
    parquet.write_table(table.replace_schema_metadata({"pandas": "of another version"}), index)
    there = index.read_bytes()
    assert restore_bundle(bundle, elsewhere).num_written == 0
    assert index.read_bytes() == there


def test_a_copy_of_a_folds_folder_is_no_fold(filled: Store, tmp_path: Path) -> None:
    """Cloud drives make them when two machines write at once."""
    fold = filled.scratch("c", 0)
    shutil.copytree(fold, fold.with_name("fold0 (1)"))
    made = make_bundle(filled, tmp_path / "out", code=False)
    assert [run.begun for run in made.runs if run.name == "c"] == [(0,)]


def test_wheels_leave_out_what_the_host_has() -> None:
    packages = needed_packages()
    assert {"timm", "albumentations", "safetensors", "wandb", "typer"} <= set(packages)
    assert not {"torch", "torchvision", "triton", "distracted"} & set(packages)
    assert not [name for name in packages if name.startswith("nvidia")]
