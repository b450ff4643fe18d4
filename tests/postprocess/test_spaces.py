"""Spaces: each fold's rows in its own network's features, or all in one network's; computed once."""

from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from conftest import TINY
from distracted.config import load_config
from distracted.data.picture_sets import Images
from distracted.errors import StoreError
from distracted.models.network import Network, build_network
from distracted.postprocess.neighbours import MAX_NEIGHBOURS, Neighbours, nearest_neighbours
from distracted.postprocess.networks import load_trained
from distracted.postprocess.spaces import ALL_DRIVERS, Space, own_space, pretrained_space
from distracted.postprocess.step import Subset
from distracted.predictions.store import Store
from distracted.progress import silent
from distracted.training.feed import Feed
from distracted.training.resolve import resolve
from untrained import RUNTIME, write_untrained

pytestmark = pytest.mark.slow  # networks or whole runs in each


def check(space: Space, subset: Subset, feed: Feed, network: Network, images: Images) -> None:
    features = np.asarray(feed.features(network, images))
    expected = nearest_neighbours(features, min(MAX_NEIGHBOURS, len(features) - 1))
    kept = space.get(Neighbours, subset)
    np.testing.assert_array_equal(kept.indices, expected.indices)
    np.testing.assert_allclose(kept.distances, expected.distances, atol=1e-6)


def test_a_runs_own_space_has_the_features_of_each_folds_own_network(store: Store) -> None:
    """Never in another fold's, which was trained on the labels of these rows."""
    run = write_untrained(store)
    space = own_space(store, [Neighbours], run, runtime=RUNTIME)
    train, test = Images.to_train(store.competition), Images.to_test(store.competition)
    for fold in range(3):
        trained = load_trained(store, run, fold, runtime=RUNTIME)
        valid = train.take(store.folds.valid(fold))
        check(space, Subset(fold), trained.feed, trained.network, valid)
        check(space, Subset(fold, test=True), trained.feed, trained.network, test)
    assert ALL_DRIVERS not in space.keys["neighbours"]
    assert len(set(space.keys["neighbours"].values())) == 6  # three networks: nothing is shared


def test_a_pretrained_networks_space_is_the_same_for_all_folds(store: Store, tmp_path: Path) -> None:
    weights = tmp_path / "trunk.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), weights)
    folder, given = str(store.competition.config.folder), f"model.weights={weights}"
    resolved = resolve(load_config(model="resnet50", data=folder, overrides=[*TINY, given]), num_folds=3)
    space = pretrained_space(store, [Neighbours], resolved)
    network = build_network(resolved.config.model, resolved.weights, num_classes=3)
    feed = Feed(resolved, store.workspace.cache("tiny"), silent)
    train, test = Images.to_train(store.competition), Images.to_test(store.competition)
    check(space, ALL_DRIVERS, feed, network, train)
    for fold in range(3):
        check(space, Subset(fold), feed, network, train.take(store.folds.valid(fold)))
        check(space, Subset(fold, test=True), feed, network, test)
    assert len(set(space.keys["neighbours"].values())) == 5  # one test set


def test_a_network_without_pretrained_weights_is_refused(store: Store) -> None:
    folder = str(store.competition.config.folder)
    resolved = resolve(load_config(model="resnet50", data=folder, overrides=TINY), num_folds=3)
    with pytest.raises(StoreError, match="SPACES: test_resnet has no pretrained weights here"):
        pretrained_space(store, [Neighbours], resolved)


class Fewer(Neighbours):
    """Neighbours by other settings."""

    key = "7"


def test_an_index_with_other_settings_has_files_of_its_own(store: Store) -> None:
    run = write_untrained(store)
    first, again = (own_space(store, [Neighbours], run, runtime=RUNTIME) for _ in range(2))
    changed = own_space(store, [Fewer], run, runtime=RUNTIME)
    assert first.keys == again.keys
    assert not set(first.keys["neighbours"].values()) & set(changed.keys["neighbours"].values())
