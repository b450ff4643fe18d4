"""Neighbours are exact, each way to smooth gives known answers, and the best setting is chosen."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from conftest import RecordedProgress
from distracted.errors import ConfigError, StoreError
from distracted.metrics import log_loss
from distracted.postprocess.clusters import ClusterMatch, Matching, cluster_bias, find_clusters
from distracted.postprocess.diffusion import Diffusion, Spreading, spread
from distracted.postprocess.methods import (
    WAYS,
    Extent,
    all_settings,
    any_of,
    as_json,
    find_ways,
    from_json,
    parse_setting,
)
from distracted.postprocess.neighbour_mean import Averaging, NeighbourMean, averagings, neighbour_means
from distracted.postprocess.neighbours import Neighbours, nearest_neighbours
from distracted.postprocess.smooth import Method, Smooth
from distracted.postprocess.step import Examples, Subset

Floats = np.ndarray


def features_of(num_images: int = 60, *, num_features: int = 8, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(num_images, num_features)).astype(np.float32)


def log_probs_of(num_images: int = 60, *, seed: int = 1) -> Floats:
    return log_softmax(2 * np.random.default_rng(seed).normal(size=(num_images, 3)), axis=1)


# Neighbours


@pytest.mark.parametrize("exact", ["faiss", "sklearn"])
def test_neighbours_are_the_nearest_directions_seen_from_the_mean(exact: str) -> None:
    features = features_of()
    found = nearest_neighbours(features, 5, exact=exact)
    directions = features - features.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distances = np.linalg.norm(directions[:, None] - directions[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, axis=1)[:, :5])
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :5], atol=2e-3)


@pytest.mark.parametrize("exact", ["faiss", "sklearn"])
def test_no_image_is_its_own_neighbour_even_where_many_are_alike(exact: str) -> None:
    features = np.repeat(features_of(6), 5, axis=0)
    found = nearest_neighbours(features, 7, exact=exact)
    assert (found.indices != np.arange(30)[:, None]).all()
    assert all(len(set(row)) == 7 for row in found.indices.tolist())
    np.testing.assert_allclose(found.distances[:, :4], 0, atol=2e-3)  # its four twins first
    assert (found.distances[:, 4:] > 0.1).all()


def test_more_neighbours_than_other_images_are_refused() -> None:
    assert nearest_neighbours(features_of(6), 5).k == 5
    with pytest.raises(StoreError, match="6 neighbours asked for among 6 images; expected fewer"):
        nearest_neighbours(features_of(6), 6)


def test_the_search_tells_how_far_it_is() -> None:
    progress = RecordedProgress()
    nearest_neighbours(features_of(2500), 3, progress=progress)
    assert progress.tasks == [(2500, 2500)]


def test_thinned_neighbours_are_those_that_are_left_in_their_order() -> None:
    found = nearest_neighbours(features_of(), 20)
    thin = found.thinned(0.5, np.random.default_rng(0))
    left = np.isfinite(thin.distances)
    assert 0.4 < left.mean() < 0.6
    kept = set(thin.indices[left].tolist())
    for row in range(60):
        expected = [image for image in found.indices[row].tolist() if image in kept]
        assert thin.indices[row][left[row]].tolist() == expected


# The mean over neighbours


def line(distance: float = 0.5) -> Neighbours:
    """Four images: 0 and 1 are near each other, as are 2 and 3; the second neighbours are far."""
    return Neighbours(
        np.array([[1, 2], [0, 2], [3, 1], [2, 1]], dtype=np.int32),
        np.array([[distance, 1.4]] * 4, dtype=np.float32),
    )


def test_the_mean_is_weighted_by_distance_and_the_image_itself_counts_one() -> None:
    log_probs = log_probs_of(4)
    probs, weight = np.exp(log_probs), np.exp(-((0.5 / 0.4) ** 2) / 2)
    (arithmetic,) = neighbour_means(log_probs, line(), "arithmetic", 0.4, [1])
    np.testing.assert_allclose(
        np.exp(arithmetic[0]), (probs[0] + weight * probs[1]) / (1 + weight), rtol=1e-6
    )
    (geometric,) = neighbour_means(log_probs, line(), "geometric", 0.4, [1])
    expected = log_softmax((log_probs[0] + weight * log_probs[1]) / (1 + weight))
    np.testing.assert_allclose(geometric[0], expected, rtol=1e-6)


def test_without_a_bandwidth_all_neighbours_count_as_much() -> None:
    log_probs = log_probs_of(4)
    found = neighbour_means(log_probs, line(), "arithmetic", None, [1, 2])
    np.testing.assert_allclose(np.exp(found[1][0]), np.exp(log_probs[[0, 1, 2]]).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.exp(found[0][3]), np.exp(log_probs[[3, 2]]).mean(axis=0), rtol=1e-12)


def test_several_counts_at_once_are_each_alone_and_blocks_make_no_difference() -> None:
    log_probs, neighbours = log_probs_of(9000), nearest_neighbours(features_of(9000, num_features=4), 6)
    together = neighbour_means(log_probs, neighbours, "arithmetic", 0.3, [1, 3, 6])
    for count, found in zip([1, 3, 6], together, strict=True):
        (alone,) = neighbour_means(log_probs, neighbours, "arithmetic", 0.3, [count])
        np.testing.assert_allclose(found, alone, rtol=1e-12)


def test_certain_rows_stay_finite() -> None:
    certain = np.array([[0.0, -800.0, -800.0]] * 4)
    for mean in ("arithmetic", "geometric"):
        (found,) = neighbour_means(certain, line(), mean, None, [2])
        assert np.isfinite(found).all()


# Diffusion


def test_diffusion_solves_its_equation_over_mutual_neighbours() -> None:
    log_probs, neighbours = log_probs_of(), nearest_neighbours(features_of(), 5)
    how = Spreading("own", 5, None, 0.5)
    among = np.zeros((60, 60))
    np.put_along_axis(among, neighbours.indices.astype(np.int64), 1.0, axis=1)
    mutual = np.minimum(among, among.T)
    sums = mutual.sum(axis=1, keepdims=True)
    share = np.where(sums > 0, 0.5, 0.0)
    exact = np.linalg.solve(
        np.eye(60) - share * mutual / np.maximum(sums, 1), (1 - share) * np.exp(log_probs)
    )
    np.testing.assert_allclose(np.exp(spread(log_probs, neighbours, how)), exact, atol=1e-6)


def test_an_image_that_is_nobodys_neighbour_keeps_its_prediction() -> None:
    neighbours = Neighbours(np.array([[1], [0], [0]], dtype=np.int32), np.full((3, 1), 0.2, np.float32))
    log_probs = log_probs_of(3)
    found = spread(log_probs, neighbours, Spreading("own", 1, 0.3, 0.9))
    np.testing.assert_allclose(found[2], log_probs[2], atol=1e-12)
    assert np.abs(found[:2] - log_probs[:2]).max() > 0.1


# Clusters


def test_each_clusters_mean_meets_the_prior_as_far_as_its_size_allows() -> None:
    log_probs, prior = log_probs_of(4000), np.array([0.5, 0.3, 0.2])
    clusters = np.repeat([0, 1], [1000, 3000]).astype(np.int32)
    log_probs[clusters == 1, 0] += 2
    log_probs = log_softmax(log_probs, axis=1)
    moved = np.exp(log_softmax(log_probs + cluster_bias(log_probs, clusters, prior), axis=1))
    for cluster in (0, 1):
        np.testing.assert_allclose(moved[clusters == cluster].mean(axis=0), prior, atol=0.003)


def test_a_cluster_of_one_is_hardly_moved() -> None:
    """It shows one class; a cluster of one image says nothing about shares."""
    log_probs = np.log([[0.9, 0.05, 0.05]])
    bias = cluster_bias(log_probs, np.zeros(1, dtype=np.int32), np.full(3, 1 / 3))
    assert np.exp(log_softmax(log_probs + bias, axis=1))[0, 0] > 0.7


def test_groups_that_lie_apart_are_found_as_clusters() -> None:
    centres = 20 * np.eye(8, dtype=np.float32)[:4]
    groups = np.repeat(np.arange(4), 25)
    found = find_clusters(centres[groups] + features_of(100), [25, 50])
    assert len(set(found[50].tolist())) == 2
    pairs = {(cluster, group) for cluster, group in zip(found[25].tolist(), groups.tolist(), strict=True)}
    assert len(pairs) == 4


# The choice


def problem(
    *, alike: bool, num_folds: int = 5, num_each: int = 60
) -> tuple[Examples, dict[Subset, Neighbours]]:
    """Predictions of images in threes, each other's neighbours, which show the same thing if alike."""
    rng = np.random.default_rng(0)
    num = num_folds * num_each
    labels = np.repeat(rng.integers(0, 3, num // 3), 3) if alike else rng.integers(0, 3, num)
    scores = 2 * (1.5 * np.eye(3)[labels] + rng.normal(size=(num, 3))) * 0.75
    folds = np.arange(num) // num_each
    within = np.arange(num_each)
    others = np.stack([within // 3 * 3 + (within + step) % 3 for step in (1, 2)], axis=1).astype(np.int32)
    neighbours = Neighbours(others, np.full(others.shape, 0.2, np.float32))
    examples = Examples(log_softmax(scores, axis=1)[None], labels, folds, np.arange(num) // 12)
    return examples, {Subset(fold): neighbours for fold in range(num_folds)}


def method(spaces: dict[Subset, Neighbours], candidates: Sequence[Averaging]) -> Method:
    return NeighbourMean({"own": spaces.__getitem__}, candidates)


def test_the_best_setting_on_the_rows_is_taken() -> None:
    examples, spaces = problem(alike=True)
    candidates = averagings(["own"], most=2)
    fitted = Smooth(method(spaces, candidates)).learn(examples)
    losses = {}
    for candidate in candidates:
        step = Smooth(method(spaces, [candidate]))
        fit = step.learn(examples)
        parts = [step.apply(fit, examples.log_probs[:, rows], part) for part, rows in examples.parts()]
        losses[candidate] = log_loss(np.concatenate(parts), examples.labels)
    assert losses[fitted.how] == min(losses.values()) < log_loss(examples.log_probs[0], examples.labels) - 0.1


def test_a_fixed_setting_is_taken_whatever_the_labels_say() -> None:
    examples, spaces = problem(alike=False)
    candidates = averagings(["own"], most=2)
    step = Smooth(method(spaces, candidates[::-1]), fixed=True)
    assert step.learn(examples).how == candidates[-1]
    assert not step.reads_labels and Smooth(method(spaces, candidates)).reads_labels


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_a_setting_smooths_alone_as_it_does_among_all(way: Any) -> None:
    features = features_of(200)
    arrays = way.layout.find(features, RecordedProgress())
    kept = way.layout.read(arrays)
    candidates = way.candidates(["own"], most=way.most(Extent(200, 100)))
    made = way.method({"own": lambda part: kept}, candidates)
    log_probs, prior = log_probs_of(200), np.full(3, 1 / 3)
    together = dict(made.smoothed(log_probs, Subset(0), prior, candidates))
    assert set(together) == set(candidates) and len(candidates) >= 4
    for candidate in candidates[::5]:
        ((_, alone),) = made.smoothed(log_probs, Subset(0), prior, [candidate])
        np.testing.assert_allclose(together[candidate], alone, rtol=1e-12)
        np.testing.assert_allclose(np.exp(alone).sum(axis=1), 1, rtol=1e-9)


def test_only_clusters_read_the_prior() -> None:
    assert ClusterMatch.uses_prior and not (NeighbourMean.uses_prior or Diffusion.uses_prior)


# Settings as text


def test_a_setting_is_read_from_text() -> None:
    setting = parse_setting(WAYS["neighbours"], "k=10 bandwidth=0.3 mean=geometric", "own", Extent(60, 60))
    assert setting == Averaging("own", "geometric", 0.3, 10)
    setting = parse_setting(WAYS["diffusion"], "share=0.5 bandwidth=none k=5", "own", Extent(60, 60))
    assert setting == Spreading("own", 5, None, 0.5)
    setting = parse_setting(WAYS["clusters"], "size=100 strength=0.5", "own", Extent(400, 200))
    assert setting == Matching("own", 100, 0.5)


@pytest.mark.parametrize(
    ("way", "text", "message"),
    [
        ("neighbours", "k=10", "neighbours takes mean, bandwidth, k; expected e.g. HOW='mean=arithmetic"),
        (
            "neighbours",
            "k=60 bandwidth=0.3 mean=arithmetic",
            "40 images, which allow at most k=39",
        ),
        ("neighbours", "k=ten bandwidth=0.3 mean=arithmetic", "k='ten' is no number"),
        ("neighbours", "k=5 bandwidth=-1 mean=arithmetic", "bandwidth has to be above 0"),
        (
            "neighbours",
            "k=5 bandwidth=0.3 mean=median",
            "expected mean=arithmetic or mean=geometric",
        ),
        ("diffusion", "k=5 bandwidth=0.3 share=1.5", "share has to be above 0 and at most 1"),
        ("clusters", "size=15 strength=0.5", "expected size one of 25, 50"),
        ("clusters", "size=25 strength=0.5", "allow at most size=20"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(way: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_setting(WAYS[way], text, "own", Extent(40, 40))


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="METHODS: there is no 'median'; expected some of neighbours, diff"):
        find_ways(["diffusion", "median"])
    with pytest.raises(ConfigError, match="none is named"):
        find_ways([])


# Several ways at once


def test_several_ways_side_by_side_smooth_as_each_alone() -> None:
    features, log_probs, prior = features_of(200), log_probs_of(200), np.full(3, 1 / 3)
    spaces = {}
    for way in WAYS.values():
        kept = way.layout.read(way.layout.find(features, RecordedProgress()))
        spaces[way.layout.name] = {"own": lambda part, kept=kept: kept}
    candidates = all_settings(list(WAYS.values()), ["own"], Extent(200, 100))
    method = any_of(spaces, candidates)
    assert list(method.candidates) == candidates and method.uses_prior
    found = dict(method.smoothed(log_probs, Subset(0), prior, candidates))
    assert set(found) == set(candidates)
    for way in WAYS.values():
        mine = [candidate for candidate in candidates if isinstance(candidate, way.setting)]
        alone = way.method(spaces[way.layout.name], mine)
        for candidate, smoothed in alone.smoothed(log_probs, Subset(0), prior, mine):
            np.testing.assert_array_equal(smoothed, found[candidate])


def test_settings_survive_json() -> None:
    for candidate in all_settings(list(WAYS.values()), ["own"], Extent(200, 100)):
        assert from_json(json.loads(json.dumps(as_json(candidate)))) == candidate
