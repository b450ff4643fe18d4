"""Both fitted pools stand at their optimum, whatever the runs are like, and pools give probabilities."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax
from simulated_runs import simulate

from distracted.ensemble.blenders import BLENDERS, Blender
from distracted.ensemble.pools import (
    RIDGE,
    equal_weights,
    fit_linear_pool,
    fit_log_linear_pool,
    pool_arithmetic,
    pool_geometric,
)
from distracted.metrics import log_loss

Problem = tuple[np.ndarray, np.ndarray]  # log_probs (num_runs, num_images, num_classes), labels (num_images,)
LINEAR, LOG_LINEAR = BLENDERS[2:4]


def true_log_probs(problem: Problem) -> np.ndarray:
    """Log-probabilities of the true classes, shape (num_runs, num_images)."""
    log_probs, labels = problem
    return log_probs[:, np.arange(len(labels)), labels]


def linear_loss(problem: Problem, weights: np.ndarray) -> float:
    return -float(logsumexp(true_log_probs(problem), axis=0, b=weights[:, None]).mean())


def linear_gradient(problem: Problem, weights: np.ndarray) -> np.ndarray:
    true = true_log_probs(problem)
    mixture = logsumexp(true, axis=0, b=weights[:, None])
    return -np.exp(true - mixture).mean(axis=1)


def log_linear_loss(problem: Problem, weights: np.ndarray) -> float:
    scores = np.einsum("r,rnc->nc", weights, problem[0])
    losses = logsumexp(scores, axis=1) - weights @ true_log_probs(problem)
    return float(losses.mean() + RIDGE / 2 * (weights**2).sum())


def log_linear_gradient(problem: Problem, weights: np.ndarray) -> np.ndarray:
    blended = softmax(np.einsum("r,rnc->nc", weights, problem[0]), axis=1)
    expected = np.einsum("nc,rnc->rn", blended, problem[0])
    return (expected - true_log_probs(problem)).mean(axis=1) + RIDGE * weights


def linear_residual(problem: Problem, weights: np.ndarray) -> float:
    """How far from optimal on the simplex: there the gradient is -1 where a weight is positive, no less
    elsewhere, since sum_r w_r g_r = -1 whatever the weights."""
    assert weights.sum() == pytest.approx(1, abs=1e-12) and (weights >= 0).all()
    above = linear_gradient(problem, weights) + 1
    return float(np.abs(weights - np.maximum(weights - above, 0)).max())


def log_linear_residual(problem: Problem, weights: np.ndarray) -> float:
    assert (weights >= 0).all()
    gradient = log_linear_gradient(problem, weights)
    return float(np.abs(weights - np.maximum(weights - gradient, 0)).max())


def problem_of(
    num_runs: int, num_images: int, *, num_classes: int = 3, scale: float = 1.0, seed: int = 0
) -> Problem:
    simulated = simulate(
        num_runs, num_images=num_images, num_classes=num_classes, num_subjects=num_images, seed=seed
    )
    return log_softmax(scale * simulated.log_probs, axis=2), simulated.labels


def certain(labels: np.ndarray, num_classes: int = 3) -> np.ndarray:
    """A run that gives these labels probability 1."""
    return np.where(np.eye(num_classes)[labels] > 0, 0.0, -700.0)


def odd_problems() -> dict[str, Problem]:
    log_probs, labels = problem_of(4, 200)
    good, wrong = log_probs[0], (labels + 1) % 3
    mostly = np.where(np.arange(200) % 50 > 0, labels, wrong)
    rarely = np.where(np.arange(200) % 50 > 0, wrong, labels)
    once = np.array(good)
    once[7] = certain(wrong)[7]
    members = {
        "twins": [good, good, log_probs[1]],
        "one run": [good],
        "one over-confident run": [log_softmax(300 * good, axis=1)],
        "a perfect run": [good, certain(labels), log_probs[1]],
        "a perfect run alone": [certain(labels)],
        "a run that is sure of another class": [good, certain(wrong)],
        "only a run that is sure of another class": [certain(wrong)],
        "two sure runs, each wrong where the other is right": [certain(mostly), certain(rarely)],
        "a good run that is sure of another class once": [once, np.full_like(good, -np.log(3))],
        "over-confident among good ones": [log_softmax(300 * good, axis=1), *log_probs[1:]],
        "only noise": list(log_softmax(np.random.default_rng(0).normal(size=(6, 200, 3)), axis=2)),
    }
    problems = {name: (np.stack(runs), labels) for name, runs in members.items()}
    problems["one row"] = log_probs[:, :1], labels[:1]
    problems["more runs than rows"] = problem_of(30, 5)
    problems["one row, sure runs"] = log_softmax(300 * log_probs[:, :1], axis=2), labels[:1]
    return problems


ODD = odd_problems()


def test_this_modules_losses_are_those_of_the_pools() -> None:
    problem = problem_of(3, 50)
    for weights in (np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.0, 0.0])):
        pooled = pool_arithmetic(problem[0], weights)
        assert linear_loss(problem, weights) == pytest.approx(log_loss(pooled, problem[1]))
        pooled = pool_geometric(problem[0], 1.7 * weights)
        ridge = RIDGE / 2 * (1.7 * weights) @ (1.7 * weights)
        assert log_linear_loss(problem, 1.7 * weights) == pytest.approx(log_loss(pooled, problem[1]) + ridge)


@pytest.mark.parametrize(
    ("loss", "gradient"), [(linear_loss, linear_gradient), (log_linear_loss, log_linear_gradient)]
)
def test_this_modules_gradients_are_those_of_its_losses(
    loss: Callable[..., float], gradient: Callable[..., np.ndarray]
) -> None:
    problem, weights = problem_of(3, 50), np.array([0.2, 0.3, 0.5])
    steps = 1e-6 * np.eye(3)
    slopes = [(loss(problem, weights + step) - loss(problem, weights - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(gradient(problem, weights), slopes, atol=1e-8)


# Optimality


@pytest.mark.parametrize("name", ODD)
def test_fitted_weights_are_optimal_for_odd_problems(name: str) -> None:
    assert linear_residual(ODD[name], fit_linear_pool(*ODD[name])) < 1e-6
    assert log_linear_residual(ODD[name], fit_log_linear_pool(*ODD[name])) < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    num_runs=st.integers(1, 8),
    num_images=st.integers(1, 60),
    num_classes=st.integers(2, 5),
    scale=st.sampled_from([0.01, 0.3, 1.0, 10.0, 100.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_fitted_weights_are_optimal(
    num_runs: int, num_images: int, num_classes: int, scale: float, seed: int
) -> None:
    problem = problem_of(num_runs, num_images, num_classes=num_classes, scale=scale, seed=seed)
    assert linear_residual(problem, fit_linear_pool(*problem)) < 1e-6
    assert log_linear_residual(problem, fit_log_linear_pool(*problem)) < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_no_worse_than_slsqp(seed: int) -> None:
    problem = problem_of(5, 150, seed=seed)
    start, bounds = np.full(5, 0.2), [(0, None)] * 5
    peers = {
        "linear": minimize(
            lambda w: linear_loss(problem, w),
            start,
            jac=lambda w: linear_gradient(problem, w),
            method="SLSQP",
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-13, "maxiter": 500},
        ),
        "log-linear": minimize(
            lambda w: log_linear_loss(problem, w),
            start,
            jac=lambda w: log_linear_gradient(problem, w),
            method="SLSQP",
            bounds=bounds,
            options={"ftol": 1e-13, "maxiter": 500},
        ),
    }
    assert linear_loss(problem, fit_linear_pool(*problem)) <= peers["linear"].fun + 1e-9
    assert log_linear_loss(problem, fit_log_linear_pool(*problem)) <= peers["log-linear"].fun + 1e-9


def test_no_worse_than_any_run_alone_nor_than_the_mean() -> None:
    for problem in ODD.values():
        num_runs = len(problem[0])
        for weights in (*np.eye(num_runs), np.full(num_runs, 1 / num_runs)):
            assert linear_loss(problem, fit_linear_pool(*problem)) <= linear_loss(problem, weights) + 1e-12
            fitted = log_linear_loss(problem, fit_log_linear_pool(*problem))
            assert fitted <= log_linear_loss(problem, weights) + 1e-12


# Known answers


def test_equal_weights_sum_to_1() -> None:
    np.testing.assert_array_equal(equal_weights(*problem_of(4, 10)), np.full(4, 0.25))


def test_linear_weights_are_the_shares_of_rows_that_only_one_run_knows() -> None:
    """Maximum likelihood of mixture proportions where each row comes from one component for certain."""
    labels = np.arange(200) % 3
    owner = np.repeat([0, 1, 2], [150, 49, 1])
    runs = [certain(np.where(owner == run, labels, (labels + 1) % 3)) for run in range(3)]
    weights = fit_linear_pool(np.stack(runs), labels)
    np.testing.assert_allclose(weights, [150 / 200, 49 / 200, 1 / 200], atol=1e-9)


@pytest.mark.parametrize("sure", [-30.0, -100.0, -400.0, -2000.0])
def test_one_row_with_a_certain_and_wrong_prediction_by_the_better_run(sure: float) -> None:
    """Two runs give the true class 0.9 and 1/3; on one row of n the first gives it nothing.

    With weight v for the second, the derivative of the loss vanishes where
    (n - 1) (0.9 - 1/3) / (0.9 - (0.9 - 1/3) v) = 1 / v: v = 0.9 / (n (0.9 - 1/3)).
    """
    num_images = 5000
    labels = np.zeros(num_images, dtype=np.int64)
    better = np.tile(np.log([0.9, 0.05, 0.05]), (num_images, 1))
    better[11] = [sure, -np.log(2), -np.log(2)]
    log_probs = np.stack([better, np.full((num_images, 3), -np.log(3))])
    second = 0.9 / (num_images * (0.9 - 1 / 3))
    np.testing.assert_allclose(fit_linear_pool(log_probs, labels), [1 - second, second], atol=1e-9)


@pytest.mark.parametrize("sharpness", [0.25, 4.0, 30.0])
def test_log_linear_weight_of_a_single_run_is_its_inverse_temperature(sharpness: float) -> None:
    """Labels drawn from softmax(z): a run that says softmax(sharpness z) needs the weight 1 / sharpness."""
    rng = np.random.default_rng(0)
    scores = 2 * rng.normal(size=(20_000, 4))
    labels = (softmax(scores, axis=1).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    (weight,) = fit_log_linear_pool(log_softmax(sharpness * scores, axis=1)[None], labels)
    assert weight * sharpness == pytest.approx(1, abs=0.03)
    (calibrated,) = fit_log_linear_pool(log_softmax(scores, axis=1)[None], labels)
    assert weight * sharpness == pytest.approx(calibrated, rel=1e-4)


def test_a_run_worse_than_uniform_gets_no_weight() -> None:
    log_probs, labels = problem_of(1, 200)
    liar = log_softmax(-log_probs[0], axis=1)
    assert fit_linear_pool(np.stack([log_probs[0], liar]), labels)[1] < 0.05
    assert fit_log_linear_pool(np.stack([log_probs[0], liar]), labels)[1] == 0


# What must not matter


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_runs=st.integers(2, 6))
def test_the_order_of_runs_does_not_matter(seed: int, num_runs: int) -> None:
    problem = problem_of(num_runs, 200, seed=seed)
    order = np.random.default_rng(seed).permutation(num_runs)
    for fit, pool, loss in (
        (fit_linear_pool, pool_arithmetic, linear_loss),
        (fit_log_linear_pool, pool_geometric, log_linear_loss),
    ):
        weights = fit(*problem)
        permuted = fit(problem[0][order], problem[1])
        np.testing.assert_allclose(permuted, weights[order], atol=1e-6)
        assert loss(problem, weights) == pytest.approx(
            loss((problem[0][order], problem[1]), permuted), abs=1e-11
        )
        np.testing.assert_allclose(
            pool(problem[0][order], weights[order]), pool(problem[0], weights), atol=1e-12
        )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_runs=st.integers(1, 5))
def test_factors_on_probabilities_do_not_matter(seed: int, num_runs: int) -> None:
    """For the linear pool a factor common to all runs; for the log-linear pool one of each run."""
    log_probs, labels = problem_of(num_runs, 100, seed=seed)
    rng = np.random.default_rng(seed)
    common = log_probs + rng.normal(scale=5, size=(1, 100, 1))
    np.testing.assert_allclose(fit_linear_pool(common, labels), fit_linear_pool(log_probs, labels), atol=1e-7)
    own = log_probs + rng.normal(scale=5, size=(num_runs, 100, 1))
    np.testing.assert_allclose(
        fit_log_linear_pool(own, labels), fit_log_linear_pool(log_probs, labels), atol=1e-6
    )


def test_identical_runs_share_the_weight_of_one() -> None:
    log_probs, labels = problem_of(2, 300)
    for fit in (fit_linear_pool, fit_log_linear_pool):
        alone = fit(log_probs, labels)
        twins = fit(log_probs[[0, 0, 1]], labels)
        assert twins[:2].sum() == pytest.approx(alone[0], abs=1e-5)
        assert twins[2] == pytest.approx(alone[1], abs=1e-5)


def test_float32_predictions_give_the_same_weights() -> None:
    log_probs, labels = problem_of(4, 300)
    for fit in (fit_linear_pool, fit_log_linear_pool):
        np.testing.assert_allclose(
            fit(log_probs.astype(np.float32), labels), fit(log_probs, labels), atol=1e-5
        )


# Pools


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0, 5), min_size=1, max_size=5).filter(lambda values: sum(values) > 1e-3),
    scale=st.sampled_from([0.0, 1.0, 100.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_pooled_rows_are_probabilities(weights: list[float], scale: float, seed: int) -> None:
    log_probs, _ = problem_of(len(weights), 20, scale=scale, seed=seed)
    for pool in (pool_arithmetic, pool_geometric):
        pooled = pool(log_probs, np.array(weights))
        assert pooled.shape == log_probs.shape[1:] and np.isfinite(pooled).all()
        assert (pooled <= 0).all()
        np.testing.assert_allclose(np.exp(pooled).sum(axis=1), 1, rtol=1e-12)


def test_pools_are_arithmetic_and_geometric_means() -> None:
    log_probs, _ = problem_of(3, 20)
    probs, weights = np.exp(log_probs), np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(
        np.exp(pool_arithmetic(log_probs, weights)), np.average(probs, axis=0, weights=weights), rtol=1e-12
    )
    geometric = np.prod(probs ** weights[:, None, None], axis=0)
    np.testing.assert_allclose(
        np.exp(pool_geometric(log_probs, weights)),
        geometric / geometric.sum(axis=1, keepdims=True),
        rtol=1e-12,
    )


@pytest.mark.parametrize("blender", BLENDERS, ids=lambda blender: blender.name)
def test_identical_runs_pool_to_themselves(blender: Blender) -> None:
    log_probs, _ = problem_of(1, 20)
    weights = np.array([0.25, 0.5, 0.25])
    np.testing.assert_allclose(blender.pool(log_probs[[0, 0, 0]], weights), log_probs[0], atol=1e-12)


def test_blenders_are_ordered_from_the_simplest_to_the_most_flexible() -> None:
    names = [blender.name for blender in BLENDERS]
    assert names[:4] == ["arithmetic mean", "geometric mean", "linear pool", "log-linear pool"]
    problem = problem_of(4, 300)
    losses = [log_loss(b.pool(problem[0], b.fit_weights(*problem)), problem[1]) for b in BLENDERS]
    assert losses[2] <= losses[0] and losses[3] <= losses[1]  # in-sample, fitting cannot lose
