"""Clusters: images of one driver and clip should show the classes in their usual shares."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distracted.postprocess.method import Method, Prior
from distracted.postprocess.neighbours import directions_of
from distracted.postprocess.spaces import Arrays
from distracted.postprocess.step import LogProbs, normalised, target_means
from distracted.progress import Progress, silent

#: Mean numbers of images in a cluster.
SIZES = (25, 50, 100, 200, 400)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
MAX_DIMENSIONS = 64
_STEPS = 100


@dataclass(frozen=True, eq=False)
class Clusters:
    """Each image's cluster, (num_images,), by the clusters' mean size."""

    by_size: Mapping[int, NDArray[np.int32]]
    kind: ClassVar[str] = "clusters"
    key: ClassVar[str] = f"{SIZES} {MAX_DIMENSIONS}"
    of_all_drivers: ClassVar[bool] = False

    @classmethod
    def build(cls, features: NDArray[np.float32], progress: Progress) -> Self:
        return cls(find_clusters(features, SIZES, progress=progress))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        return cls({int(size): clusters.astype(np.int32) for size, clusters in arrays.items()})

    def arrays(self) -> Arrays:
        return {str(size): clusters for size, clusters in self.by_size.items()}


@dataclass(frozen=True)
class ClusterMatch(Method):
    """A bias per class for each cluster, towards the class prior.

    Clusters are made from features alone: no subject and no label is read.

    Attributes:
        size: Mean size of the clusters.
        strength: 0: the cluster's mean prediction stays; 1: it moves all the way to the prior, in a cluster
            of n images n / (n + num_classes) of the way.
    """

    space: str
    size: int
    strength: float
    name: ClassVar[str] = "clusters"
    index: ClassVar[type[Clusters]] = Clusters
    uses_prior: ClassVar[bool] = True
    example: ClassVar[str] = "size=100 strength=0.5"

    @classmethod
    def candidates(cls, spaces: Sequence[str], limits: Mapping[str, int]) -> list[Self]:
        sizes = [size for size in SIZES if size <= limits["size"]]
        return [cls(*values) for values in product(spaces, sizes, STRENGTHS)]

    def smooth(self, log_probs: LogProbs, index: Clusters, prior: Prior) -> LogProbs:
        bias = cluster_bias(log_probs, index.by_size[self.size], prior)
        return normalised(log_probs + self.strength * bias)

    @classmethod
    def smooth_all(
        cls, candidates: Sequence[Self], log_probs: LogProbs, index: Clusters, prior: Prior
    ) -> Iterator[tuple[Self, LogProbs]]:
        """Candidates that differ only in `strength` share their bias."""
        sizes = {candidate.size for candidate in candidates}
        biases = {size: cluster_bias(log_probs, index.by_size[size], prior) for size in sizes}
        for candidate in candidates:
            yield candidate, normalised(log_probs + candidate.strength * biases[candidate.size])


def find_clusters(
    features: NDArray[np.float32], sizes: Sequence[int], *, seed: int = 0, progress: Progress = silent
) -> dict[int, NDArray[np.int32]]:
    """k-means on the features' directions, in at most 64 principal components, for each mean size."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    directions = directions_of(features)
    dimensions = min(MAX_DIMENSIONS, *directions.shape)
    reduced = PCA(dimensions, svd_solver="randomized", random_state=seed).fit_transform(directions)
    clusters = {}
    with progress("clusters", total=len(sizes), unit="size") as step:
        for size in sizes:
            kmeans = MiniBatchKMeans(max(1, round(len(reduced) / size)), n_init=3, random_state=seed)
            clusters[size] = kmeans.fit_predict(reduced).astype(np.int32)
            step()
    return clusters


def cluster_bias(log_probs: LogProbs, clusters: NDArray[np.int32], prior: Prior) -> NDArray[np.float64]:
    """What to add to each image's log-probabilities so that its cluster's mean meets the prior.

    Sinkhorn's alternation within each cluster; the bias of a cluster of n images is shrunk by
    n / (n + num_classes). A class with a share of 0 keeps its mean. Shape (num_images, num_classes).
    """
    from scipy.sparse import csr_array

    num_clusters = int(clusters.max()) + 1
    counts = np.maximum(np.bincount(clusters, minlength=num_clusters), 1)
    shape = num_clusters, len(clusters)
    shares = csr_array((1 / counts[clusters], (clusters, np.arange(len(clusters)))), shape=shape)
    bias = np.zeros((num_clusters, log_probs.shape[1]))
    target = target_means(prior, shares @ np.exp(normalised(log_probs)))
    for _ in range(_STEPS):
        means = shares @ np.exp(normalised(log_probs + bias[clusters]))
        bias += np.log(target) - np.log(np.maximum(means, 1e-300))
    bias -= bias.mean(axis=1, keepdims=True)
    shrinkage = counts / (counts + log_probs.shape[1])
    shrunk: NDArray[np.float64] = (bias * shrinkage[:, None])[clusters]
    return shrunk
