"""Sets of images: their files, and the decoded pictures by position; packs.py adds the cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from distracted.data.competition import Competition
from distracted.data.images import Image, read_rgb


class Pictures(Protocol):
    """Decoded images by position: uint8 RGB, shape (H, W, 3), possibly read-only."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image: ...


@dataclass(frozen=True)
class Images:
    """Image files and digests of their contents, such as all training or all test images in order.

    Attributes:
        contents: "" for images of which nothing is to be cached.
    """

    paths: list[Path]
    contents: list[str]

    @classmethod
    def to_train(cls, competition: Competition) -> Self:
        return cls(competition.train_paths(), competition.train["content"].tolist())

    @classmethod
    def to_test(cls, competition: Competition) -> Self:
        return cls(competition.test_paths(), competition.test["content"].tolist())

    @property
    def rows(self) -> NDArray[np.int64]:
        return np.arange(len(self.paths))

    def and_then(self, others: Self) -> Self:
        """These images followed by others."""
        return type(self)(self.paths + others.paths, self.contents + others.contents)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The images at some rows, in that order."""
        return type(self)([self.paths[row] for row in rows], [self.contents[row] for row in rows])


class Files:
    """Image files, decoded at each access.

    Args:
        contents: Digest of each file, "" where nothing is known; a file that no longer has it is an error.
        short_side: As for `read_rgb`.
    """

    def __init__(
        self, paths: Sequence[Path], contents: Sequence[str] = (), *, short_side: int | None = None
    ) -> None:
        self._paths, self._short_side = list(paths), short_side
        self._contents = list(contents) or [""] * len(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Image:
        return read_rgb(self._paths[index], content=self._contents[index], short_side=self._short_side)


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
