"""How evenly rows and classes are spread over the folds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distracted.data.split import part_counts


@dataclass(frozen=True)
class Balance:
    """The largest deviations of the held-out sides from even ones.

    Attributes:
        size: The largest |rows / mean rows of a fold - 1|, in fold `size_fold`.
        share: The largest |share of a class in a fold - its share in all folds|, of class `share_class` in
            fold `share_fold`.
        imbalance: Sum over folds and classes of (rows - even rows)^2 / even rows, plus the same sum over the
            folds' sizes times the number of classes; `make folds` minimises it.
    """

    size: float
    size_fold: int
    share: float
    share_fold: int
    share_class: int
    imbalance: float


def measure_balance(labels: NDArray[np.int64], parts: NDArray[np.int64], num_parts: int) -> Balance:
    """The balance of the rows that are held out in some fold.

    Args:
        labels: Class ids, shape (num_rows,).
        parts: Fold of each row, shape (num_rows,); rows of fold -1 are left out.
    """
    counts = part_counts(labels, parts, num_parts)
    sizes, even = counts.sum(axis=1), counts.sum(axis=0) / num_parts
    by_size = np.abs(sizes / sizes.mean() - 1)
    by_share = np.abs(counts / sizes[:, None] - even / even.sum())
    share_fold, share_class = np.unravel_index(int(by_share.argmax()), by_share.shape)
    by_class = (counts - even)[:, even > 0] ** 2 / even[even > 0]
    return Balance(
        size=float(by_size.max()),
        size_fold=int(by_size.argmax()),
        share=float(by_share.max()),
        share_fold=int(share_fold),
        share_class=int(share_class),
        imbalance=float(by_class.sum() + (by_size**2).sum() * sizes.mean() * by_class.shape[1]),
    )
