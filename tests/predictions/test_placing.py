"""The same data under another folder name goes on with the store that it has."""

import logging
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

import console
from distracted.config import DataFolder, load_config, load_data_config, load_runtime_config
from distracted.data.competition import load_competition
from distracted.errors import StoreError
from distracted.paths import Workspace
from distracted.predictions.placing import find_store
from distracted.predictions.store import Store, open_store

RUNTIME = load_runtime_config()


def copy(folder: Path, name: str) -> Path:
    return shutil.copytree(folder, folder.parent / "kaggle" / name)


def find(workspace: Workspace, folder: Path) -> str:
    return find_store(workspace, load_data_config(f"{folder}/"))


def bind(workspace: Workspace, folder: Path) -> Store:
    return open_store(workspace, load_data_config(f"{folder}/"), num_folds=3)


def test_without_another_store_the_name_is_the_folders(workspace: Workspace, folder: Path) -> None:
    assert find(workspace, folder) == "tiny"
    bind(workspace, folder)
    assert find(workspace, folder) == "tiny"
    assert find(workspace, folder.parent / "not there") == "not_there"  # reading it says what is missing


@pytest.mark.parametrize("name", ["other", "state farm (2)", "Fahrer (ü)  1", "數據", "it's $HOME"])
def test_a_renamed_folder_has_the_same_store_and_hash(
    workspace: Workspace, folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    bind(workspace, folder)
    renamed = copy(folder, name)
    with caplog.at_level(logging.INFO, "distracted"):
        placed = console.place(f"{renamed}/", workspace.root, RUNTIME)
    assert placed == DataFolder(renamed, "tiny")
    assert f"{renamed}: its data is that of {workspace.oof('tiny')}, which is used" in caplog.messages
    was = load_config(model="resnet50", data=str(folder), root=workspace.root)
    now = load_config(model="resnet50", data=placed, root=workspace.root)
    assert now.hash == was.hash and now.data.folder == renamed
    assert console.open_store(f"{renamed}/", workspace.root, RUNTIME).competition.name == "tiny"
    assert [path.name for path in (workspace.root / "oof").iterdir()] == ["tiny"]


def test_a_named_config_applies_to_the_renamed_folder(workspace: Workspace, folder: Path) -> None:
    """A store that was made with DATA=state_farm keeps its Kaggle competition and its hash."""
    shutil.copytree(folder, workspace.input("state_farm"))
    open_store(workspace, load_data_config("state_farm", root=workspace.root), num_folds=3)
    placed = console.place(f"{copy(folder, 'attached')}/", workspace.root, RUNTIME)
    config = load_config(model="resnet50", data=placed, root=workspace.root)
    named = load_config(model="resnet50", data="state_farm", root=workspace.root)
    assert config.hash == named.hash and config.data.kaggle == named.data.kaggle is not None


COMPETITION = "state-farm-distracted-driver-detection"


def test_a_folder_named_like_a_competition_has_its_settings(workspace: Workspace, folder: Path) -> None:
    """As Kaggle mounts it; the submission can be sent."""
    data = load_data_config(f"{copy(folder, COMPETITION)}/")
    assert (data.name, data.kaggle) == ("state_farm", COMPETITION)
    assert data.folder.name == COMPETITION
    assert find(workspace, data.folder) == "state_farm"
    named = load_config(model="resnet50", data="state_farm")
    assert load_config(model="resnet50", data=f"{data.folder}/").hash == named.hash


def test_a_store_that_has_the_competitions_name_stays(workspace: Workspace, folder: Path) -> None:
    mounted = copy(folder, COMPETITION)
    open_store(workspace, load_data_config(DataFolder(mounted, COMPETITION)), num_folds=3)
    assert console.place(f"{mounted}/", workspace.root, RUNTIME) == DataFolder(mounted, COMPETITION)


def test_other_images_under_the_same_names_are_other_data(workspace: Workspace, folder: Path) -> None:
    bind(workspace, folder)
    changed = copy(folder, "smaller")
    image = next((changed / "imgs/test").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    assert find(workspace, changed) == "smaller"
    assert bind(workspace, changed).competition.name == "smaller"


def test_images_are_read_only_if_another_store_lists_the_same(workspace: Workspace, folder: Path) -> None:
    bind(workspace, folder)
    other = copy(folder, "other")
    table = pd.read_csv(other / "driver_imgs_list.csv")
    table.iloc[1:].to_csv(other / "driver_imgs_list.csv", index=False)
    shutil.rmtree(other / "imgs")
    assert find(workspace, other) == "other"


def test_the_folders_own_store_is_preferred(workspace: Workspace, folder: Path) -> None:
    bind(workspace, folder)
    again = copy(folder, "again")
    open_store(workspace, load_data_config(f"{again}/"), num_folds=3)  # as an older version did
    assert find(workspace, folder) == "tiny" and find(workspace, again) == "again"


def test_two_stores_of_the_same_data_are_ambiguous(workspace: Workspace, folder: Path) -> None:
    for name in ("one", "two"):
        open_store(workspace, load_data_config(f"{copy(folder, name)}/"), num_folds=3)
    message = (
        r"oof/one and .*oof/two hold predictions of the data in .*/tiny: DATA=one .*move the others away"
    )
    with pytest.raises(StoreError, match=message):
        find(workspace, folder)


def test_two_folders_with_one_safe_name(workspace: Workspace, folder: Path) -> None:
    """The second is found by its hash if it has a store, else refused with the way out."""
    bind(workspace, copy(folder, "a b"))
    assert find(workspace, copy(folder, "a_b")) == "a_b"  # the same data
    other = copy(folder, "x/a (b)")
    image = next((other / "imgs/test").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(StoreError, match=r"the name 'a_b' belongs to other data .*ln -s"):
        bind(workspace, other)
    linked = other.parent / "third"
    linked.symlink_to(other)
    bind(workspace, linked)
    assert find(workspace, other) == "third"


@pytest.mark.parametrize(("name", "store"), [(b"f\xf6to", "f_to"), (b"\xf6", "data_b0b2988b")])
def test_folders_of_any_bytes_have_stores(
    workspace: Workspace, folder: Path, name: bytes, store: str
) -> None:
    """Such as folders from archives in another encoding."""
    bind(workspace, copy(folder, os.fsdecode(name)))
    assert [path.parent.name for path in workspace.data_bindings()] == [store]
    assert find(workspace, folder) == store


def test_a_damaged_store_is_passed_over(workspace: Workspace, folder: Path) -> None:
    bind(workspace, folder)
    workspace.data_binding("tiny").write_text("{")
    assert find(workspace, copy(folder, "other")) == "other"
    workspace.folds("tiny").write_bytes(b"\xff\x00")
    assert find(workspace, folder.parent / "kaggle/other") == "other"


def test_a_read_only_store_is_found(workspace: Workspace, folder: Path) -> None:
    bind(workspace, folder)
    renamed = copy(folder, "renamed")
    workspace.oof("tiny").chmod(0o555)
    try:
        store = console.open_store(f"{renamed}/", workspace.root, RUNTIME)
    finally:
        workspace.oof("tiny").chmod(0o755)
    assert store.competition.name == "tiny"


def test_a_name_in_configs_is_kept_and_the_other_store_is_named(
    workspace: Workspace, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bind(workspace, folder)
    shutil.copytree(folder, workspace.input("state_farm"))
    with caplog.at_level(logging.INFO, "distracted"):
        store = console.open_store("state_farm", workspace.root, RUNTIME, num_folds=3)
    assert store.competition.name == "state_farm"
    [line] = [line for line in caplog.messages if "holds predictions of the same data" in line]
    assert line.startswith(str(workspace.oof("tiny")))


def test_a_store_without_a_config_can_be_named(workspace: Workspace, folder: Path) -> None:
    bind(workspace, folder)
    assert load_data_config("tiny", root=workspace.root).name == "tiny"
    assert load_competition(load_data_config(f"{folder}/")).name == "tiny"
