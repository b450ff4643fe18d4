"""Which rows an epoch draws where subjects, not images, are to count equally."""

import numpy as np
from numpy.typing import NDArray


def balance_subjects(subjects: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many rows as there are, each subject equally often (give or take one), in random order.

    Within a subject no image comes again before all have come, so that its classes keep their shares: evening
    them out, too, would teach other class frequencies than log loss asks for.

    Args:
        subjects: Subject id of each row, shape (num_rows,).

    Returns:
        Positions in `subjects`, and how often each was drawn before in this epoch, shape (num_rows, 2).
    """
    num_rows = len(subjects)
    shuffled = rng.permutation(num_rows)
    _, counts = np.unique(subjects, return_counts=True)
    starts = np.cumsum(counts) - counts
    by_subject = shuffled[np.argsort(subjects[shuffled], kind="stable")]  # in random order within each
    quotas = np.full(len(counts), num_rows // len(counts))
    quotas[rng.permutation(len(counts))[: num_rows % len(counts)]] += 1
    drawn = np.repeat(np.arange(len(counts)), quotas)  # whose turn it is
    turn = np.arange(num_rows) - np.repeat(np.cumsum(quotas) - quotas, quotas)
    rows = by_subject[starts[drawn] + turn % counts[drawn]]
    return rng.permutation(np.stack([rows, turn // counts[drawn]], axis=1))
