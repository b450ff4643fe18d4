"""Split rows by subject into parts of equal size and class balance."""

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_NUM_SEEDS = 32  # with few groups a single StratifiedGroupKFold can be poor: take the best of these
_MOST_GROUPS = 32_000  # of all seeds together: each group takes about 0.2 ms
_NUM_RANDOM = 1000


def split_by_subject(
    labels: NDArray[np.int64], subjects: NDArray[np.int64], num_parts: int, *, seed: int = 0
) -> NDArray[np.int64] | None:
    """Assign each row to a part so that no subject is in two parts and every class is outside of each part.

    StratifiedGroupKFold runs with several seeds, and the valid split with the most equal class counts wins.
    It can find none with a handful of subjects; then subjects are assigned at random, many times. If each
    image is its own subject, StratifiedKFold does without groups.

    Args:
        labels: Class ids, shape (num_rows,).
        subjects: Subject ids, shape (num_rows,); ids may have gaps.

    Returns:
        Part of each row, 0-based, shape (num_rows,); None if no valid split was found.
    """
    parts = _best(labels, num_parts, _stratified(labels, subjects, num_parts, seed))
    return parts if parts is not None else _best(labels, num_parts, _at_random(subjects, num_parts, seed))


def _best(
    labels: NDArray[np.int64], num_parts: int, candidates: Iterator[NDArray[np.int64]]
) -> NDArray[np.int64] | None:
    """The best balanced candidate that leaves every class outside of each part and no part empty."""
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


def _at_random(subjects: NDArray[np.int64], num_parts: int, seed: int) -> Iterator[NDArray[np.int64]]:
    for number in range(_NUM_RANDOM):
        part_of_subject = np.random.default_rng(seed + number).integers(0, num_parts, int(subjects.max()) + 1)
        yield part_of_subject[subjects]
