"""Images on the drop list are not trained on but predicted and scored; the list is part of the config."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distracted.config import load_config, load_data_config
from distracted.data.competition import Competition, load_competition
from distracted.data.drops import read_drops, without_drops
from distracted.errors import ConfigError, DataError, StoreError
from distracted.files import sha256_file
from distracted.jobs.fold import train_and_store, train_folds
from distracted.paths import CONFIGS
from distracted.predictions.store import Store
from distracted.schema import RunConfig
from distracted.training.resolve import resolve

Listed = Callable[[str], Competition]


@pytest.fixture
def listed(competition: Competition, tmp_path: Path) -> Listed:
    """The tiny competition with a drop list."""

    def write(text: str) -> Competition:
        path = tmp_path / "tiny_drop.csv"
        path.write_text(text)
        update = {"drop_list": path, "drops": sha256_file(path)}
        config = competition.config.model_copy(update=update)
        return load_competition(config)

    return write


def dropped(competition: Competition, store: Store, fold: int) -> list[int]:
    """Rows that the list removes from a fold's training side."""
    rows = store.folds.train(fold)
    return np.setdiff1d(rows, without_drops(competition, store.folds, fold, rows)).tolist()


def test_without_a_list_nothing_is_dropped(store: Store) -> None:
    assert read_drops(store.competition).empty
    assert dropped(store.competition, store, 0) == []


def test_images_are_dropped_only_from_training_sides(store: Store, listed: Listed) -> None:
    imgs = store.competition.train["img"]
    first, second = int(store.folds.valid(0)[0]), int(store.folds.valid(1)[0])
    competition = listed(f'img,reason,fold\n{imgs[first]},black,\n{imgs[second]},"wrong, surely",2\n')
    by_fold = [dropped(competition, store, fold) for fold in range(3)]
    assert by_fold == [[], [first], sorted([first, second])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("img\na\n", "expected the columns img,reason and optionally fold, got img"),
        ("img,reason,who\n", "got img,reason,who"),
        ("img,reason\nnone.jpg,black\n", "row 2: 'none.jpg' is not a training image"),
        ("img,reason\n{0},\n", "row 2: .* has no reason"),
        ("img,reason,fold\n{0},black,one\n", "row 2: fold 'one'"),
        ("img,reason,fold\n{0},black,-1\n", "row 2: fold '-1'"),
        ("img,reason\n{0},black\n{0},white\n", "row 3: .* is listed already"),
        ("img,reason,fold\n{0},black,7\n", "fold 7; expected one of the 3 folds, 0 to 2"),
    ],
)
def test_a_wrong_list_names_its_row(store: Store, listed: Listed, text: str, message: str) -> None:
    competition = listed(text.format(store.competition.train["img"][0]))
    with pytest.raises(DataError, match=message):
        dropped(competition, store, 0)


def test_a_class_without_images_left_is_an_error(store: Store, listed: Listed) -> None:
    train = store.competition.train
    own = train.loc[train["classname"] == "c1", "img"]
    competition = listed("img,reason\n" + "".join(f"{img},all of them\n" for img in own))
    with pytest.raises(DataError, match="fold 0 would train without any image of class 'c1'"):
        dropped(competition, store, 0)


def test_a_list_that_changes_during_a_command_is_an_error(store: Store, listed: Listed) -> None:
    imgs = store.competition.train["img"]
    competition = listed(f"img,reason\n{imgs[0]},black\n")
    assert competition.config.drop_list is not None
    competition.config.drop_list.write_text(f"img,reason\n{imgs[1]},black\n")
    with pytest.raises(DataError, match="changed since this command began"):
        dropped(competition, store, 0)


def test_a_class_must_remain_among_the_rows_that_are_trained_on(store: Store, listed: Listed) -> None:
    """Images of the inner holdout are not trained on and do not count."""
    train = store.competition.train
    rows = train.index[train["subject"] == "p001"].to_numpy()
    own = train.loc[(train["classname"] == "c1") & (train["subject"] == "p001"), "img"]
    competition = listed("img,reason\n" + "".join(f"{img},all of them\n" for img in own))
    assert dropped(competition, store, 0)
    with pytest.raises(DataError, match="without any image of class 'c1'"):
        without_drops(competition, store.folds, 0, rows)


class TestConfig:
    @pytest.fixture
    def configs(self, tmp_path: Path) -> Path:
        """The project's configs in a folder that may get a drop list for the data `tiny`."""
        folder = tmp_path / "configs"
        folder.mkdir()
        for name in ("train.yaml", "recipes", "models"):
            (folder / name).symlink_to(CONFIGS / name)
        (folder / "data").mkdir()
        return folder

    def test_the_list_belongs_to_the_datas_name_and_to_the_configs_hash(
        self, configs: Path, folder: Path
    ) -> None:
        def load() -> RunConfig:
            return load_config(model="resnet50", data=str(folder), configs=configs)

        without = load()
        assert without.data.drop_list is None and "drops" not in without.resolved()["data"]
        path = configs / "data/tiny_drop.csv"
        path.write_text("img,reason\n")
        config = load()
        assert config.data.drop_list == path and config.hash != without.hash
        assert load_data_config(str(folder), configs=configs).drop_list == path
        path.write_text("img,reason\na.jpg,black\n")
        assert load().hash != config.hash

    def test_its_path_cannot_be_set(self, configs: Path) -> None:
        (configs / "data/mine.yaml").write_text("data:\n  drop_list: elsewhere.csv\n")
        with pytest.raises(ConfigError, match="if that file exists; leave the key out"):
            load_config(model="resnet50", data="mine", configs=configs)


@pytest.mark.slow
def test_dropped_images_do_not_affect_training_and_are_scored(
    store: Store, listed: Listed, configure: Callable[..., RunConfig]
) -> None:
    """Another label of a dropped image does not change the fold's predictions, and the image is predicted."""
    row = int(store.folds.valid(1)[0])
    img = store.competition.train["img"][row]
    competition = listed(f"img,reason\n{img},wrong\n")
    config = configure().model_copy(update={"data": competition.config})
    dropping = Store(store.workspace, competition, store.folds)
    resolved = resolve(config, num_folds=3)
    manifest = train_and_store(dropping, resolved, run="a", fold=0)
    assert manifest.details == {"num_dropped": 1}
    assert manifest.config["data"]["drops"] == competition.config.drops
    before = store.workspace.fold("tiny", "a", 0).joinpath("valid.parquet").read_bytes()
    store.folds.table.loc[row, "label"] = (store.folds.labels[row] + 1) % 3
    train_folds(dropping, resolved, run="a", folds=[0], force=True)
    assert store.workspace.fold("tiny", "a", 0).joinpath("valid.parquet").read_bytes() == before
    train_and_store(dropping, resolved, run="a", fold=1)
    predicted = dropping.read_run("a", partial=True).oof[row]
    assert np.isfinite(predicted).all()
    with pytest.raises(StoreError, match="another config"):
        train_and_store(store, resolve(configure(), num_folds=3), run="a", fold=2)
