"""The nearest images of each image in a feature space, by exact search."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distracted.errors import StoreError
from distracted.progress import Progress, silent

_BLOCK = 1024  # images whose neighbours are searched at a time
_WORKING_MIB = 512  # what scikit-learn may take for distances


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Of each image of a set its nearest others in the set.

    Attributes:
        indices: From the nearest on, itself left out, (num_images, k) int32.
        distances: Between directions of features seen from the set's mean: 0 the same, about 1.4 two images
            that have nothing in common, at most 2; (num_images, k) float32.
    """

    indices: NDArray[np.int32]
    distances: NDArray[np.float32]

    @property
    def k(self) -> int:
        return int(self.indices.shape[1])

    def thinned(self, share: float, rng: np.random.Generator) -> "Neighbours":
        """The same as if only a random share of the images could be neighbours; places left over are at an
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
        exact: What searches: faiss, sklearn, or auto: faiss where it is installed.

    Raises:
        StoreError: there are not more than k images.
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
        for start, found, squared in search(directions, k + 1):
            rows = np.arange(start, start + len(found))
            kept = found != rows[:, None]
            kept[kept.all(axis=1), -1] = False  # as many images lie where it lies: the last of them goes
            indices[rows] = found[kept].reshape(-1, k)
            distances[rows] = np.sqrt(np.maximum(squared[kept].reshape(-1, k), 0))
            step(len(rows))
    return Neighbours(indices, distances)


def directions_of(
    features: NDArray[np.float32], *, centre: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Features seen from a centre, by default their mean, each at length 1, (num_images, num_features)."""
    directions = np.array(features, dtype=np.float32)
    directions -= directions.mean(axis=0) if centre is None else centre
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    return directions


_Found = Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]


def _has_faiss() -> bool:
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


def _faiss(directions: NDArray[np.float32], k: int) -> _Found:
    import faiss

    for start in range(0, len(directions), _BLOCK):
        similarities, found = faiss.knn(
            directions[start : start + _BLOCK], directions, k, metric=faiss.METRIC_INNER_PRODUCT
        )
        yield start, found, 2 - 2 * similarities


def _sklearn(directions: NDArray[np.float32], k: int) -> _Found:
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    with config_context(working_memory=_WORKING_MIB):
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean").fit(directions)
        for start in range(0, len(directions), _BLOCK):
            squared, found = search.kneighbors(directions[start : start + _BLOCK])
            yield start, found, squared.astype(np.float32)
