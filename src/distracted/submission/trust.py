"""How far a network's probabilities can be trusted, and what that means for the loss on new subjects.

The model: a subject's labels are drawn from the network's probabilities to the power of the subject's trust
b, scaled to sum 1. A trust of 1 is calibrated, less is over-confident. (One b for all rows is temperature
scaling: Guo et al., On calibration of modern neural networks, 2017.) Over subjects, the logarithm of b has
Student's t distribution with centre m and scale s. The training subjects' labels determine m and s (a
hierarchical model: Gelman et al., Bayesian data analysis, chapter 5). Priors keep both within reason where
subjects are few: fine-tuned networks tend to be over-confident.

The test images' predictions are known. With new subjects' b they give the loss: easy test images promise a
small one, no loss exceeds what the predictions allow, and networks without a mistake so far may still make
one.

A subject helps to train the networks that score the other subjects, so their losses are not independent: in
the variance of the mean loss each pair of subjects counts up to twice (Hoeffding's decomposition). The
likelihood is therefore raised to the power of 1 / DEPENDENCE.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Doubles = NDArray[np.float64]

#: Prior of m, Student's t: the median trust, and the scale of its logarithm.
MEDIAN_TRUST, MEDIAN_TRUST_ERROR = 0.7, 0.5
#: Prior of s, half a t distribution: its scale and degrees of freedom.
SPREAD, SPREAD_DEGREES = 0.25, 3.0
#: Degrees of freedom of b and m: a few subjects are much harder than the others, a few networks much worse.
DEGREES = 5.0
#: Subjects that count as one independent subject; between 1 and 2.
DEPENDENCE = 1.5
NUM_DRAWS = 2000

_TRUST = np.geomspace(0.02, 4.0, 32)  # b of the tables
_LOG = np.log(_TRUST)
_FINE = np.linspace(_LOG[0], _LOG[-1], 161)  # log b of the integral over a subject's b
_AT_ONCE = 1000  # subjects
_MAX_SUBJECTS = 1000  # simulated; the deviations of more are scaled down
_LIKELIHOOD_DIGITS = 6  # of its logarithm: sums of several threads differ in the last bits


@dataclass(frozen=True)
class Tables:
    """Properties of rows of log-probabilities under each b of the tables; shape (num_rows, num_b) each.

    Attributes:
        loss, variance: Mean and variance of a row's log loss, over labels.
        likelihood: Logarithm of the probability of the row's label.
    """

    loss: Doubles
    variance: Doubles
    likelihood: Doubles

    @classmethod
    def of(cls, log_probs: Floats, labels: Ints | None = None) -> "Tables":
        """Make tables of rows, shape (num_rows, num_classes), and labels, shape (num_rows,), if known."""
        rows = np.ascontiguousarray(log_probs, dtype=np.float32)
        shifted, squares = rows - rows.max(axis=1, keepdims=True), rows**2
        loss, variance, likelihood = (np.zeros((len(rows), len(_TRUST))) for _ in range(3))
        label = None if labels is None else shifted[np.arange(len(rows)), labels].astype(np.float64)
        for column, b in enumerate(_TRUST.astype(np.float32)):
            weights = np.exp(b * shifted)
            total = weights.sum(axis=1, dtype=np.float64)
            loss[:, column] = -np.einsum("ij,ij->i", weights, rows) / total
            second = np.einsum("ij,ij->i", weights, squares) / total
            variance[:, column] = np.maximum(second - loss[:, column] ** 2, 0)
            if label is not None:
                likelihood[:, column] = b * label - np.log(total)
        return cls(loss, variance, likelihood)


@dataclass(frozen=True)
class Trust:
    """Posterior of the subjects' trust, as draws.

    Attributes:
        centre, scale: m and s, shape (num_draws,).
        rows: Number of rows of each training subject, shape (num_subjects,).
        hardness: Each training subject's expected loss a row, relative to that of all rows, at one b.
    """

    centre: Doubles
    scale: Doubles
    rows: Doubles
    hardness: Doubles

    @classmethod
    def fit(cls, log_probs: Floats, labels: Ints, subjects: Ints, rng: np.random.Generator) -> "Trust":
        """Fit to out-of-fold rows; shapes and ids as in `expect_score`."""
        from scipy.interpolate import CubicSpline  # slow to import

        ids = np.unique(subjects, return_inverse=True)[1]
        tables = Tables.of(log_probs, labels)
        likelihood = np.stack([np.bincount(ids, column) for column in tables.likelihood.T], axis=1)
        best = int(likelihood.sum(axis=0).argmax())
        rows = np.bincount(ids).astype(np.float64)
        hardness = np.bincount(ids, tables.loss[:, best]) / rows / max(tables.loss[:, best].mean(), 1e-300)
        fine: Doubles = CubicSpline(_LOG, likelihood, axis=1)(_FINE)
        return cls(*_posterior(fine, rng), rows, hardness)

    def losses(self, test: "TestTables", num_subjects: int, rng: np.random.Generator) -> "Draws":
        """Draw a single network's loss on the test rows, once for each draw of m and s.

        It is unknown which row belongs to which test subject. A test subject's share of the rows, and of
        their difficulty, is that of a training subject drawn at random.
        """
        num = min(num_subjects, _MAX_SUBJECTS)
        shrink = np.sqrt(num / num_subjects)
        mean, noise, spread = (np.empty(len(self.centre)) for _ in range(3))
        for part in np.array_split(np.arange(len(mean)), -(-len(mean) * num // 1_000_000)):
            who = rng.integers(0, len(self.rows), (len(part), num))
            weights = (self.rows * self.hardness)[who]
            weights /= weights.sum(axis=1, keepdims=True)
            draws = rng.standard_t(DEGREES, weights.shape)
            log_b = self.centre[part, None] + self.scale[part, None] * draws
            typical = _of_many(test.loss, self.centre[part], self.scale[part])
            loss = (weights * np.interp(log_b, _LOG, test.loss)).sum(axis=1)
            mean[part] = typical + (loss - typical) * shrink if shrink < 1 else loss
            noise[part] = (weights * np.interp(log_b, _LOG, test.variance)).sum(axis=1)
            spread[part] = (weights * np.interp(log_b, _LOG, test.spread)).sum(axis=1)
        return Draws(mean, noise, spread, test)


@dataclass(frozen=True)
class TestTables:
    """A single network's losses on the test rows under each b, averaged over rows and networks.

    Attributes:
        loss: Mean loss, shape (num_b,) as the next two.
        variance: Mean over rows of the variance over labels.
        spread: Variance over rows of the mean over labels.
        least, least_variance: The loss if every label were the most probable class; its variance over rows.
    """

    loss: Doubles
    variance: Doubles
    spread: Doubles
    least: float
    least_variance: float
    num_rows: int

    @classmethod
    def of(cls, test: Floats) -> "TestTables":
        """Make tables of each network's log-probabilities, shape (num_folds, num_test, num_classes)."""
        of_networks = [_means(Tables.of(log_probs)) for log_probs in test]
        loss, variance, spread = np.mean(of_networks, axis=0)
        least = -test.max(axis=2).astype(np.float64)
        least_variance = float(least.var(axis=1).mean())
        return cls(loss, variance, spread, float(least.mean()), least_variance, test.shape[1])


@dataclass(frozen=True)
class Draws:
    """Draws of a single network's loss on the test rows given b, without the chance of the labels.

    Attributes:
        mean, noise, spread: The loss, and a row's two variances as in `TestTables`; shape (num_draws,) each.
    """

    mean: Doubles
    noise: Doubles
    spread: Doubles
    test: TestTables

    def with_noise(self, rng: np.random.Generator, *, share: float = 1.0) -> Doubles:
        """Add the chance of the labels; with a share below 1 also that of the rows that are scored.

        Mistakes are few and large: what the loss exceeds the least possible one by has a Gamma distribution.
        """
        num_rows = max(share * self.test.num_rows, 1.0)
        excess = np.maximum(self.mean - self.test.least, 0)
        noisy = _gamma(excess, (self.noise + (1 - share) * self.spread) / num_rows, rng)
        if share == 1:
            return self.test.least + noisy
        least = np.full_like(excess, self.test.least)
        return noisy + _gamma(
            least, np.full_like(least, (1 - share) * self.test.least_variance / num_rows), rng
        )


def _gamma(mean: Doubles, variance: Doubles, rng: np.random.Generator) -> Doubles:
    """Draws with these means and variances; without variance, the means."""
    shape = mean**2 / np.maximum(variance, 1e-300)
    is_noisy = (shape > 0) & (shape < 1e12)
    drawn = mean.copy()
    drawn[is_noisy] *= rng.standard_gamma(shape[is_noisy]) / shape[is_noisy]
    return drawn


def _means(tables: Tables) -> tuple[Doubles, Doubles, Doubles]:
    return tables.loss.mean(axis=0), tables.variance.mean(axis=0), tables.loss.var(axis=0)


def _of_many(curve: Doubles, centre: Doubles, scale: Doubles) -> Doubles:
    """Mean of a curve over the b of very many subjects, for each draw."""
    from scipy.special import stdtrit

    quantiles = stdtrit(DEGREES, (np.arange(64) + 0.5) / 64)
    log_b = centre[:, None] + scale[:, None] * quantiles
    mean: Doubles = np.interp(log_b, _LOG, curve).mean(axis=1)
    return mean


def _posterior(likelihood: Doubles, rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Draws of m and s, given each subject's log-likelihood at the fine b, (num_subjects, num_fine)."""
    centres, scales = np.linspace(_LOG[0], _LOG[-1], 41), np.geomspace(0.02, 2.5, 16)
    for _ in range(2):  # the second grid covers the mass of the first
        weights = _grid_weights(likelihood, centres, scales)
        last = centres, scales
        centres = _around(centres, weights.sum(axis=1))
        scales = np.exp(_around(np.log(scales), weights.sum(axis=0)))
    centres, scales = last
    cumulated = weights.ravel().cumsum()
    chosen = cumulated.searchsorted(rng.random(NUM_DRAWS) * cumulated[-1])
    row, column = np.unravel_index(np.minimum(chosen, weights.size - 1), weights.shape)
    jitter = rng.random((2, NUM_DRAWS)) - 0.5  # within a cell of the grid
    centre = centres[row] + jitter[0] * (centres[1] - centres[0])
    scale = scales[column] * (scales[1] / scales[0]) ** jitter[1]
    return centre, scale


def _grid_weights(likelihood: Doubles, centres: Doubles, scales: Doubles) -> Doubles:
    """Posterior weight of each m and s of a grid, (num_centres, num_scales); the largest is 1."""
    z = (_FINE - centres[:, None, None]) / scales[:, None]
    density = (1 + z**2 / DEGREES) ** (-(DEGREES + 1) / 2)
    density = (density / density.sum(axis=2, keepdims=True)).reshape(-1, len(_FINE))
    total = np.zeros(len(density))
    for part in _parts(likelihood):
        top = part.max(axis=1, keepdims=True)
        total += np.log(np.maximum(np.exp(part - top) @ density.T, 1e-300)).sum(axis=0)
    log_weights = np.round(total, _LIKELIHOOD_DIGITS).reshape(len(centres), len(scales)) / DEPENDENCE
    error = (centres[:, None] - np.log(MEDIAN_TRUST)) / MEDIAN_TRUST_ERROR
    log_weights -= (DEGREES + 1) / 2 * np.log1p(error**2 / DEGREES)
    log_weights -= (SPREAD_DEGREES + 1) / 2 * np.log1p((scales / SPREAD) ** 2 / SPREAD_DEGREES)
    log_weights += np.log(scales)  # the grid is even in log s
    weights: Doubles = np.exp(log_weights - log_weights.max())
    return weights


def _parts(rows: Doubles) -> Iterator[Doubles]:
    for first in range(0, len(rows), _AT_ONCE):
        yield rows[first : first + _AT_ONCE]


def _around(grid: Doubles, weights: Doubles) -> Doubles:
    """A grid of the same length over the part that holds the weights, at most as wide as the first."""
    mean = np.average(grid, weights=weights)
    reach = 4.5 * np.sqrt(np.average((grid - mean) ** 2, weights=weights)) + (grid[1] - grid[0])
    finer: Doubles = np.linspace(max(grid[0], mean - reach), min(grid[-1], mean + reach), len(grid))
    return finer
