"""Splits rows into parts of equal size and class shares, each subject in one part."""

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_NUM_SEEDS = 32  # StratifiedGroupKFold can give poor folds when groups are few: the best of these is kept
_NUM_DEALS = 1000


def split_by_subject(
    labels: NDArray[np.int64], subjects: NDArray[np.int64], num_parts: int, *, seed: int = 0
) -> NDArray[np.int64] | None:
    """The part of each row, 0-based, each subject in one part; None if there is no good split.

    StratifiedGroupKFold is run under several seeds. Of the splits that leave every class on each training
    side, the one with class counts nearest to equal shares is taken. If there is none, as can happen with
    few subjects, the subjects are dealt out at random, many times. Subjects with one image each need no
    groups.

    Args:
        labels: Class ids, shape (num_rows,).
        subjects: Subject ids, not all of them need occur, shape (num_rows,).
    """
    ids = _best(labels, num_parts, _stratified(labels, subjects, num_parts, seed))
    return ids if ids is not None else _best(labels, num_parts, _dealt(subjects, num_parts, seed))


def _best(
    labels: NDArray[np.int64], num_parts: int, candidates: Iterator[NDArray[np.int64]]
) -> NDArray[np.int64] | None:
    """The best balanced of the splits that leave every class on each training side."""
    counts = np.bincount(labels)
    best: tuple[float, NDArray[np.int64]] | None = None
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


def _stratified(
    labels: NDArray[np.int64], subjects: NDArray[np.int64], num_parts: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import

    by_image = len(np.unique(subjects)) == len(subjects)
    for number in range(1 if by_image else _NUM_SEEDS):
        splitter = (StratifiedKFold if by_image else StratifiedGroupKFold)(
            num_parts, shuffle=True, random_state=(seed + number) % 2**32
        )
        ids = np.full(len(labels), -1, dtype=np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class rarer than parts: `_best` sees to it
            for part, (_, valid) in enumerate(splitter.split(labels, labels, None if by_image else subjects)):
                ids[valid] = part
        yield ids


def _dealt(subjects: NDArray[np.int64], num_parts: int, seed: int) -> Iterator[NDArray[np.int64]]:
    for number in range(_NUM_DEALS):
        dealt = np.random.default_rng(seed + number).integers(0, num_parts, int(subjects.max()) + 1)
        yield dealt[subjects]
