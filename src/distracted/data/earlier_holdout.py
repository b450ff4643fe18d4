"""The inner holdout of trainings that version 0.2.0 or an earlier one began: they go on with the same rows.

Later checkpoints hold their holdout's rows, so that no other method has to be kept.
"""

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distracted.data.folds import Folds
from distracted.errors import FoldsError

Ints = NDArray[np.int64]

_NUM_SEEDS, _MOST_GROUPS = 32, 32_000
_NUM_RANDOM = 1000


def earlier_holdout(folds: Folds, fold: int, *, share: float, seed: int) -> Ints:
    """The rows that those versions held back for early stopping; arguments as in `split_holdout`.

    Raises:
        FoldsError: this version of scikit-learn finds no split.
    """
    rows = folds.train(fold)
    if share == 0:
        return np.empty(0, dtype=np.int64)
    labels, subjects = folds.labels[rows], folds.subjects[rows]
    num_subjects = len(np.unique(subjects))
    for num_parts in range(min(max(2, round(1 / share)), num_subjects), 1, -1):
        for candidates in (_stratified, _at_random):
            parts = _best(labels, num_parts, candidates(labels, subjects, num_parts, seed))
            if parts is not None:
                held_back: Ints = rows[parts == 0]
                return held_back
    raise FoldsError(
        f"fold {fold}: the inner holdout that this training was begun with cannot be found again; "
        "begin again (FORCE=1)"
    )


def _best(labels: Ints, num_parts: int, candidates: Iterator[Ints]) -> Ints | None:
    """The best balanced candidate that leaves every class outside of each part and no part empty."""
    counts = np.bincount(labels)
    best: tuple[float, Ints] | None = None
    for ids in candidates:
        held_out = np.stack([np.bincount(labels[ids == f], minlength=len(counts)) for f in range(num_parts)])
        if (held_out == counts).any() or (held_out.sum(axis=1) == 0).any():
            continue
        expected = counts / num_parts
        sizes = held_out.sum(axis=1)
        score = float(((held_out - expected) ** 2 / expected).sum())
        score += float(((sizes - sizes.mean()) ** 2 / sizes.mean()).sum() * len(counts))
        if best is None or score < best[0]:
            best = score, ids
    return None if best is None else best[1]


def _stratified(labels: Ints, subjects: Ints, num_parts: int, seed: int) -> Iterator[Ints]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import

    num_subjects = len(np.unique(subjects))
    by_image = num_subjects == len(subjects)
    num_seeds = 1 if by_image else max(1, min(_NUM_SEEDS, _MOST_GROUPS // num_subjects))
    for number in range(num_seeds):
        splitter = (StratifiedKFold if by_image else StratifiedGroupKFold)(
            num_parts, shuffle=True, random_state=(seed + number) % 2**32
        )
        ids = np.full(len(labels), -1, dtype=np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than parts: see `_best`
            for part, (_, valid) in enumerate(splitter.split(labels, labels, None if by_image else subjects)):
                ids[valid] = part
        yield ids


def _at_random(labels: Ints, subjects: Ints, num_parts: int, seed: int) -> Iterator[Ints]:
    for number in range(_NUM_RANDOM):
        part_of_subject = np.random.default_rng(seed + number).integers(0, num_parts, int(subjects.max()) + 1)
        yield part_of_subject[subjects]
