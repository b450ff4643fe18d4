"""Neighbours among many images, by faiss: inverted lists over principal components, checked by exact search.

An image is compared with those of the nearest lists only (Jegou et al., PAMI 2011), first by its principal
components, then the best of them by all features. The number of lists is doubled until the neighbours of a
sample are the exact ones, and the recall is measured on another sample.
"""

import math
from collections.abc import Iterator

import numpy as np

from distracted.postprocess.knn import Floats, Ints, knn

#: Share of the exact neighbours that has to be found.
MIN_RECALL = 0.999
_AIM = 0.9993  # on the sample that chooses, so that the one that measures passes
_SAMPLE = 1000  # images of each of the two samples
_COMPONENTS = 256
_FIRST_PROBES = 16  # lists, before they are doubled
_KEPT = 4  # candidates for each neighbour that are compared by all features
_WORTH = 0.4  # share of the lists; where more have to be probed, exact search takes as long
_PER_LIST = 64  # images a list that components and lists are fitted on
_BLOCK = 4096  # images whose neighbours are searched at a time
_ROUNDING = 1e-5  # of squared distances between unit vectors


class InvertedLists:
    """An index of unit vectors, (num_images, num_features), in which an image's k nearest are searched.

    Attributes:
        num_lists: Lists in all.
        probes: Lists that an image is compared with.
    """

    def __init__(self, directions: Floats, k: int, *, seed: int = 0) -> None:
        import faiss

        num_images, num_features = directions.shape
        rng = np.random.default_rng(seed)
        self.num_lists, self.probes = 4 * math.isqrt(num_images), _FIRST_PROBES
        components = min(_COMPONENTS, num_features)
        self._lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(components), components, self.num_lists)
        self._lists.cp.seed = int(rng.integers(2**31))
        self._pca = faiss.PCAMatrix(num_features, components)
        self._reduced = faiss.IndexPreTransform(self._pca, self._lists)
        self._index = faiss.IndexRefineFlat(self._reduced)
        self._index.k_factor = _KEPT
        self._lists.cp.min_points_per_centroid = 1  # its warning would help nobody here
        self._directions, self._k = directions, k
        self._index.train(directions[np.sort(rng.permutation(num_images)[: _PER_LIST * self.num_lists])])
        self._index.add(directions)
        chosen, self._checked = np.sort(rng.permutation(num_images)[: 2 * _SAMPLE].reshape(2, -1))
        self._limit = self._exact(self._checked)
        self._choose(chosen)

    @property
    def is_worth_it(self) -> bool:
        """Whether the search takes less time than an exact one."""
        return self.probes <= _WORTH * self.num_lists

    def widen(self) -> None:
        """Probe twice as many lists."""
        self.probes *= 2

    def search(self) -> Iterator[tuple[Ints, Ints, Floats]]:
        """Some images, the k + 1 nearest of each, itself among them, and squared distances.

        Images of a list follow each other, so that their neighbours stay in the processor's cache. Where the
        probed lists hold fewer images, places left over have index -1.
        """
        order = np.argsort(self._nearest_list(), kind="stable")
        for start in range(0, len(order), _BLOCK):
            rows = order[start : start + _BLOCK]
            yield rows, *self._search(rows)

    def recall(self, distances: Floats) -> float:
        """Share of the exact neighbours of the checked images that were found; equally near ones count.

        Args:
            distances: Distances of the neighbours that were found, for all images, (num_images, k).
        """
        return self._share_found(distances[self._checked] ** 2, self._limit)

    def _choose(self, sample: Ints) -> None:
        limit = self._exact(sample)
        while self.is_worth_it and self._share_found(self._search(sample)[1][:, 1:], limit) < _AIM:
            self.widen()

    def _exact(self, sample: Ints) -> Floats:
        """Squared distance of each image's k-th neighbour."""
        return knn(self._directions[sample], self._directions, self._k + 1)[1][:, -1]

    def _search(self, rows: Ints) -> tuple[Ints, Floats]:
        self._lists.nprobe = self.probes
        squared, nearest = self._index.search(self._directions[rows], self._k + 1)
        return nearest, squared

    def _nearest_list(self) -> Ints:
        blocks = range(0, len(self._directions), _BLOCK)
        reduced = (self._pca.apply(self._directions[start : start + _BLOCK]) for start in blocks)
        return np.concatenate([self._lists.quantizer.search(block, 1)[1][:, 0] for block in reduced])

    @staticmethod
    def _share_found(squared: Floats, limit: Floats) -> float:
        return float((squared <= limit[:, None] + _ROUNDING).mean())
