"""Exact search for nearest neighbours by inner product, with faiss if it is installed, else scikit-learn."""

from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_WORKING_MIB = 512  # memory that scikit-learn may take for distances

Engine = Literal["auto", "faiss", "sklearn"]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def knn(queries: Floats, among: Floats, k: int, *, engine: Engine = "auto") -> tuple[Ints, Floats]:
    """The k nearest of some unit vectors to each query.

    Args:
        queries: Unit vectors, (num_queries, num_features).
        among: Unit vectors, k or more, (num_vectors, num_features).
        engine: auto takes faiss if it is installed.

    Returns:
        Positions in `among` from the nearest on, and squared distances, both (num_queries, k).
    """
    return (_faiss if uses_faiss(engine) else _sklearn)(queries, among, k)


def uses_faiss(engine: Engine) -> bool:
    """Whether faiss is asked for, or installed and may be used."""
    return engine == "faiss" or (engine == "auto" and find_spec("faiss") is not None)


def _faiss(queries: Floats, among: Floats, k: int) -> tuple[Ints, Floats]:
    import faiss

    similarities, nearest = faiss.knn(queries, among, k, metric=faiss.METRIC_INNER_PRODUCT)
    return nearest, 2 - 2 * similarities


def _sklearn(queries: Floats, among: Floats, k: int) -> tuple[Ints, Floats]:
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    with config_context(working_memory=_WORKING_MIB):
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean").fit(among)
        squared, nearest = search.kneighbors(queries)
    return nearest, squared.astype(np.float32)
