"""The minimiser finds the optimum over non-negative weights, and never a worse point than its start."""

import numpy as np
import pytest
from scipy.optimize import nnls

from distracted.ensemble.newton import Hessian, Vector, kkt_residual, minimise_nonnegative

Evaluation = tuple[float, Vector, Hessian]


@pytest.mark.parametrize("seed", range(10))
def test_a_quadratics_minimum_is_that_of_non_negative_least_squares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, target = rng.normal(size=(8, 5)), rng.normal(size=8)

    def objective(weights: Vector) -> Evaluation:
        error = matrix @ weights - target
        return float(error @ error / 2), matrix.T @ error, lambda: matrix.T @ matrix

    np.testing.assert_allclose(
        minimise_nonnegative(objective, np.ones(5)), nnls(matrix, target)[0], atol=1e-9
    )


def test_known_minima_in_one_dimension() -> None:
    def inside(weights: Vector) -> Evaluation:  # w - log w, whose minimum lies at 1
        (w,) = weights
        return (w - np.log(w) if w > 0 else np.inf), 1 - 1 / weights, lambda: np.array([[1 / w**2]])

    def on_the_edge(weights: Vector) -> Evaluation:  # exp w, whose minimum over w >= 0 lies at 0
        (value,) = np.exp(weights)
        return float(value), np.array([value]), lambda: np.array([[value]])

    for start in (0.01, 0.9, 1.9):
        assert minimise_nonnegative(inside, np.array([start])) == pytest.approx(1, abs=1e-9)
        assert minimise_nonnegative(on_the_edge, np.array([start])) == 0


def test_steps_shorten_where_the_function_is_not_defined() -> None:
    """-log w - log(1 - w), defined between 0 and 1, has its minimum at one half."""

    def objective(weights: Vector) -> Evaluation:
        (w,) = weights
        if not 0 < w < 1:
            return np.inf, weights, lambda: np.eye(1)
        value = -np.log(w) - np.log1p(-w)
        curvature = np.array([[1 / w**2 + 1 / (1 - w) ** 2]])
        return float(value), np.array([1 / (1 - w) - 1 / w]), lambda: curvature

    assert minimise_nonnegative(objective, np.array([1e-3])) == pytest.approx(0.5, abs=1e-9)
    assert minimise_nonnegative(objective, np.array([1 - 1e-3])) == pytest.approx(0.5, abs=1e-9)


def test_where_no_step_falls_the_start_is_kept() -> None:
    """A gradient that points the wrong way: whatever the step, the value rises."""

    def objective(weights: Vector) -> Evaluation:
        return float(weights.sum()), -np.ones(2), lambda: np.eye(2)

    np.testing.assert_array_equal(minimise_nonnegative(objective, np.ones(2)), np.ones(2))


def test_the_start_is_left_as_it_was() -> None:
    start = np.ones(3)
    minimise_nonnegative(lambda w: (float(w @ w), 2 * w, lambda: 2 * np.eye(3)), start)
    np.testing.assert_array_equal(start, np.ones(3))


def test_residual_is_zero_exactly_at_an_optimum() -> None:
    assert kkt_residual(np.array([1.0, 0.0]), np.array([0.0, 0.5])) == 0  # flat inside, rising at the edge
    assert kkt_residual(np.array([1.0, 0.0]), np.array([0.25, 0.5])) == 0.25  # not flat inside
    assert kkt_residual(np.array([1.0, 0.0]), np.array([0.0, -0.5])) == 0.5  # falling at the edge
    assert kkt_residual(np.array([0.1, 0.0]), np.array([7.0, 0.0])) == pytest.approx(0.1)  # no further than 0
