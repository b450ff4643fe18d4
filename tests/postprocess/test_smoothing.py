"""Neighbours are exact, each smoothing method gives known answers, and the best setting is chosen."""

import json
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pytest
from scipy.special import log_softmax

from conftest import MemorySpace, RecordedProgress
from distracted.errors import ConfigError, StoreError
from distracted.metrics import log_loss, log_losses
from distracted.postprocess.candidates import find_methods, parse_candidate
from distracted.postprocess.clusters import ClusterMatch, Clusters, cluster_bias, find_clusters
from distracted.postprocess.diffusion import Diffusion
from distracted.postprocess.method import Method
from distracted.postprocess.neighbour_mean import NeighbourMean, neighbour_means
from distracted.postprocess.neighbours import Neighbours, nearest_neighbours
from distracted.postprocess.smooth import METHODS, Smooth, from_json, to_json
from distracted.postprocess.step import Examples, Subset

Floats = np.ndarray
ENGINES = ["faiss", "sklearn"] if find_spec("faiss") else ["sklearn"]
PRIOR = np.full(3, 1 / 3)
MANY = {"k": 50, "size": 100}


def features_of(num_images: int = 60, *, num_features: int = 8, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(num_images, num_features)).astype(np.float32)


def log_probs_of(num_images: int = 60, *, seed: int = 1) -> Floats:
    return log_softmax(2 * np.random.default_rng(seed).normal(size=(num_images, 3)), axis=1)


# Neighbours


@pytest.mark.parametrize("engine", ENGINES)
def test_neighbours_are_the_nearest_directions_from_the_mean(engine: str) -> None:
    features = features_of()
    neighbours = nearest_neighbours(features, 5, engine=engine)
    directions = features - features.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distances = np.linalg.norm(directions[:, None] - directions[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(neighbours.indices, np.argsort(distances, axis=1)[:, :5])
    np.testing.assert_allclose(neighbours.distances, np.sort(distances, axis=1)[:, :5], atol=2e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_image_is_its_own_neighbour_even_where_many_are_alike(engine: str) -> None:
    features = np.repeat(features_of(6), 5, axis=0)
    neighbours = nearest_neighbours(features, 7, engine=engine)
    assert (neighbours.indices != np.arange(30)[:, None]).all()
    assert all(len(set(row)) == 7 for row in neighbours.indices.tolist())
    np.testing.assert_allclose(neighbours.distances[:, :4], 0, atol=2e-3)  # its four twins first
    assert (neighbours.distances[:, 4:] > 0.1).all()


def test_more_neighbours_than_other_images_are_refused() -> None:
    assert nearest_neighbours(features_of(6), 5).k == 5
    assert nearest_neighbours(features_of(1), 0).k == 0
    with pytest.raises(StoreError, match="6 neighbours asked for among 6 images; expected fewer"):
        nearest_neighbours(features_of(6), 6)


def test_the_search_reports_its_progress() -> None:
    progress = RecordedProgress()
    nearest_neighbours(features_of(2500), 3, progress=progress)
    assert progress.tasks == [(2500, 2500)]


def clips(num_images: int, *, length: int = 20, num_features: int = 32) -> Floats:
    """Frames that lie near the others of their clip."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(num_images // length, num_features)).repeat(length, axis=0)
    return (middles + 0.3 * rng.normal(size=middles.shape)).astype(np.float32)


@pytest.mark.skipif("faiss" not in ENGINES, reason="faiss is not installed")
def test_neighbours_of_many_images_are_nearly_all_exact_and_the_same_on_any_number_of_threads() -> None:
    import faiss

    features, threads, found = clips(4000), faiss.omp_get_max_threads(), []
    try:
        for number in (1, 2):
            faiss.omp_set_num_threads(number)
            found.append(nearest_neighbours(features, 10, many=4000))
    finally:
        faiss.omp_set_num_threads(threads)
    exact = nearest_neighbours(features, 10)
    assert not exact.search and "recall at 10" in found[0].search
    assert (found[0].distances <= exact.distances[:, -1:] + 1e-3).mean() >= 0.999
    assert found[0].indices.tobytes() == found[1].indices.tobytes()
    assert found[0].distances.tobytes() == found[1].distances.tobytes()
    kept = Neighbours.from_arrays(found[0].arrays())
    assert kept.search == found[0].search and (kept.indices == found[0].indices).all()


def test_an_index_that_would_have_to_look_everywhere_is_not_used() -> None:
    features = features_of(3000, num_features=64)
    found, exact = nearest_neighbours(features, 50, many=3000), nearest_neighbours(features, 50)
    assert not found.search
    np.testing.assert_array_equal(found.indices, exact.indices)


def test_thinned_neighbours_keep_their_order() -> None:
    neighbours = nearest_neighbours(features_of(), 20)
    thin = neighbours.thinned(0.5, np.random.default_rng(0))
    left = np.isfinite(thin.distances)
    assert 0.4 < left.mean() < 0.6
    kept = set(thin.indices[left].tolist())
    for row in range(60):
        expected = [image for image in neighbours.indices[row].tolist() if image in kept]
        assert thin.indices[row][left[row]].tolist() == expected


# The mean over neighbours


def line(distance: float = 0.5) -> Neighbours:
    """Four images: 0 and 1 are near each other, as are 2 and 3; the second neighbours are far."""
    return Neighbours(
        np.array([[1, 2], [0, 2], [3, 1], [2, 1]], dtype=np.int32),
        np.array([[distance, 1.4]] * 4, dtype=np.float32),
    )


def test_the_mean_is_weighted_by_distance_and_the_image_itself_has_weight_one() -> None:
    log_probs = log_probs_of(4)
    probs, weight = np.exp(log_probs), np.exp(-((0.5 / 0.4) ** 2) / 2)
    (arithmetic,) = neighbour_means(log_probs, line(), "arithmetic", 0.4, [1])
    np.testing.assert_allclose(
        np.exp(arithmetic[0]), (probs[0] + weight * probs[1]) / (1 + weight), rtol=1e-6
    )
    (geometric,) = neighbour_means(log_probs, line(), "geometric", 0.4, [1])
    expected = log_softmax((log_probs[0] + weight * log_probs[1]) / (1 + weight))
    np.testing.assert_allclose(geometric[0], expected, rtol=1e-6)


def test_without_a_bandwidth_all_neighbours_have_equal_weight() -> None:
    log_probs = log_probs_of(4)
    means = neighbour_means(log_probs, line(), "arithmetic", None, [1, 2])
    np.testing.assert_allclose(np.exp(means[1][0]), np.exp(log_probs[[0, 1, 2]]).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.exp(means[0][3]), np.exp(log_probs[[3, 2]]).mean(axis=0), rtol=1e-12)


def test_several_counts_in_blocks_give_the_same_as_each_count_alone() -> None:
    log_probs, neighbours = log_probs_of(9000), nearest_neighbours(features_of(9000, num_features=4), 6)
    together = neighbour_means(log_probs, neighbours, "arithmetic", 0.3, [1, 3, 6])
    for count, smoothed in zip([1, 3, 6], together, strict=True):
        (alone,) = neighbour_means(log_probs, neighbours, "arithmetic", 0.3, [count])
        np.testing.assert_allclose(smoothed, alone, rtol=1e-12)


def test_certain_rows_stay_finite() -> None:
    certain = np.array([[0.0, -800.0, -800.0]] * 4)
    for mean in ("arithmetic", "geometric"):
        (smoothed,) = neighbour_means(certain, line(), mean, None, [2])
        assert np.isfinite(smoothed).all()


# Diffusion


def test_diffusion_solves_its_equation_over_mutual_neighbours() -> None:
    log_probs, neighbours = log_probs_of(), nearest_neighbours(features_of(), 5)
    how = Diffusion("own", 5, None, 0.5)
    among = np.zeros((60, 60))
    np.put_along_axis(among, neighbours.indices.astype(np.int64), 1.0, axis=1)
    mutual = np.minimum(among, among.T)
    sums = mutual.sum(axis=1, keepdims=True)
    share = np.where(sums > 0, 0.5, 0.0)
    exact = np.linalg.solve(
        np.eye(60) - share * mutual / np.maximum(sums, 1), (1 - share) * np.exp(log_probs)
    )
    np.testing.assert_allclose(np.exp(how.smooth(log_probs, neighbours, PRIOR)), exact, atol=1e-6)


def test_an_image_without_mutual_neighbours_keeps_its_prediction() -> None:
    neighbours = Neighbours(np.array([[1], [0], [0]], dtype=np.int32), np.full((3, 1), 0.2, np.float32))
    log_probs = log_probs_of(3)
    smoothed = Diffusion("own", 1, 0.3, 0.9).smooth(log_probs, neighbours, PRIOR)
    np.testing.assert_allclose(smoothed[2], log_probs[2], atol=1e-12)
    assert np.abs(smoothed[:2] - log_probs[:2]).max() > 0.1


# Clusters


def test_the_mean_of_a_large_cluster_meets_the_prior() -> None:
    log_probs, prior = log_probs_of(4000), np.array([0.5, 0.3, 0.2])
    clusters = np.repeat([0, 1], [1000, 3000]).astype(np.int32)
    log_probs[clusters == 1, 0] += 2
    log_probs = log_softmax(log_probs, axis=1)
    moved = np.exp(log_softmax(log_probs + cluster_bias(log_probs, clusters, prior), axis=1))
    for cluster in (0, 1):
        np.testing.assert_allclose(moved[clusters == cluster].mean(axis=0), prior, atol=0.003)


def test_a_class_of_unknown_share_keeps_its_mean_in_each_cluster() -> None:
    log_probs = log_softmax(np.random.default_rng(0).normal((0, 0, 1), size=(4000, 3)), axis=1)
    clusters = np.repeat(np.arange(2, dtype=np.int32), 2000)
    moved = np.exp(
        log_softmax(log_probs + cluster_bias(log_probs, clusters, np.array([0.6, 0.2, 0])), axis=1)
    )
    for cluster in (0, 1):
        before, after = (probs[clusters == cluster].mean(axis=0) for probs in (np.exp(log_probs), moved))
        assert after[2] == pytest.approx(before[2], rel=0.01)
        assert after[0] / after[1] == pytest.approx(3, rel=0.01)


def test_a_cluster_of_one_is_hardly_moved() -> None:
    """It can only show one class, so it says nothing about class shares."""
    log_probs = np.log([[0.9, 0.05, 0.05]])
    bias = cluster_bias(log_probs, np.zeros(1, dtype=np.int32), np.full(3, 1 / 3))
    assert np.exp(log_softmax(log_probs + bias, axis=1))[0, 0] > 0.7


def test_well_separated_groups_become_clusters() -> None:
    centres = 20 * np.eye(8, dtype=np.float32)[:4]
    groups = np.repeat(np.arange(4), 25)
    clusters = find_clusters(centres[groups] + features_of(100), [25, 50])
    assert len(set(clusters[50].tolist())) == 2
    pairs = {(cluster, group) for cluster, group in zip(clusters[25].tolist(), groups.tolist(), strict=True)}
    assert len(pairs) == 4


# The choice


def problem(
    *, alike: bool, num_folds: int = 5, num_each: int = 60
) -> tuple[Examples, dict[Subset, Neighbours]]:
    """Images in groups of three that are each other's neighbours; with `alike`, a group has one label."""
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


def smoothing(
    neighbours: dict[Subset, Neighbours], candidates: Sequence[Method], *, fixed: bool = False
) -> Smooth:
    return Smooth({"own": MemorySpace(lambda index, subset: neighbours[subset])}, candidates, fixed)


def test_the_setting_with_the_lowest_loss_is_chosen() -> None:
    examples, neighbours = problem(alike=True)
    candidates = NeighbourMean.candidates(["own"], {"k": 2})
    fitted = smoothing(neighbours, candidates).fit(examples)
    losses = {}
    for candidate in candidates:
        step = smoothing(neighbours, [candidate])
        fit = step.fit(examples)
        subsets = [step.predict(fit, rows) for _, rows in examples.by_fold()]
        losses[candidate] = log_loss(np.concatenate(subsets), examples.labels)
    assert losses[fitted.how] == min(losses.values()) < log_loss(examples.log_probs[0], examples.labels) - 0.1


def test_a_fixed_setting_does_not_depend_on_labels() -> None:
    examples, neighbours = problem(alike=False)
    candidates = NeighbourMean.candidates(["own"], {"k": 2})
    step = smoothing(neighbours, candidates[::-1], fixed=True)
    assert step.fit(examples).how == candidates[-1]
    assert not step.reads_labels and smoothing(neighbours, candidates).reads_labels


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_smooth_all_gives_the_same_as_smooth(method: type[Method]) -> None:
    index = method.index.build(features_of(200), RecordedProgress())
    candidates = method.candidates(["own"], MANY)
    log_probs = log_probs_of(200)
    together = dict(method.smooth_all(candidates, log_probs, index, PRIOR))
    assert set(together) == set(candidates) and len(candidates) >= 4
    for candidate in candidates[::5]:
        alone = candidate.smooth(log_probs, index, PRIOR)
        np.testing.assert_allclose(together[candidate], alone, rtol=1e-12)
        np.testing.assert_allclose(np.exp(alone).sum(axis=1), 1, rtol=1e-9)


@pytest.mark.parametrize("index", [Neighbours, Clusters])
def test_an_index_survives_its_file(index: type[Neighbours | Clusters]) -> None:
    arrays = index.build(features_of(200), RecordedProgress()).arrays()
    again = index.from_arrays(arrays).arrays()
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_only_clusters_read_the_prior() -> None:
    assert ClusterMatch.uses_prior and not (NeighbourMean.uses_prior or Diffusion.uses_prior)


# Settings as text


def test_a_setting_is_read_from_text() -> None:
    setting = parse_candidate(NeighbourMean, "k=10 bandwidth=0.3 mean=geometric", "own", MANY)
    assert setting == NeighbourMean("own", "geometric", 0.3, 10)
    setting = parse_candidate(Diffusion, "share=0.5 bandwidth=none k=5", "own", MANY)
    assert setting == Diffusion("own", 5, None, 0.5)
    setting = parse_candidate(ClusterMatch, "size=100 strength=0.5", "own", MANY)
    assert setting == ClusterMatch("own", 100, 0.5)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_the_example_of_a_method_is_a_setting_of_it(method: type[Method]) -> None:
    assert isinstance(parse_candidate(method, method.example, "own", MANY), method)


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("neighbours", "k=10", "neighbours takes mean, bandwidth, k; expected e.g. HOW='mean=arithmetic"),
        (
            "neighbours",
            "k=60 bandwidth=0.3 mean=arithmetic",
            "expected k at most 39 here: the smallest fold or test set",
        ),
        ("neighbours", "k=ten bandwidth=0.3 mean=arithmetic", "k='ten' is not a number"),
        ("neighbours", "k=5 bandwidth=-1 mean=arithmetic", "bandwidth has to be above 0"),
        (
            "neighbours",
            "k=5 bandwidth=0.3 mean=median",
            "expected mean=arithmetic or mean=geometric",
        ),
        ("diffusion", "k=5 bandwidth=0.3 share=1.5", "share has to be above 0 and at most 1"),
        ("clusters", "size=15 strength=0.5", "expected size one of 25, 50"),
        ("clusters", "size=25 strength=0.5", "expected size at most 20 here: at most half of the smallest"),
    ],
)
def test_an_invalid_setting_is_refused(method: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_candidate(METHODS[method], text, "own", {"k": 39, "size": 20})


def test_an_unknown_method_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match="METHODS: there is no 'median'; expected some of neighbours, diff"):
        find_methods(["diffusion", "median"])
    with pytest.raises(ConfigError, match="none is named"):
        find_methods([])


# Several methods at once


def test_with_several_methods_the_best_setting_of_all_is_chosen() -> None:
    examples, _ = problem(alike=True)
    indices = {index: index.build(features_of(60), RecordedProgress()) for index in (Neighbours, Clusters)}
    spaces = {"own": MemorySpace(lambda index, subset: indices[index])}
    candidates = [method.candidates(["own"], {"k": 5, "size": 25}) for method in METHODS.values()]
    together = Smooth(spaces, [candidate for some in candidates for candidate in some])
    assert together.reads_labels and together.num_candidates == 1 + sum(map(len, candidates))

    def loss(step: Smooth) -> float:
        fitted = step.fit(examples)
        losses = [
            log_losses(step.predict(fitted, rows), examples.labels[positions])
            for positions, rows in examples.by_fold()
        ]
        return float(np.concatenate(losses).mean())

    alone = [loss(Smooth(spaces, some)) for some in candidates]
    assert loss(together) == pytest.approx(min(alone)) and len(set(alone)) == len(METHODS)


def test_settings_survive_json() -> None:
    for method in METHODS.values():
        for candidate in method.candidates(["own"], MANY):
            assert from_json(json.loads(json.dumps(to_json(candidate)))) == candidate
