"""Subjects that look alike: perhaps one person under two names, on both sides of a split."""

import numpy as np
from numpy.typing import NDArray

from distracted.audit.findings import Check, as_findings
from distracted.predictions.store import Store

_DIMENSIONS = 64
_SHRINK = 0.5  # of the covariance within subjects towards a multiple of the identity
_SPLITS = 16
_LEAST_IMAGES = 4  # of a subject: it has to be halved
_LEAST_SUBJECTS = 3
_ALIKE = 0.9  # two subjects are as alike as each is to itself, or nearly
_MOST = 20


def subject_likeness(
    features: NDArray[np.float32], labels: NDArray[np.int64], subjects: NDArray[np.int64], *, seed: int = 0
) -> NDArray[np.float64]:
    """How much two subjects are alike, as a share of how much each is like itself, (num, num).

    Features less their class's mean, in the directions in which subjects vary least within themselves
    (whitened by the covariance within subjects, as in linear discriminant analysis). A subject's likeness to
    itself is the cosine of the means of two halves of its images, to another that of halves of both, so that
    all are means of as many images; over some splits.

    Args:
        features: Of a pretrained network, (num_images, num_features).
        labels: Class ids; subjects: 0..S-1, each with two images at least, (num_images,).
    """
    rows = _whiten(features, labels, subjects)
    num = int(subjects.max()) + 1
    rng = np.random.default_rng(seed)
    cosines = np.zeros((num, num))
    for _ in range(_SPLITS):
        order = rng.permutation(len(subjects))
        rank = np.empty(len(subjects), dtype=np.int64)  # of an image among its subject's
        for subject in range(num):
            own = order[subjects[order] == subject]
            rank[own] = np.arange(len(own))
        halves = [_means(rows[rank % 2 == half], subjects[rank % 2 == half], num) for half in (0, 1)]
        cosines += halves[0] @ halves[1].T / _SPLITS
    cosines = (cosines + cosines.T) / 2
    own_likeness = np.maximum(np.diag(cosines), 0.05)
    likeness: NDArray[np.float64] = cosines / np.sqrt(np.outer(own_likeness, own_likeness))
    return likeness


def check_alike(store: Store, features: NDArray[np.float32], shows: NDArray[np.bool_]) -> Check:
    """Look for pairs of subjects that are as alike as each is to itself.

    Args:
        features: Of the training images, in a pretrained network; shows: which of them show something.
    """
    about = (
        "As alike, in a pretrained network's features, as each is to itself: perhaps one person under two "
        "names, which leaks where a fold parts them; perhaps only the same clothes, seat or light. A list to "
        "look at, not a verdict."
    )
    subjects, labels = store.folds.subjects, store.folds.labels
    names = np.sort(store.competition.train["subject"].unique())
    counts = np.bincount(subjects[shows], minlength=len(names))
    large = np.flatnonzero(counts >= _LEAST_IMAGES)
    taken = shows & np.isin(subjects, large)
    pairs: list[dict[str, object]] = []
    if store.competition.config.columns.group is not None and len(large) >= _LEAST_SUBJECTS:
        ids = np.searchsorted(large, subjects[taken])
        likeness = subject_likeness(features[taken], labels[taken], ids)
        upper = np.argwhere(np.triu(likeness, 1) >= _ALIKE)
        folds = store.folds.table.groupby("subject")["fold"].first()
        ranked = sorted(upper.tolist(), key=lambda pair: -likeness[pair[0], pair[1]])
        for left, right in ranked[:_MOST]:
            subject, other = str(names[large[left]]), str(names[large[right]])
            pairs.append(
                {
                    **_example(store, subject, shows, ""),
                    **_example(store, other, shows, "other"),
                    "value": float(likeness[left, right]),
                    "note": "in one fold" if folds[subject] == folds[other] else "in two folds",
                }
            )
    findings = as_findings(pairs)
    return Check("alike_subjects", "Subjects that look alike", about, "note", findings, value="likeness")


def _example(store: Store, subject: str, shows: NDArray[np.bool_], prefix: str) -> dict[str, str]:
    """A subject's first image that shows something."""
    train = store.competition.train
    row = int(np.flatnonzero((train["subject"] == subject).to_numpy() & shows)[0])
    found = {"img": train["img"].iloc[row], "part": "train", "subject": subject}
    if not prefix:
        return found
    return {"other": found["img"], "other_part": "train", "other_subject": subject}


def _whiten(
    features: NDArray[np.float32], labels: NDArray[np.int64], subjects: NDArray[np.int64]
) -> NDArray[np.float64]:
    rows = features.astype(np.float64)
    rows -= _means(rows, labels, int(labels.max()) + 1, normed=False)[labels]
    dimensions = min(_DIMENSIONS, rows.shape[1], len(rows) - 1)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    rows = rows @ vectors[:, -dimensions:]
    within = rows - _means(rows, subjects, int(subjects.max()) + 1, normed=False)[subjects]
    covariance = within.T @ within / len(rows)
    trace = np.trace(covariance) / dimensions
    covariance = (1 - _SHRINK) * covariance + _SHRINK * max(trace, 1e-12) * np.eye(dimensions)
    whitened: NDArray[np.float64] = np.linalg.solve(np.linalg.cholesky(covariance), rows.T).T
    lengths = np.linalg.norm(whitened, axis=1, keepdims=True)
    unit: NDArray[np.float64] = whitened / np.maximum(lengths, 1e-12)
    return unit


def _means(
    rows: NDArray[np.float64], ids: NDArray[np.int64], num: int, *, normed: bool = True
) -> NDArray[np.float64]:
    """Mean row of each id, of length 1 where `normed`."""
    sums = np.zeros((num, rows.shape[1]))
    np.add.at(sums, ids, rows)
    if not normed:
        return sums / np.maximum(np.bincount(ids, minlength=num), 1)[:, None]
    scaled: NDArray[np.float64] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return scaled
