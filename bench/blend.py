"""Time the fitted pools, scipy's SLSQP and hillclimbers on the same losses, and the cost of useless runs.

    OMP_NUM_THREADS=1 PYTHONPATH=scripts python bench/blend.py --repeats 5 --out blend.json

The runs are simulated at the competition's size: 22,424 images of 26 drivers in 10 classes. They share errors
(by driver and by photograph), have errors of their own, and differ in skill and sharpness. Solvers take
turns, so that other load on the machine affects all of them equally. Loss and KKT residual (zero at the
optimum) are computed here, by the same functions for every solver.
"""

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import NonlinearConstraint, OptimizeResult, minimize
from scipy.special import log_softmax

from distracted.ensemble.blenders import ALL_BLENDERS
from distracted.ensemble.crossfit import cross_fit
from distracted.ensemble.newton import kkt_residual
from distracted.ensemble.pools import RIDGE, fit_linear_pool, fit_log_linear_pool
from distracted.ensemble.sources import ScoredRows, StoredSource
from distracted.metrics import log_loss
from harness import save

NUM_IMAGES, NUM_SUBJECTS, NUM_CLASSES, NUM_FOLDS = 22_424, 26, 10, 5
NUM_GOOD, NUM_USELESS = 10, 20

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ValueAndGradient = tuple[float, Floats]


@dataclass(frozen=True)
class Problem:
    """Log-probabilities (num_runs, num_images, num_classes); label, fold and subject of each image."""

    log_probs: Floats
    labels: Ints
    folds: Ints
    subjects: Ints

    def sources(self) -> list[StoredSource]:
        """The runs as members of a blend."""
        scored = ScoredRows(self.labels, self.folds, self.subjects)
        return [StoredSource(f"run {number}", oof, scored) for number, oof in enumerate(self.log_probs)]


@dataclass(frozen=True)
class Solver:
    """A way to fit a pool; `fit` returns weights and the number of loss evaluations, if known."""

    name: str
    pool: str
    fit: Callable[[Problem], tuple[Floats, int | None]]
    once: bool = False


@dataclass
class Result:
    """Times and weights of one solver."""

    solver: str
    pool: str
    seconds: list[float]
    loss: float
    kkt: float
    evaluations: int | None
    weights_above_0: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def simulate(num_runs: int, num_images: int, seed: int, num_classes: int = NUM_CLASSES) -> Problem:
    """Out-of-fold predictions of runs with shared and separate errors."""
    rng = np.random.default_rng(seed)
    subjects = np.arange(num_images) * NUM_SUBJECTS // num_images
    labels = rng.integers(0, num_classes, num_images)
    shared = 1.2 * rng.normal(size=(NUM_SUBJECTS, num_classes))[subjects]
    shared += 1.2 * rng.normal(size=(num_images, num_classes))
    signal = 5.5 * np.eye(num_classes)[labels]
    log_probs = np.empty((num_runs, num_images, num_classes))
    for run in range(num_runs):
        own = rng.uniform(0.5, 1.5) * rng.normal(size=(num_images, num_classes))
        own += 0.7 * rng.normal(size=(NUM_SUBJECTS, num_classes))[subjects]
        scores = rng.uniform(0.7, 1.2) * signal + shared + own
        log_probs[run] = log_softmax(rng.uniform(0.6, 1.5) * scores, axis=1)
    return Problem(log_probs, labels, subjects % NUM_FOLDS, subjects)


def with_useless_runs(problem: Problem, num_useless: int, seed: int) -> Problem:
    """Add runs without information: almost uniform, with a little noise."""
    noise = np.random.default_rng(seed).normal(size=(num_useless, *problem.log_probs.shape[1:]))
    useless = log_softmax(0.1 * noise, axis=2)
    return replace(problem, log_probs=np.concatenate([problem.log_probs, useless]))


# The losses, as a user of scipy would write them


def true_probs(problem: Problem) -> Floats:
    """Probabilities of the true classes, shape (num_images, num_runs)."""
    rows = np.arange(len(problem.labels))
    probs: Floats = np.exp(problem.log_probs[:, rows, problem.labels]).T
    return probs


def linear_loss(problem: Problem) -> Callable[[Floats], ValueAndGradient]:
    """-mean log(P w) and its gradient, for w on the simplex."""
    probs = true_probs(problem)

    def loss(weights: Floats) -> ValueAndGradient:
        mixture = probs @ weights
        return float(-np.log(mixture).mean()), -(probs.T @ (1 / mixture)) / len(probs)

    return loss


def linear_value(problem: Problem) -> Callable[[Floats], float]:
    """The same loss without gradient: SLSQP calls it where it estimates gradients by differences."""
    probs = true_probs(problem)
    return lambda weights: float(-np.log(probs @ weights).mean())


def log_linear_loss(problem: Problem) -> Callable[[Floats], ValueAndGradient]:
    """Log loss of softmax(sum_r w_r log p_r) with the project's ridge, and its gradient, for w >= 0."""
    flat, true_means = problem.log_probs.reshape(len(problem.log_probs), -1), true_log_means(problem)

    def loss(weights: Floats) -> ValueAndGradient:
        scores, log_totals = add_up(flat, weights)
        value = float(log_totals.mean() - weights @ true_means + RIDGE / 2 * (weights @ weights))
        blended = np.exp(scores - log_totals[:, None])
        return value, flat @ blended.ravel() / len(scores) - true_means + RIDGE * weights

    return loss


def log_linear_value(problem: Problem) -> Callable[[Floats], float]:
    """The same loss alone."""
    flat, true_means = problem.log_probs.reshape(len(problem.log_probs), -1), true_log_means(problem)

    def loss(weights: Floats) -> float:
        _, log_totals = add_up(flat, weights)
        return float(log_totals.mean() - weights @ true_means + RIDGE / 2 * (weights @ weights))

    return loss


def true_log_means(problem: Problem) -> Floats:
    """Each run's mean log-probability of the true classes, shape (num_runs,)."""
    rows = np.arange(len(problem.labels))
    means: Floats = problem.log_probs[:, rows, problem.labels].mean(axis=1)
    return means


def add_up(flat: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted log-probabilities, shape (num_images, num_classes), and the log of each row's total."""
    scores = (weights @ flat).reshape(-1, NUM_CLASSES)
    highest = scores.max(axis=1)
    return scores, highest + np.log(np.exp(scores - highest[:, None]).sum(axis=1))


def loss_and_kkt(problem: Problem, pool: str, weights: Floats) -> tuple[float, float]:
    """Loss and KKT residual; at the optimum on the simplex the gradient of positive weights is -1."""
    if pool == "linear":
        value, gradient = linear_loss(problem)(weights / weights.sum())
        return value, kkt_residual(weights / weights.sum(), gradient + 1)
    value, gradient = log_linear_loss(problem)(weights)
    return value, kkt_residual(weights, gradient)


# The solvers


def slsqp_linear(problem: Problem, *, gradient: bool, max_steps: int) -> tuple[Floats, int | None]:
    """SLSQP on the simplex."""
    return _slsqp(
        linear_loss(problem) if gradient else linear_value(problem),
        len(problem.log_probs),
        gradient=gradient,
        max_steps=max_steps,
        highest=1,
        constraints=NonlinearConstraint(lambda weights: weights.sum(), 1, 1, jac=np.ones_like),
    )


def slsqp_log_linear(problem: Problem, *, gradient: bool, max_steps: int) -> tuple[Floats, int | None]:
    """SLSQP over non-negative weights."""
    return _slsqp(
        log_linear_loss(problem) if gradient else log_linear_value(problem),
        len(problem.log_probs),
        gradient=gradient,
        max_steps=max_steps,
    )


def _slsqp(
    loss: Callable[[Floats], Any],
    num_runs: int,
    *,
    gradient: bool,
    max_steps: int,
    highest: float | None = None,
    constraints: Any = (),
) -> tuple[Floats, int | None]:
    """SLSQP from equal weights."""
    solve: Any = minimize
    result: OptimizeResult = solve(
        loss,
        np.full(num_runs, 1 / num_runs),
        jac=True if gradient else None,
        method="SLSQP",
        bounds=[(0, highest)] * num_runs,
        constraints=constraints,
        options={"ftol": 1e-10, "maxiter": max_steps},
    )
    return np.maximum(result.x, 0), int(result.nfev)


def climb_hill(problem: Problem) -> tuple[Floats, None]:
    """The linear pool by the package `hillclimbers`, with its defaults.

    It takes one column per run; the probabilities of the true classes determine the log loss. Its weights are
    its predictions for a test set of unit vectors.
    """
    from hillclimbers import climb_hill, partial

    names = [f"run {run}" for run in range(len(problem.log_probs))]

    def loss(_: object, probs: Floats) -> float:
        return float(-np.log(probs).mean())

    with redirect_stdout(StringIO()):
        weights = climb_hill(
            train=pd.DataFrame({"label": problem.labels}),
            oof_pred_df=pd.DataFrame(true_probs(problem), columns=names),
            test_pred_df=pd.DataFrame(np.eye(len(names)), columns=names),
            target="label",
            objective="minimize",
            eval_metric=partial(loss),
            plot_hill=False,
        )
    return np.asarray(weights), None


def solvers(*, slow: bool, max_steps: int) -> list[Solver]:
    """All solvers to compare; slow ones run once, whatever the repeats."""
    listed = []
    for pool, ours, slsqp in (
        ("linear", fit_linear_pool, slsqp_linear),
        ("log-linear", fit_log_linear_pool, slsqp_log_linear),
    ):
        listed.append(Solver("this project", pool, partial(_fit_ours, ours)))
        listed.append(Solver("SLSQP, gradient", pool, partial(slsqp, gradient=True, max_steps=max_steps)))
        if slow:
            without = partial(slsqp, gradient=False, max_steps=max_steps)
            listed.append(Solver("SLSQP, no gradient", pool, without, once=True))
    if slow and importlib.util.find_spec("hillclimbers") is not None:
        listed.append(Solver("hillclimbers", "linear", climb_hill, once=True))
    return listed


def _fit_ours(fit: Callable[[Floats, Ints], Floats], problem: Problem) -> tuple[Floats, None]:
    return fit(problem.log_probs, problem.labels), None


def time_solvers(problem: Problem, competitors: Sequence[Solver], repeats: int) -> list[Result]:
    """Time every solver once per round, so that slow minutes of the machine affect all of them."""
    results: dict[tuple[str, str], Result] = {}
    for number in range(repeats):
        for solver in competitors:
            if solver.once and number:
                continue
            start = time.perf_counter()
            weights, evaluations = solver.fit(problem)
            seconds = time.perf_counter() - start
            key = solver.name, solver.pool
            if key not in results:
                loss, kkt = loss_and_kkt(problem, solver.pool, weights)
                above = int((weights > 1e-6).sum())
                results[key] = Result(solver.name, solver.pool, [], loss, kkt, evaluations, above)
            results[key].seconds.append(seconds)
            print(f"  round {number + 1}: {solver.pool}, {solver.name}: {seconds:.3f} s", flush=True)
    return list(results.values())


def cross_fitted_scores(problem: Problem) -> dict[str, float]:
    """Cross-fitted log loss of each blender, and of the blend that chooses its blender for each fold."""
    fit = cross_fit(problem.sources())
    scores = {verdict.blender.name: verdict.interval.mean for verdict in fit.verdicts}
    return scores | {"chosen for each fold": log_loss(fit.log_probs, problem.labels)}


def time_blenders(problem: Problem, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds of one fit of every blender at each number of runs."""
    rows = []
    for number in numbers:
        log_probs = problem.log_probs[:number]
        for blender in ALL_BLENDERS:
            start = time.perf_counter()
            weights = blender.fit_weights(log_probs, problem.labels)
            seconds = time.perf_counter() - start
            loss = log_loss(blender.pool(log_probs, weights), problem.labels)
            rows.append({"blender": blender.name, "runs": number, "seconds": seconds, "in_sample": loss})
            print(f"  {number} runs, {blender.name}: {seconds:.2f} s", flush=True)
    return rows


def show_blenders(rows: Sequence[dict[str, Any]], numbers: Sequence[int]) -> None:
    """Print the seconds of a fit, one column per number of runs."""
    by_blender: dict[str, list[str]] = {}
    for row in rows:
        by_blender.setdefault(row["blender"], []).append(f"{row['seconds']:.2f}")
    show(
        ["seconds of a fit", "", *(f"{n} runs" for n in numbers)],
        [[n, "", *c] for n, c in by_blender.items()],
    )


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first two columns left-aligned, numbers right-aligned."""
    widths = [max(len(row[number]) for row in [columns, *rows]) for number in range(len(columns))]
    for row in (columns, *rows):
        cells = zip(row, widths, strict=True)
        print("  ".join(f"{cell:<{w}}" if n < 2 else f"{cell:>{w}}" for n, (cell, w) in enumerate(cells)))


def show_results(results: Sequence[Result]) -> None:
    """Print times, losses and residuals, grouped by pool."""
    ours = {result.pool: result for result in results if result.solver == "this project"}
    rows = []
    for result in sorted(results, key=lambda result: result.pool):
        rows.append(
            [
                f"{result.pool} pool",
                result.solver,
                f"{result.median:.3f}",
                f"{min(result.seconds):.3f} to {max(result.seconds):.3f}",
                f"{len(result.seconds)}",
                f"{result.median / ours[result.pool].median:.1f}x",
                f"{result.loss:.9f}",
                f"{result.loss - ours[result.pool].loss:+.1e}",
                f"{result.kkt:.1e}",
                "" if result.evaluations is None else f"{result.evaluations}",
            ]
        )
    columns = [
        "pool",
        "solver",
        "median s",
        "min to max",
        "runs",
        "time",
        "loss",
        "above ours",
        "KKT",
        "calls",
    ]
    show(columns, rows)


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="rounds; slow solvers run once")
    parser.add_argument("--without-slow", action="store_true", help="leave out solvers that take minutes")
    parser.add_argument("--runs", type=int, default=50, help="simulated runs")
    parser.add_argument("--images", type=int, default=NUM_IMAGES, help="simulated images")
    parser.add_argument("--max-steps", type=int, default=200, help="SLSQP's cap on its iterations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--growth", type=int, nargs="*", default=[], help="numbers of runs at which all blenders are timed"
    )
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()

    problem = simulate(options.runs, options.images, options.seed)
    scores = [log_loss(log_probs, problem.labels) for log_probs in problem.log_probs]
    print(
        f"{options.runs} runs x {options.images} images x {NUM_CLASSES} classes of {NUM_SUBJECTS} subjects; "
        f"log losses {min(scores):.3f} to {max(scores):.3f}"
    )
    competitors = solvers(slow=not options.without_slow, max_steps=options.max_steps)
    results = time_solvers(problem, competitors, options.repeats)
    print()
    show_results(results)

    grown: list[dict[str, Any]] = []
    if options.growth:
        print()
        many = simulate(max(options.growth), options.images, options.seed)
        grown = time_blenders(many, options.growth)
        show_blenders(grown, options.growth)

    good = replace(problem, log_probs=problem.log_probs[:NUM_GOOD])
    before = cross_fitted_scores(good)
    after = cross_fitted_scores(with_useless_runs(good, NUM_USELESS, options.seed + 1))
    print(
        f"\ncross-fitted log loss of {len(good.log_probs)} runs, before and after {NUM_USELESS} useless ones"
    )
    show(
        ["blender", "", "before", "after", "change"],
        [
            [name, "", f"{before[name]:.5f}", f"{after[name]:.5f}", f"{after[name] / before[name] - 1:+.3%}"]
            for name in before
        ],
    )
    if options.out:
        figures = {
            "settings": {key: str(value) for key, value in vars(options).items()},
            "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
            "solvers": [asdict(result) | {"median": result.median} for result in results],
            "blenders": grown,
            "useless_runs": {"before": before, "after": after},
        }
        save(options.out, figures)
        print(f"\n{options.out}: written")


if __name__ == "__main__":
    main()
