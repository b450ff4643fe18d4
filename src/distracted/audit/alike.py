"""Pairs of subjects that look alike: perhaps one person under two names, on both sides of a split."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.findings import Check, as_findings
from distracted.predictions.store import Store

_DIMENSIONS = 64  # principal components that are compared
_SHRINKAGE = 0.5  # of the covariance within subjects towards a multiple of the identity
_NUM_SPLITS = 16
_MIN_IMAGES = 4  # per subject, which is split in halves
_MIN_SUBJECTS = 3
_THRESHOLD = 0.9  # 1: two subjects are as similar as each one's halves
_MAX_PAIRS = 20


def subject_similarity(
    features: NDArray[np.float32], labels: NDArray[np.int64], subjects: NDArray[np.int64], *, seed: int = 0
) -> NDArray[np.float64]:
    """Similarity of each pair of subjects relative to that of each subject with itself.

    Class means are subtracted from the features, which are then whitened by the covariance within subjects
    (as in linear discriminant analysis). The images of each subject are split in two halves. The similarity
    of two subjects is the cosine between the mean of a half of one and that of a half of the other, averaged
    over random splits; with itself it is the cosine between its two halves, so that all means are over
    equally many images.

    Args:
        features: Features of a pretrained network, shape (num_images, num_features).
        labels: Class ids, shape (num_images,).
        subjects: Subject ids 0..S-1, each with two images or more, shape (num_images,).

    Returns:
        Shape (num_subjects, num_subjects).
    """
    rows = _whiten(features, labels, subjects)
    num = int(subjects.max()) + 1
    rng = np.random.default_rng(seed)
    cosines = np.zeros((num, num))
    for _ in range(_NUM_SPLITS):
        order = rng.permutation(len(subjects))
        rank = np.empty(len(subjects), dtype=np.int64)  # position of an image among its subject's
        rank[order] = pd.Series(order).groupby(subjects[order]).cumcount()
        halves = [rank % 2 == half for half in (0, 1)]
        first, second = (_normalise(_sums(rows[half], subjects[half], num)) for half in halves)
        cosines += first @ second.T / _NUM_SPLITS
    cosines = (cosines + cosines.T) / 2
    with_itself = np.maximum(np.diag(cosines), 0.05)
    similarity: NDArray[np.float64] = cosines / np.sqrt(np.outer(with_itself, with_itself))
    return similarity


def check_alike(store: Store, features: NDArray[np.float32], shows: NDArray[np.bool_]) -> Check:
    """Look for pairs of subjects that are about as similar as each subject's own images.

    Args:
        features: Features of the training images by a pretrained network.
        shows: Which training images are readable and not blank, shape (num_images,).
    """
    about = (
        "In a pretrained network's features these two are about as similar as each subject's own images. "
        "Perhaps they are one person under two names, which leaks if the two are in different folds; perhaps "
        "they only share clothes, seat or light. A list to look at, not a verdict."
    )
    findings = as_findings(_alike_pairs(store, features, shows))
    return Check("alike_subjects", "Subjects that look alike", about, "note", findings, value="similarity")


def _alike_pairs(
    store: Store, features: NDArray[np.float32], shows: NDArray[np.bool_]
) -> list[dict[str, object]]:
    subjects, labels = store.folds.subjects, store.folds.labels
    train = store.competition.train
    large = np.flatnonzero(np.bincount(subjects[shows]) >= _MIN_IMAGES)
    if not store.competition.config.has_subjects or len(large) < _MIN_SUBJECTS:
        return []
    used = shows & np.isin(subjects, large)
    ids = np.searchsorted(large, subjects[used])
    similarity = subject_similarity(features[used], labels[used], ids)
    first_rows = [int(np.argmax(shows & (subjects == subject))) for subject in large]
    pairs = np.argwhere(np.triu(similarity, 1) >= _THRESHOLD).tolist()
    findings: list[dict[str, object]] = []
    for left, right in sorted(pairs, key=lambda pair: -similarity[pair[0], pair[1]])[:_MAX_PAIRS]:
        one, other = train.iloc[first_rows[left]], train.iloc[first_rows[right]]
        finding = {"img": one["img"], "part": "train", "subject": one["subject"], "other": other["img"]}
        finding |= {"other_part": "train", "other_subject": other["subject"]}
        folds = store.folds.ids[[first_rows[left], first_rows[right]]]
        note = "in one fold" if folds[0] == folds[1] else "in two folds"
        findings.append({**finding, "value": float(similarity[left, right]), "note": note})
    return findings


def _whiten(
    features: NDArray[np.float32], labels: NDArray[np.int64], subjects: NDArray[np.int64]
) -> NDArray[np.float64]:
    rows = features.astype(np.float64)
    rows -= _means(rows, labels, int(labels.max()) + 1)[labels]
    dimensions = min(_DIMENSIONS, rows.shape[1], len(rows) - 1)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    rows = rows @ vectors[:, -dimensions:]
    within = rows - _means(rows, subjects, int(subjects.max()) + 1)[subjects]
    covariance = within.T @ within / len(rows)
    trace = np.trace(covariance) / dimensions
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * max(trace, 1e-12) * np.eye(dimensions)
    whitened: NDArray[np.float64] = np.linalg.solve(np.linalg.cholesky(covariance), rows.T).T
    return _normalise(whitened)


def _means(rows: NDArray[np.float64], ids: NDArray[np.int64], num: int) -> NDArray[np.float64]:
    """Mean row of each id, shape (num, num_columns)."""
    return _sums(rows, ids, num) / np.maximum(np.bincount(ids, minlength=num), 1)[:, None]


def _sums(rows: NDArray[np.float64], ids: NDArray[np.int64], num: int) -> NDArray[np.float64]:
    sums = np.zeros((num, rows.shape[1]))
    np.add.at(sums, ids, rows)
    return sums


def _normalise(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each row to length 1."""
    unit: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
