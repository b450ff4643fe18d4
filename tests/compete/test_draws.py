"""Settings that are drawn from a search space."""

from typing import Any

import numpy as np
import pytest

from distracted.compete.draws import draw_settings
from distracted.config.search_space import read_space
from distracted.errors import ConfigError
from distracted.paths import CONFIGS


def space(method: str = "random", **parameters: Any) -> dict[str, Any]:
    return {"method": method, "parameters": parameters}


def values(drawn: list[tuple[str, ...]], key: str) -> list[str]:
    texts = [text for settings in drawn for text in settings]
    return [text.removeprefix(f"{key}=") for text in texts if text.startswith(f"{key}=")]


@pytest.mark.parametrize("sampler", ["quasi", "random"])
def test_more_draws_go_on_from_fewer(sampler: Any) -> None:
    project = read_space(CONFIGS / "sweep.yaml")
    few, many = (draw_settings(project, number, sampler=sampler) for number in (5, 20))
    assert many[:5] == few
    assert len(set(many)) == 20
    assert draw_settings(project, 5, sampler=sampler, seed=1) != few


@pytest.mark.parametrize(
    ("spec", "low", "middle", "high"),
    [
        ({"min": 0.5, "max": 2.0}, 0.5, 1.25, 2.0),
        ({"min": 1, "max": 3}, 1, 2, 3),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, 1e-4, 1e-3, 1e-2),
        ({"distribution": "log_uniform", "min": -3.0, "max": 0.0}, np.exp(-3), np.exp(-1.5), 1),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, 0, 0.5, 1),
        ({"distribution": "q_uniform", "min": 0, "max": 100_000, "q": 1}, 0, 50_000, 100_000),
        ({"distribution": "normal", "mu": 5.0, "sigma": 0.1}, 4, 5, 6),
        ({"distribution": "log_normal", "mu": 0.0, "sigma": 0.1}, 0.5, 1, 2),
    ],
)
def test_numbers_are_in_their_range_and_spread_over_it(
    spec: dict[str, Any], low: float, middle: float, high: float
) -> None:
    drawn = np.array([float(value) for value in values(draw_settings(space(a=spec), 60), "a")])
    assert low <= drawn.min() and drawn.max() <= high
    assert np.median(drawn) == pytest.approx(middle, rel=0.2)


def test_whole_numbers_stay_whole() -> None:
    drawn = draw_settings(space(a={"min": 1, "max": 3}, b={"values": [None, True]}), 60)
    assert set(values(drawn, "a")) == {"1", "2", "3"}
    assert set(values(drawn, "b")) == {"null", "True"}
    assert len(drawn) == 6  # and no setting twice


def test_probabilities_weigh_the_values() -> None:
    both = {"a": {"values": ["x", "y"], "probabilities": [0.9, 0.1]}, "b": {"min": 0.0, "max": 1.0}}
    drawn = values(draw_settings(space(**both), 200), "a")
    assert drawn.count("x") == pytest.approx(180, abs=6)


def test_quasi_random_settings_are_more_even_than_random_ones() -> None:
    def gaps(sampler: Any) -> float:
        drawn = values(draw_settings(space(a={"min": 0.0, "max": 1.0}), 32, sampler=sampler), "a")
        return float(np.diff(np.sort([0, *map(float, drawn), 1])).max())

    assert gaps("quasi") < 0.7 * gaps("random")


def test_a_grid_is_drawn_whole_in_random_order() -> None:
    grid = space("grid", a={"values": [1, 2, 3]}, b={"value": 4}, c={"values": ["x", "y"]})
    drawn = draw_settings(grid, 100)
    assert sorted(drawn) == [(f"a={a}", "b=4", f"c={c}") for a in (1, 2, 3) for c in ("x", "y")]
    assert drawn != sorted(drawn)
    with pytest.raises(ConfigError, match="a: expected values, a list; a range goes with"):
        draw_settings(space("grid", a={"min": 0, "max": 1}), 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"distribution": "beta", "a": 1, "b": 2},
            "a: unknown distribution beta; expected values, or one of",
        ),
        ({"min": 2.0, "max": 1.0}, "a: uniform: expected min up to max"),
        ({"min": 0.1}, "a: uniform takes numbers min and max"),
        ({"distribution": "normal", "mu": "x", "sigma": 1}, "a: normal takes numbers mu and sigma"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "above 0 for logarithms"),
        ({"values": [1, 2], "probabilities": [1]}, "a: expected one probability a value"),
        ({"values": [1, 2], "probabilities": 0.5}, "a: expected one probability a value"),
        ({"values": 3}, "a: expected values, a list"),
        ({"distribution": "log_uniform", "min": 0, "max": 1e6}, "a: log_uniform: numbers are too large"),
    ],
)
def test_invalid_parameters_are_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw_settings(space(a=spec), 3)
