"""Sample an epoch so that subjects, not images, count equally."""

import numpy as np
from numpy.typing import NDArray


def balance_subjects(subjects: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw num_rows rows in random order, each subject equally often (give or take one).

    A subject's images repeat only after all of them were drawn, so its class frequencies stay as they are.
    Balancing classes too would teach other frequencies than the data's, which costs log loss.

    Args:
        subjects: Subject id of each row, shape (num_rows,).

    Returns:
        Row number and how often that row was drawn before in this epoch, shape (num_rows, 2).
    """
    num_rows = len(subjects)
    shuffled = rng.permutation(num_rows)
    _, counts = np.unique(subjects, return_counts=True)
    starts = np.cumsum(counts) - counts
    by_subject = shuffled[np.argsort(subjects[shuffled], kind="stable")]  # shuffled within each subject
    quotas = np.full(len(counts), num_rows // len(counts))
    quotas[rng.permutation(len(counts))[: num_rows % len(counts)]] += 1
    drawn = np.repeat(np.arange(len(counts)), quotas)  # subject of each draw
    turn = np.arange(num_rows) - np.repeat(np.cumsum(quotas) - quotas, quotas)
    rows = by_subject[starts[drawn] + turn % counts[drawn]]
    return rng.permutation(np.stack([rows, turn // counts[drawn]], axis=1))
