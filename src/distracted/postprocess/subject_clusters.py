"""Which images show one subject: clusters of light, colours and background, without a name or a label.

How subjects differ is learned from those of the training side: the moments of a pretrained network's first
maps are whitened by their spread within a subject, as in linear discriminant analysis. A fold's held-out
images are clustered together with the test set, so that they are told apart among as many as test images are.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from distracted.errors import ConfigError, DataError
from distracted.postprocess.spaces import Arrays, Space, keep, num_images
from distracted.postprocess.step import Subset
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

if TYPE_CHECKING:
    from distracted.training.resolve import Resolved

_DIMENSIONS = 128  # principal components at most
_FEWEST = 5  # images a subject; with fewer, what a subject adds cannot be told from chance
_LARGE = 50_000_000  # images times clusters, from which k-means looks at some of the images at a time
_SHRINKAGE = 0.2  # of the spread within subjects towards a multiple of the identity
_VERSION = 1  # raised when the clusters change


@dataclass(frozen=True, eq=False)
class SubjectClusters:
    """The cluster of each image of a subset, (num_images,); the numbers of a fold's two subsets agree."""

    clusters: NDArray[np.int64]
    kind: ClassVar[str] = "subjects"

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        return cls(arrays["clusters"].astype(np.int64))

    def arrays(self) -> Arrays:
        return {"clusters": self.clusters}


def find_subjects(
    known: NDArray[np.float32], subjects: NDArray[np.int64], unknown: NDArray[np.float32], *, seed: int = 0
) -> NDArray[np.int64]:
    """Cluster images by subject, into clusters as large as a known subject on average.

    Where known subjects have fewer than five images on average, each image is a cluster of its own.

    Args:
        known: Features of images whose subjects are known, (num_known, num_features).
        subjects: Their subject ids, (num_known,).
        unknown: Features of the images to cluster, (num_unknown, num_features).

    Returns:
        Cluster of each image, (num_unknown,).
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    size = len(known) / len(np.unique(subjects))
    if size < _FEWEST:
        return np.arange(len(unknown))
    with threadpool_limits(1):  # the sums of several threads are rounded differently each time
        rows = _whitened(known, subjects, unknown)
        num_clusters = min(len(np.unique(rows, axis=0)), max(1, round(len(rows) / size)))
        kind = KMeans if len(rows) * num_clusters <= _LARGE else MiniBatchKMeans
        kmeans = kind(num_clusters, n_init=3, max_iter=100, random_state=seed)
        clusters: NDArray[np.int64] = kmeans.fit_predict(rows).astype(np.int64)
    return clusters


def _whitened(
    known: NDArray[np.float32], subjects: NDArray[np.int64], unknown: NDArray[np.float32]
) -> NDArray[np.float64]:
    from sklearn.decomposition import PCA

    mean, scale = known.mean(axis=0, dtype=np.float64), known.std(axis=0, dtype=np.float64) + 1e-6
    pca = PCA(min(_DIMENSIONS, *known.shape), svd_solver="full").fit((known - mean) / scale)
    rows, others = (pca.transform((features - mean) / scale) for features in (known, unknown))
    _, ids, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), rows.shape[1]))
    np.add.at(means, ids, rows)
    within = rows - (means / counts[:, None])[ids]
    covariance = within.T @ within / len(rows)
    average = max(np.trace(covariance) / len(covariance), 1e-12)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * average * np.eye(len(covariance))
    whitened: NDArray[np.float64] = np.linalg.solve(np.linalg.cholesky(covariance), others.T).T
    return whitened


def subject_space(store: Store, resolved: "Resolved", *, progress: Progress = silent) -> Space:
    """The clusters of each fold's held-out images and of the test set, from files if they are there.

    For fold k, only subjects of the other folds are read.

    Raises:
        DataError: the data name no subjects.
        ConfigError: the network has no pretrained weights.
    """
    from distracted.data.picture_sets import Images
    from distracted.training.feed import pretrained_styles

    competition, config = store.competition, resolved.config
    if not competition.config.has_subjects:
        raise DataError(f"{competition.config.folder}: the data name no subjects to learn from")
    if not resolved.weights.pretrained:
        raise ConfigError(
            f"MODEL: {config.model.backbone} has no pretrained weights here, and random features do not tell "
            "subjects apart; expected a network that has, such as efficientnet_lite0"
        )
    start = time.perf_counter()
    sets = [Images.to_train(competition), Images.to_test(competition)]
    train, test = pretrained_styles(resolved, sets, store.workspace.cache(competition.name), progress)
    keys: dict[Subset, str] = {}
    with progress("subjects", total=store.folds.num_folds, unit="fold") as step:
        for fold in range(store.folds.num_folds):
            keys |= _keep_fold(store, fold, train, test)
            step()
    kinds = {SubjectClusters.kind: keys}
    description = config.model.model_dump(mode="json")
    folder = store.workspace.spaces(competition.name)
    return Space(folder, kinds, num_images(store), description, time.perf_counter() - start)


def _keep_fold(
    store: Store, fold: int, train: NDArray[np.float32], test: NDArray[np.float32]
) -> Mapping[Subset, str]:
    """Make a fold's files unless they exist; returns their keys."""
    folder, valid = store.workspace.spaces(store.competition.name), store.folds.valid(fold)
    known = np.setdiff1d(np.arange(len(train)), valid)
    _, subjects = np.unique(store.folds.subjects[known], return_inverse=True)
    held_out = train[valid]
    digest = sha256(f"{SubjectClusters.kind} {_VERSION} {held_out.shape} {test.shape}".encode())
    for array in (train[known], subjects, held_out, test):
        digest.update(np.ascontiguousarray(array).data)
    key = digest.hexdigest()[:30]
    keys = {Subset(fold): f"{key}-v", Subset(fold, test=True): f"{key}-t"}
    if not all((folder / f"{name}.npz").is_file() for name in keys.values()):
        clusters = find_subjects(train[known], subjects, np.concatenate([held_out, test]))
        for name, part in zip(keys.values(), np.split(clusters, [len(valid)]), strict=True):
            keep(folder, name, SubjectClusters(part))
    return keys
