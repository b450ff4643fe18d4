"""Settings drawn from a search space: random, or quasi-random, which covers the space more evenly."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.special import ndtri
from scipy.stats.qmc import Halton

from distracted.config.search_space import as_setting
from distracted.errors import ConfigError

Sampler = Literal["quasi", "random"]

_DIGITS = 4  # of a drawn number that are kept
_LARGEST_GRID = 10**7
_PATIENCE = 100  # draws in a row that are there already: the space is used up
Quantiles = Callable[[float, float, float], float]
#: Keys of a distribution, and its value at a quantile; names as in W&B's files.
_DISTRIBUTIONS: dict[str, tuple[tuple[str, str], Quantiles]] = {
    "uniform": (("min", "max"), lambda u, low, high: low + u * (high - low)),
    "int_uniform": (("min", "max"), lambda u, low, high: min(math.floor(low + u * (high - low + 1)), high)),
    "log_uniform": (("min", "max"), lambda u, low, high: math.exp(low + u * (high - low))),
    "log_uniform_values": (("min", "max"), lambda u, low, high: low * (high / low) ** u),
    "normal": (("mu", "sigma"), lambda u, mean, spread: mean + spread * float(ndtri(u))),
    "log_normal": (("mu", "sigma"), lambda u, mean, spread: math.exp(mean + spread * float(ndtri(u)))),
}
_INSIDE = 1e-9  # quantiles keep this distance from 0 and 1


def draw_settings(
    space: Mapping[str, Any], number: int, *, sampler: Sampler = "quasi", seed: int = 0
) -> list[tuple[str, ...]]:
    """The first settings of a sequence that depends on the space, the sampler and the seed alone.

    Args:
        space: From `read_space`. With the method `grid` all combinations are drawn, in random order.
        sampler: `quasi`: a scrambled Halton sequence (Owen 2017); `random`: independent draws.

    Returns:
        Different settings as SET= takes them, at most `number`: a space may hold fewer.

    Raises:
        ConfigError: a parameter's keys or distribution are unknown or invalid.
    """
    keys, specs = list(space["parameters"]), list(space["parameters"].values())
    rng = np.random.default_rng(seed)
    if space["method"] == "grid":
        listed = list(map(_listed, keys, specs))
        sizes = [len(values) for values in listed]
        if (size := math.prod(sizes)) > _LARGEST_GRID:
            raise ConfigError(f"a grid of {size} combinations is too large; expected method: random")
        taken = np.stack(np.unravel_index(rng.permutation(size)[:number], sizes), axis=1)
        return [_as_settings(keys, [v[n] for v, n in zip(listed, of, strict=True)]) for of in taken.tolist()]
    quantiles = list(map(_quantile_function, keys, specs))
    settings, repeated = dict[tuple[str, ...], None](), 0
    for point in _points(len(keys), sampler, rng):
        drawn = _as_settings(keys, [quantile(u) for quantile, u in zip(quantiles, point, strict=True)])
        repeated = repeated + 1 if drawn in settings else 0
        settings[drawn] = None
        if len(settings) >= number or repeated >= _PATIENCE:
            break
    return list(settings)


def _as_settings(keys: Sequence[str], values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(as_setting(key, value) for key, value in zip(keys, values, strict=True))


def _points(num_keys: int, sampler: Sampler, rng: np.random.Generator) -> Iterator[Sequence[float]]:
    """Points of the unit cube, without end."""
    halton = Halton(num_keys, seed=rng)
    while True:
        yield (rng.random(num_keys) if sampler == "random" else halton.random(1)[0]).tolist()


def _listed(key: str, spec: Any) -> Sequence[Any]:
    """The values of a parameter that lists them."""
    if not isinstance(spec, dict):
        return [spec]
    if "value" in spec:
        return [spec["value"]]
    if isinstance(spec.get("values"), list) and spec["values"]:
        return list(spec["values"])
    raise ConfigError(f"{key}: expected values, a list; a range goes with method: random")


def _quantile_function(key: str, spec: Any) -> Callable[[float], Any]:
    """The function that turns a number between 0 and 1 into a value of the parameter."""
    if not isinstance(spec, dict) or "value" in spec or "values" in spec:
        values = _listed(key, spec)
        weights = spec.get("probabilities", [1] * len(values)) if isinstance(spec, dict) else [1]
        numbers = isinstance(weights, list) and all(isinstance(one, int | float) for one in weights)
        if not numbers or len(weights) != len(values) or min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(f"{key}: expected one probability a value, got {weights} for {values}")
        ends = np.cumsum(weights) / sum(weights)
        return lambda u: values[min(int(np.searchsorted(ends, u, side="right")), len(values) - 1)]
    whole = all(isinstance(spec.get(end), int) for end in ("min", "max"))
    kind = str(spec.get("distribution", "int_uniform" if whole else "uniform"))
    base = kind.removeprefix("q_")
    if base not in _DISTRIBUTIONS:
        known = ", ".join(_DISTRIBUTIONS)
        raise ConfigError(f"{key}: unknown distribution {kind}; expected values, or one of {known}")
    names, value_at = _DISTRIBUTIONS[base]
    try:
        first, second = (float(spec[name]) for name in names)
        step = float(spec.get("q", 1)) if kind != base else 0.0
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {kind} takes numbers {' and '.join(names)}, got {spec}") from error
    if (names[0] == "min" and first > second) or (base == "log_uniform_values" and first <= 0) or step < 0:
        raise ConfigError(f"{key}: {kind}: expected min up to max, above 0 for logarithms; got {spec}")

    def value(u: float) -> float | int:
        try:
            drawn = value_at(min(max(u, _INSIDE), 1 - _INSIDE), first, second)
        except OverflowError as error:
            raise ConfigError(f"{key}: {kind}: numbers are too large, got {spec}") from error
        if base == "int_uniform":
            return int(drawn)
        return float(f"{round(drawn / step) * step:.12g}" if step else f"{drawn:.{_DIGITS}g}")

    return value
