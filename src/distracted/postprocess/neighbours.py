"""The nearest images of each image in a feature space: by exact search, or by an index if they are many."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distracted.errors import StoreError
from distracted.postprocess.inverted_lists import MIN_RECALL, InvertedLists
from distracted.postprocess.knn import Engine, Floats, Ints, knn, uses_faiss
from distracted.postprocess.spaces import Arrays
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

#: Neighbours kept of each image.
MAX_NEIGHBOURS = 50
#: Images from which on an index is tried.
MANY = 50_000
_BLOCK = 1024  # images whose neighbours are searched at a time


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest other images of each image in a set.

    Attributes:
        indices: From the nearest on, without the image itself, (num_images, k) int32.
        distances: Between directions of features seen from the set's mean, (num_images, k) float32: 0 for
            equal directions, about 1.4 for unrelated images, at most 2.
        search: How they were found if not by exact search, with the measured recall; else "".
    """

    indices: NDArray[np.int32]
    distances: NDArray[np.float32]
    search: str = ""
    kind: ClassVar[str] = "neighbours"
    key: ClassVar[str] = f"{MAX_NEIGHBOURS}"
    of_all_drivers: ClassVar[bool] = True

    @classmethod
    def build(cls, features: NDArray[np.float32], progress: Progress) -> Self:
        nearest = nearest_neighbours(features, min(MAX_NEIGHBOURS, len(features) - 1), progress=progress)
        return cls(nearest.indices, nearest.distances, nearest.search)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        search = str(arrays.get("search", ""))
        return cls(arrays["indices"].astype(np.int32), arrays["distances"].astype(np.float32), search)

    def arrays(self) -> Arrays:
        found: dict[str, NDArray[np.generic]] = {"indices": self.indices, "distances": self.distances}
        return found | ({"search": np.array(self.search)} if self.search else {})

    @property
    def k(self) -> int:
        return int(self.indices.shape[1])

    def thinned(self, share: float, rng: np.random.Generator) -> "Neighbours":
        """The neighbours if only a random share of the images could be one; places left over are at an
        infinite distance."""
        missing = (rng.random(len(self.indices)) >= share)[self.indices]
        order = np.argsort(missing, axis=1, kind="stable")
        distances = np.where(missing, np.float32(np.inf), self.distances)
        return Neighbours(
            np.take_along_axis(self.indices, order, axis=1), np.take_along_axis(distances, order, axis=1)
        )


def nearest_neighbours(
    features: NDArray[np.float32],
    k: int,
    *,
    engine: Engine = "auto",
    many: int = MANY,
    progress: Progress = silent,
) -> Neighbours:
    """Find each image's k nearest others.

    The search is exact for fewer than `many` images. For more, faiss compares each image with the inverted
    lists nearest to it, if that finds at least 99.9% of the exact neighbours of a sample.

    Args:
        features: Shape (num_images, num_features).
        engine: What compares images: faiss, sklearn, or auto (faiss if it is installed).

    Raises:
        StoreError: there are only k images or fewer.
    """
    if k >= len(features):
        raise StoreError(
            f"{k} neighbours asked for among {len(features)} images; expected fewer neighbours than images"
        )
    directions = directions_of(features)
    if len(features) >= many and uses_faiss(engine):
        if (found := _by_lists(directions, k, progress)) is not None:
            return found
        _log.info("%d images: exact search; inverted lists would be no faster", len(features))
    return Neighbours(*_collect(_exact(directions, k + 1, engine), len(features), k, progress))


_Found = Iterator[tuple[Ints, Ints, Floats]]  # images, the nearest of each with itself, squared distances


def _by_lists(directions: Floats, k: int, progress: Progress) -> Neighbours | None:
    """Neighbours of which enough are the exact ones; None if exact search is as fast."""
    lists = InvertedLists(directions, k)
    while lists.is_worth_it:
        indices, distances = _collect(lists.search(), len(directions), k, progress)
        recall = lists.recall(distances)
        if recall >= MIN_RECALL and indices.min() >= 0:
            search = f"{lists.probes} of {lists.num_lists} inverted lists, recall at {k} {recall:.4f}"
            _log.info("%d images: neighbours by %s", len(directions), search)
            return Neighbours(indices, distances, search)
        lists.widen()
    return None


def _exact(directions: Floats, k: int, engine: Engine) -> _Found:
    for start in range(0, len(directions), _BLOCK):
        block = directions[start : start + _BLOCK]
        yield np.arange(start, start + len(block)), *knn(block, directions, k, engine=engine)


def _collect(
    found: _Found, num_images: int, k: int, progress: Progress
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Indices and distances without the images themselves."""
    indices = np.empty((num_images, k), dtype=np.int32)
    distances = np.empty((num_images, k), dtype=np.float32)
    with progress("nearest neighbours", total=num_images, unit="img") as step:
        for rows, nearest, squared in found:
            kept = nearest != rows[:, None]
            kept[kept.all(axis=1), -1] = False  # more than k twins hide the image itself: drop the last twin
            indices[rows] = nearest[kept].reshape(len(rows), k)
            distances[rows] = np.sqrt(np.maximum(squared[kept].reshape(len(rows), k), 0))
            step(len(rows))
    return indices, distances


def directions_of(
    features: NDArray[np.float32], *, centre: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Unit vectors from a centre, by default the mean, to each image, (num_images, num_features)."""
    directions = np.array(features, dtype=np.float32)
    directions -= directions.mean(axis=0) if centre is None else centre
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    return directions
