"""Batches of whole images are limited by their bytes, since photographs have any number of pixels."""

import numpy as np
import pytest

from distracted.data.picture_sets import number_within, spread


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (50, [0, 7, 14, 21, 28, 35, 42, 49])]
)
def test_positions_are_spread_over_a_set(count: int, expected: list[int]) -> None:
    assert spread(count, 8) == expected


@pytest.mark.parametrize(("size", "expected"), [(3000, 1), (10**4, 1), (10**5, 11), (10**9, 111111)])
def test_the_largest_image_decides_how_many_fit(size: int, expected: int) -> None:
    small, large = np.zeros((10, 10, 3), dtype=np.uint8), np.zeros((60, 50, 3), dtype=np.uint8)
    assert number_within([small, small, large, small], size) == expected
