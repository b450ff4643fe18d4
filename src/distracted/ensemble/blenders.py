"""Blenders: ways to combine the predictions of several runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.newton import Vector
from distracted.ensemble.pools import (
    equal_weights,
    fit_by_class,
    fit_greedy_selection,
    fit_linear_pool,
    fit_log_linear_pool,
    pool_arithmetic,
    pool_by_class,
    pool_geometric,
)
from distracted.ensemble.stacking import fit_stacking, pool_stacked
from distracted.errors import ConfigError
from distracted.postprocess.step import Estimator, Examples, Labels, LogProbs, Rows, Runs


@dataclass(frozen=True)
class Blender(Estimator):
    """A way to weigh runs and a way to pool them.

    Attributes:
        caution: Why it is not a candidate unless it is named, or "".
        can_sharpen: As of every `Estimator`.
    """

    name: str
    fit_weights: Callable[[Runs, Labels], Vector]
    pool: Callable[[Runs, Vector], NDArray[np.float64]]
    caution: str = ""
    can_sharpen: bool = False

    @property
    def key(self) -> str:
        """Its name on the command line."""
        return self.name.replace(" ", "_").replace("-", "_")

    def fit(self, examples: Examples) -> Vector:
        return self.fit_weights(examples.log_probs, examples.labels)

    def predict(self, fitted: Vector, rows: Rows) -> LogProbs:
        return self.pool(rows.log_probs, fitted)

    def weights_by_run(self, fitted: Vector, runs: Sequence[str]) -> dict[str, float]:
        """Each run's weight, or the mean absolute value of its weights over classes."""
        if fitted.ndim == 1:
            return dict(zip(runs, fitted.tolist(), strict=True))
        rows = fitted if len(fitted) == len(runs) else fitted[:-1]  # without the bias of stacking
        by_run = np.abs(rows).reshape(len(runs), -1)
        return dict(zip(runs, by_run.mean(axis=1).tolist(), strict=True))


#: From the simplest to the most flexible: the first of those that are as good as the best is taken.
ALL_BLENDERS = (
    Blender("arithmetic mean", equal_weights, pool_arithmetic),
    Blender("geometric mean", equal_weights, pool_geometric),
    Blender("linear pool", fit_linear_pool, pool_arithmetic),
    Blender("log-linear pool", fit_log_linear_pool, pool_geometric, can_sharpen=True),
    Blender("greedy selection", fit_greedy_selection, pool_arithmetic),
    Blender("weights by class", fit_by_class, pool_by_class, caution="flexible"),
    Blender("stacking", fit_stacking, pool_stacked, caution="flexible, free signs", can_sharpen=True),
)
#: The default candidates.
BLENDERS = tuple(blender for blender in ALL_BLENDERS if not blender.caution)


def find_blenders(keys: Sequence[str]) -> tuple[Blender, ...]:
    """Blenders by their keys, from the simplest to the most flexible.

    Raises:
        ConfigError: an unknown key.
    """
    known = [blender.key for blender in ALL_BLENDERS]
    if unknown := [key for key in keys if key not in known]:
        raise ConfigError(f"BLENDERS: unknown blender {unknown[0]!r}; there are: {', '.join(known)}")
    return tuple(blender for blender in ALL_BLENDERS if blender.key in keys)
