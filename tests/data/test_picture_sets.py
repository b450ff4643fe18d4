"""Pictures of a set by position."""

import pytest

from distracted.data.picture_sets import spread


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (50, [0, 7, 14, 21, 28, 35, 42, 49])]
)
def test_positions_are_spread_over_a_set(count: int, expected: list[int]) -> None:
    assert spread(count, 8) == expected
