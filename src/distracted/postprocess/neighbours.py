"""The nearest images of each image in a feature space, by exact search."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distracted.errors import StoreError
from distracted.postprocess.spaces import Arrays
from distracted.progress import Progress, silent

#: Neighbours kept of each image.
MAX_NEIGHBOURS = 50
_BLOCK = 1024  # images whose neighbours are searched at a time
_WORKING_MIB = 512  # memory that scikit-learn may take for distances


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest other images of each image in a set.

    Attributes:
        indices: From the nearest on, without the image itself, (num_images, k) int32.
        distances: Between directions of features seen from the set's mean, (num_images, k) float32: 0 for
            equal directions, about 1.4 for unrelated images, at most 2.
    """

    indices: NDArray[np.int32]
    distances: NDArray[np.float32]
    kind: ClassVar[str] = "neighbours"
    key: ClassVar[str] = f"{MAX_NEIGHBOURS}"
    of_all_drivers: ClassVar[bool] = True

    @classmethod
    def build(cls, features: NDArray[np.float32], progress: Progress) -> Self:
        nearest = nearest_neighbours(features, min(MAX_NEIGHBOURS, len(features) - 1), progress=progress)
        return cls(nearest.indices, nearest.distances)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        return cls(arrays["indices"].astype(np.int32), arrays["distances"].astype(np.float32))

    def arrays(self) -> Arrays:
        return {"indices": self.indices, "distances": self.distances}

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
    features: NDArray[np.float32], k: int, *, exact: str = "auto", progress: Progress = silent
) -> Neighbours:
    """Find each image's k nearest others by exact search.

    Args:
        features: Shape (num_images, num_features).
        exact: The search: faiss, sklearn, or auto (faiss if it is installed).

    Raises:
        StoreError: there are only k images or fewer.
    """
    if k >= len(features):
        raise StoreError(
            f"{k} neighbours asked for among {len(features)} images; expected fewer neighbours than images"
        )
    directions = directions_of(features)
    search = _faiss if exact == "faiss" or (exact == "auto" and _has_faiss()) else _sklearn
    indices = np.empty((len(features), k), dtype=np.int32)
    distances = np.empty((len(features), k), dtype=np.float32)
    with progress("nearest neighbours", total=len(features), unit="img") as step:
        for start, nearest, squared in search(directions, k + 1):
            rows = np.arange(start, start + len(nearest))
            kept = nearest != rows[:, None]
            kept[kept.all(axis=1), -1] = False  # more than k twins hide the image itself: drop the last twin
            indices[rows] = nearest[kept].reshape(-1, k)
            distances[rows] = np.sqrt(np.maximum(squared[kept].reshape(-1, k), 0))
            step(len(rows))
    return Neighbours(indices, distances)


def directions_of(
    features: NDArray[np.float32], *, centre: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Unit vectors from a centre, by default the mean, to each image, (num_images, num_features)."""
    directions = np.array(features, dtype=np.float32)
    directions -= directions.mean(axis=0) if centre is None else centre
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    return directions


_Blocks = Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]


def _has_faiss() -> bool:
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


def _faiss(directions: NDArray[np.float32], k: int) -> _Blocks:
    import faiss

    for start in range(0, len(directions), _BLOCK):
        block = directions[start : start + _BLOCK]
        similarities, nearest = faiss.knn(block, directions, k, metric=faiss.METRIC_INNER_PRODUCT)
        yield start, nearest, 2 - 2 * similarities


def _sklearn(directions: NDArray[np.float32], k: int) -> _Blocks:
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    with config_context(working_memory=_WORKING_MIB):
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean").fit(directions)
        for start in range(0, len(directions), _BLOCK):
            squared, nearest = search.kneighbors(directions[start : start + _BLOCK])
            yield start, nearest, squared.astype(np.float32)
