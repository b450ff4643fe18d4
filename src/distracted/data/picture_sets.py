"""Decoded images by position: from files, transformed, or some of a larger set; packs.py adds the cache."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distracted.data.images import Image, read_rgb


class Pictures(Protocol):
    """Decoded images by position: uint8 RGB, shape (H, W, 3), possibly read-only."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image: ...


class Files:
    """Image files, decoded at each access.

    Args:
        short_side: As for `read_rgb`.
    """

    def __init__(self, paths: Sequence[Path], *, short_side: int | None = None) -> None:
        self._paths, self._short_side = list(paths), short_side

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Image:
        return read_rgb(self._paths[index], short_side=self._short_side)


class Transformed:
    """Images that are transformed in the same way at each access."""

    def __init__(self, pictures: Pictures, transform: Callable[[Image], Image]) -> None:
        self._pictures, self._transform = pictures, transform

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Image:
        return self._transform(self._pictures[index])


class Selected:
    """Some rows of a larger set of pictures, each under its position there.

    Args:
        pictures: The selected ones, in the order of `rows`.
        rows: Their positions in the larger set.
    """

    def __init__(self, pictures: Pictures, rows: NDArray[np.int64]) -> None:
        self._pictures = pictures
        self._place = {row: place for place, row in enumerate(rows.tolist())}

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Image:
        return self._pictures[self._place[index]]
