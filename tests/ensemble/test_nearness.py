"""Distances to neighbours, and the score with fewer or more of them."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from distracted.ensemble.nearness import neighbour_distances, sensitivity
from distracted.metrics import log_loss
from distracted.postprocess.neighbour_mean import NeighbourMean, neighbour_means
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.smooth import Smoothing
from distracted.postprocess.spaces import ALL_DRIVERS, Space, make_space
from distracted.postprocess.step import Subset
from distracted.predictions.store import Store

WriteRun = Callable[..., None]


def space_of(store: Store, *, shared: bool) -> Space:
    """Random features, `shared` by all folds or different for each."""
    rng = np.random.default_rng(0)
    train = rng.normal(size=(len(store.folds.scored), 5)).astype(np.float32)

    def features() -> Iterator[tuple[Subset, np.ndarray]]:
        test = rng.normal(size=(len(store.competition.test), 5)).astype(np.float32)
        if shared:
            yield ALL_DRIVERS, train
        for fold in range(3):
            yield Subset(fold), train[store.folds.valid(fold)]
            yield Subset(fold, test=True), test

    return make_space(store, [Neighbours], features(), description="made up")


def near(space: Space, subset: Subset) -> Neighbours:
    return space.get(Neighbours, subset)


def test_distances_are_medians_in_folds_and_test_set(store: Store) -> None:
    space = space_of(store, shared=True)
    distances = neighbour_distances(store, {"x": space})
    assert [distance.k for distance in distances] == [1, 5]  # the test set has seven images
    expected = np.mean([np.median(near(space, Subset(fold)).distances[:, 4]) for fold in range(3)])
    assert distances[1].folds == pytest.approx(expected)
    assert distances[1].test == pytest.approx(
        float(np.median(near(space, Subset(0, test=True)).distances[:, 4]))
    )
    assert (
        distances[1].drivers is not None and distances[1].drivers < distances[1].folds
    )  # more to choose from
    alone = neighbour_distances(store, {"x": space_of(store, shared=False)})
    assert alone[0].drivers is None


def test_sensitivity_is_the_score_with_other_neighbours(store: Store, write_run: WriteRun) -> None:
    write_run("a", skill=1.5)
    run, space = store.read_run("a"), space_of(store, shared=True)
    how = Smoothing(NeighbourMean("x", "arithmetic", None, 3), (1 / 3,) * 3)
    losses = sensitivity(store, "a", [how, None, how], {"x": space})
    assert list(losses) == [
        "none",
        "as fitted",
        "a random 50% of the frames",  # a quarter would leave too few of the 17
        "drivers of all folds at once",
    ]
    smoothed, at_once = run.oof.copy(), run.oof.copy()
    (everything,) = neighbour_means(run.oof, near(space, ALL_DRIVERS), "arithmetic", None, [3])
    for fold in (0, 2):
        rows = store.folds.valid(fold)
        (smoothed[rows],) = neighbour_means(run.oof[rows], near(space, Subset(fold)), "arithmetic", None, [3])
        at_once[rows] = everything[rows]
    assert losses["none"] == pytest.approx(log_loss(run.oof, store.folds.labels))
    assert losses["as fitted"] == pytest.approx(log_loss(smoothed, store.folds.labels))
    assert losses["drivers of all folds at once"] == pytest.approx(log_loss(at_once, store.folds.labels))


def test_without_smoothing_there_is_no_sensitivity(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    assert sensitivity(store, "a", [None] * 3, {"x": space_of(store, shared=False)}) == {}
