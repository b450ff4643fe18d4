"""Newton's method for a smooth convex function of non-negative weights."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Hessian = Callable[[], NDArray[np.float64]]  # computed only if a step is taken
Objective = Callable[[Vector], tuple[float, Vector, Hessian]]

_TOLERANCE = 1e-10
_NEAR = 1e-13  # expected decrease of the value that rounding hides
_MAX_STEPS = 100


def kkt_residual(weights: Vector, gradient: Vector) -> float:
    """Distance from optimality: the largest |w - max(w - g, 0)|, zero at a minimum over w >= 0."""
    return float(np.abs(weights - np.maximum(weights - gradient, 0)).max())


def minimise_nonnegative(objective: Objective, start: Vector) -> Vector:
    """Minimise a convex function over w >= 0.

    Each step minimises the local quadratic model over w >= 0 exactly, as one small non-negative least-squares
    problem, and is halved until the function decreases. The active set is part of that solution. The
    scheme is the sequential quadratic programming of Kim et al., "A fast algorithm for maximum likelihood
    estimation of mixture proportions using sequential quadratic programming" (JCGS 2020), with NNLS as the
    inner solver.

    Args:
        objective: Returns value, gradient (n,) and a function for the Hessian (n, n).
        start: A feasible point with a finite value, shape (n,).

    Returns:
        The minimiser, shape (n,).
    """
    weights = start
    value, gradient, hessian = objective(weights)
    for _ in range(_MAX_STEPS):
        residual = kkt_residual(weights, gradient)
        direction = _quadratic_minimum(weights, gradient, hessian()) - weights
        slope = float(gradient @ direction)
        if residual < _TOLERANCE or slope >= 0:
            break
        near = -slope < _NEAR  # rounding hides the decrease; compare residuals
        step = 1.0
        while step > 1e-16:
            candidate = np.maximum(weights + step * direction, 0)
            new_value, new_gradient, new_hessian = objective(candidate)
            if near or new_value <= value + 1e-4 * step * slope:
                break
            step /= 2
        else:  # no step decreases the value
            break
        if near and kkt_residual(candidate, new_gradient) >= residual:
            break
        weights, value, gradient, hessian = candidate, new_value, new_gradient, new_hessian
    return weights


def _quadratic_minimum(weights: Vector, gradient: Vector, hessian: NDArray[np.float64]) -> Vector:
    """Minimise g'(v - w) + (v - w)'H(v - w)/2 over v >= 0."""
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    # Identical runs make H singular.
    ridge = 1e-11 * max(float(np.trace(hessian)) / len(weights), 1e-300)
    lower = cholesky(hessian + ridge * np.eye(len(weights)), lower=True)
    target = solve_triangular(lower, hessian @ weights - gradient + ridge * weights, lower=True)
    solution: Vector = nnls(lower.T, target)[0]
    return solution
