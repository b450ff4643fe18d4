"""Clusters: images of one driver and clip should show the classes in their usual shares."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from distracted.postprocess.neighbours import directions_of
from distracted.postprocess.smooth import Prior
from distracted.postprocess.step import LogProbs, Subset, normalised
from distracted.progress import Progress, silent

#: Images that a cluster holds on average.
SIZES = (25, 50, 100, 200, 400)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
MOST_DIMENSIONS = 64
_STEPS = 100

#: Of each image its cluster, by the clusters' mean size; shape (num_images,).
Clusters = Mapping[int, NDArray[np.int32]]


@dataclass(frozen=True)
class Matching:
    """How far the mean prediction of a cluster is moved to the prior.

    Attributes:
        space: Of the features that are clustered; size: the clusters' mean size.
        strength: 0: not at all, 1: wholly (a small cluster less: n / (n + num_classes) as far).
    """

    space: str
    size: int
    strength: float


@dataclass(frozen=True, eq=False)
class ClusterMatch:
    """A bias per class for each cluster, towards the class prior.

    Clusters are made of features alone: no subject and no label is read.
    """

    spaces: Mapping[str, Callable[[Subset], Clusters]]
    candidates: Sequence[Matching]
    uses_prior: ClassVar[bool] = True

    def smoothed(
        self, log_probs: LogProbs, part: Subset, prior: Prior, candidates: Sequence[Matching]
    ) -> Iterator[tuple[Matching, NDArray[np.float64]]]:
        biases: dict[tuple[str, int], NDArray[np.float64]] = {}
        for candidate in candidates:
            key = candidate.space, candidate.size
            if key not in biases:
                clusters = self.spaces[candidate.space](part)[candidate.size]
                biases[key] = cluster_bias(log_probs, clusters, prior)
            yield candidate, normalised(log_probs + candidate.strength * biases[key])


def matchings(spaces: Sequence[str], *, most: int) -> list[Matching]:
    """All settings in some spaces with clusters of at most so many images."""
    sizes = [size for size in SIZES if size <= most]
    return [Matching(*values) for values in product(spaces, sizes, STRENGTHS)]


def find_clusters(
    features: NDArray[np.float32], sizes: Sequence[int], *, seed: int = 0, progress: Progress = silent
) -> Clusters:
    """k-means on the features' directions, in at most 64 principal components, for each mean size."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    directions = directions_of(features)
    dimensions = min(MOST_DIMENSIONS, *directions.shape)
    reduced = PCA(dimensions, svd_solver="randomized", random_state=seed).fit_transform(directions)
    found = {}
    with progress("clusters", total=len(sizes), unit="size") as step:
        for size in sizes:
            kmeans = MiniBatchKMeans(max(1, round(len(reduced) / size)), n_init=3, random_state=seed)
            found[size] = kmeans.fit_predict(reduced).astype(np.int32)
            step()
    return found


def cluster_bias(log_probs: LogProbs, clusters: NDArray[np.int32], prior: Prior) -> NDArray[np.float64]:
    """What to add to each image's log-probabilities so that its cluster's mean meets the prior.

    Sinkhorn's alternation within each cluster; a bias is drawn to zero by n / (n + num_classes) where the
    cluster has n images. Shape (num_images, num_classes).
    """
    num_clusters = int(clusters.max()) + 1
    counts = np.maximum(np.bincount(clusters, minlength=num_clusters), 1)
    shares = csr_array(
        (1 / counts[clusters], (clusters, np.arange(len(clusters)))), shape=(num_clusters, len(clusters))
    )
    bias = np.zeros((num_clusters, log_probs.shape[1]))
    for _ in range(_STEPS):
        means = shares @ np.exp(normalised(log_probs + bias[clusters]))
        bias += np.log(prior) - np.log(np.maximum(means, 1e-300))
    bias -= bias.mean(axis=1, keepdims=True)
    drawn = counts / (counts + log_probs.shape[1])
    found: NDArray[np.float64] = (bias * drawn[:, None])[clusters]
    return found
