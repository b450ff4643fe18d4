"""Sample an epoch so that groups of images, such as subjects or classes, count equally."""

import numpy as np
from numpy.typing import NDArray


def balance_groups(groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw num_rows rows in random order, each group equally often (give or take one).

    A group's images repeat only after all of them were drawn. Balanced subjects leave a subject's class
    frequencies as they are; balanced classes teach that all classes are equally frequent.

    Args:
        groups: Group id of each row, shape (num_rows,).

    Returns:
        Row number and how often that row was drawn before in this epoch, shape (num_rows, 2).
    """
    num_rows = len(groups)
    shuffled = rng.permutation(num_rows)
    _, counts = np.unique(groups, return_counts=True)
    starts = np.cumsum(counts) - counts
    by_group = shuffled[np.argsort(groups[shuffled], kind="stable")]  # shuffled within each group
    quotas = np.full(len(counts), num_rows // len(counts))
    quotas[rng.permutation(len(counts))[: num_rows % len(counts)]] += 1
    drawn = np.repeat(np.arange(len(counts)), quotas)  # group of each draw
    turn = np.arange(num_rows) - np.repeat(np.cumsum(quotas) - quotas, quotas)
    rows = by_group[starts[drawn] + turn % counts[drawn]]
    return rng.permutation(np.stack([rows, turn // counts[drawn]], axis=1))
