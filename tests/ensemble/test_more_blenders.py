"""Weights by class, greedy selection and stacking: known answers and limits."""

import numpy as np
import pytest
from scipy.special import log_softmax
from simulated_runs import simulate

from distracted.ensemble.blenders import ALL_BLENDERS, BLENDERS, Blender, find_blenders
from distracted.ensemble.pools import (
    fit_by_class,
    fit_greedy_selection,
    fit_linear_pool,
    fit_log_linear_pool,
    pool_arithmetic,
    pool_by_class,
)
from distracted.ensemble.stacking import fit_stacking, pool_stacked
from distracted.errors import ConfigError
from distracted.metrics import log_loss

NEW = ALL_BLENDERS[4:]


def specialists(num_images: int = 900) -> tuple[np.ndarray, np.ndarray]:
    """Three runs, each of which recognises one class and guesses between the other two."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, num_images)
    runs = []
    for own in range(3):
        known = np.where(labels == own, 0.94, 0.03)
        probs = np.repeat((1 - known)[:, None] / 2, 3, axis=1)
        probs[:, own] = known
        runs.append(np.log(probs))
    return np.stack(runs), labels


@pytest.mark.parametrize("blender", NEW, ids=lambda blender: blender.name)
def test_predictions_are_probabilities_even_for_overconfident_runs(blender: Blender) -> None:
    sim = simulate(4, num_images=120)
    for log_probs in (sim.log_probs, log_softmax(300 * sim.log_probs, axis=2), sim.log_probs[:1]):
        pooled = blender.pool(log_probs, blender.fit_weights(log_probs, sim.labels))
        assert np.isfinite(pooled).all()
        np.testing.assert_allclose(np.exp(pooled).sum(axis=1), 1, rtol=1e-9)


@pytest.mark.parametrize("blender", NEW, ids=lambda blender: blender.name)
def test_fits_are_deterministic(blender: Blender) -> None:
    sim = simulate(7, num_images=120)
    once, again = (blender.fit_weights(sim.log_probs, sim.labels) for _ in range(2))
    assert once.tobytes() == again.tobytes()


# Weights by class


def test_a_class_without_a_row_gets_the_linear_pools_weights() -> None:
    """Its rows may be trained on and never scored. Its own fit would take the run that never predicts it."""
    log_probs, labels = specialists()
    seen = labels < 2
    weights = fit_by_class(log_probs[:, seen], labels[seen])
    np.testing.assert_array_equal(weights[:, 2], fit_linear_pool(log_probs[:, seen], labels[seen]))
    assert weights[0, 0] > 0.95 and weights[1, 1] > 0.95


def test_weights_by_class_are_convex_and_prefer_the_run_that_knows_the_class() -> None:
    log_probs, labels = specialists()
    weights = fit_by_class(log_probs, labels)
    assert weights.shape == (3, 3) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-9)
    assert (np.diag(weights) > 0.95).all()
    pool = pool_arithmetic(log_probs, fit_linear_pool(log_probs, labels))
    assert log_loss(pool_by_class(log_probs, weights), labels) < 0.5 * log_loss(pool, labels)


def test_the_same_weights_for_every_class_are_the_linear_pool() -> None:
    sim = simulate(3, num_images=50)
    weights = np.array([0.5, 0.3, 0.2])
    by_class = pool_by_class(sim.log_probs, np.repeat(weights[:, None], sim.log_probs.shape[2], axis=1))
    np.testing.assert_allclose(by_class, pool_arithmetic(sim.log_probs, weights), atol=1e-12)


# Greedy selection


def test_greedy_weights_are_shares_and_come_near_the_optimum() -> None:
    sim = simulate(4, num_images=600, seed=3)
    weights = fit_greedy_selection(sim.log_probs, sim.labels)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    best = log_loss(pool_arithmetic(sim.log_probs, fit_linear_pool(sim.log_probs, sim.labels)), sim.labels)
    assert best <= log_loss(pool_arithmetic(sim.log_probs, weights), sim.labels) < best + 0.002


def test_greedy_selection_picks_a_run_that_is_better_everywhere_alone() -> None:
    labels = np.arange(30) % 3
    good, bad = (np.log(np.where(np.eye(3)[labels] > 0, p, (1 - p) / 2)) for p in (0.9, 0.4))
    np.testing.assert_array_equal(fit_greedy_selection(np.stack([bad, good]), labels), [0, 1])


def test_random_bags_spread_weight_over_identical_runs() -> None:
    sim = simulate(2, num_images=200)
    twins = np.concatenate([sim.log_probs[[0]]] * 10 + [sim.log_probs[[1]]] * 2)
    weights = fit_greedy_selection(twins, sim.labels)
    assert (weights[:10] > 0).sum() > 3  # one bag alone would always take the first of them


# Stacking


def test_stacking_corrects_a_run_that_swaps_two_classes() -> None:
    """A weight cannot do this: each class needs the probability of another."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 3000)
    swapped = np.array([1, 0, 2])[labels]
    run = log_softmax(3 * np.eye(3)[swapped] + rng.normal(size=(3000, 3)), axis=1)[None]
    stacked = pool_stacked(run, fit_stacking(run, labels))
    assert log_loss(stacked, labels) < 0.8 < log_loss(run[0], labels)


def test_stacking_stays_at_the_log_linear_pool_for_a_calibrated_run() -> None:
    """Labels are drawn from the run's own probabilities."""
    rng = np.random.default_rng(0)
    run = log_softmax(2 * rng.normal(size=(20_000, 3)), axis=1)
    labels = (np.exp(run).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    coefficients = fit_stacking(run[None], labels)
    np.testing.assert_allclose(coefficients, np.vstack([np.eye(3), np.zeros(3)]), atol=0.05)


# The table of blenders


def test_stacking_leaves_a_class_without_a_row_at_the_log_linear_pool() -> None:
    sim = simulate(2, num_images=300)
    num_classes = sim.log_probs.shape[2]
    seen = sim.labels < num_classes - 1
    log_probs, labels = sim.log_probs[:, seen], sim.labels[seen]
    away = fit_stacking(log_probs, labels)
    away[:-1] -= np.kron(fit_log_linear_pool(log_probs, labels)[:, None], np.eye(num_classes))
    assert not away[:, -1].any() and (away[:, :-1].any(axis=0)).all()


def test_flexible_blenders_carry_a_caution_and_are_no_default_candidates() -> None:
    assert [b.name for b in ALL_BLENDERS if b not in BLENDERS] == ["weights by class", "stacking"]
    assert all(blender.caution for blender in ALL_BLENDERS if blender not in BLENDERS)


def test_blenders_are_selected_by_key_and_ordered_from_the_simplest() -> None:
    blenders = find_blenders(["stacking", "linear_pool", "log_linear_pool"])
    assert [blender.name for blender in blenders] == ["linear pool", "log-linear pool", "stacking"]
    with pytest.raises(ConfigError, match=r"BLENDERS: unknown blender 'median'; there are: arithmetic_mean"):
        find_blenders(["linear_pool", "median"])


def test_every_blender_gives_a_weight_for_each_run() -> None:
    sim = simulate(3, num_images=100)
    for blender in ALL_BLENDERS:
        weights = blender.weights_by_run(blender.fit_weights(sim.log_probs, sim.labels), ["a", "b", "c"])
        assert list(weights) == ["a", "b", "c"] and all(weight >= 0 for weight in weights.values())
