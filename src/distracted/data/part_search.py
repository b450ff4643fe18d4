"""Divide subjects into parts of nearly equal size and class counts, by moves and swaps of subjects.

All arithmetic is in integers, and the random numbers come from a generator whose stream numpy has frozen: the
same counts and seed give the same parts with every version of every library.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Key = tuple[int, int]

_MOST_AT_ONCE = 256  # subjects whose swaps are compared in one matrix; of more, random samples are taken
_MOST_CELLS = 8_000_000  # of that matrix times the number of classes
_KICKS_A_SUBJECT = 12
_KICK_WORK = 3_000_000  # of all kicks; each compares all pairs of subjects, and looks at all classes
_NUM_SAMPLES = 60  # of subjects, if there are too many to compare them all
_LARGEST = 2**59  # of the imbalance; four times that still fits into 64 bits


def class_weights(totals: Ints, num_parts: int) -> Ints:
    """The weight of a squared deviation in each column: 1 / count; the size weighs as much as all classes.

    Args:
        totals: Rows of each class, and of all together in the last column, shape (num_classes + 1,).

    Returns:
        Integers, shape (num_classes + 1,), so large that rounding does not matter.
    """
    num_classes, num_rows = len(totals) - 1, int(totals[-1])
    scale = _LARGEST // ((num_classes + 1) * num_parts * num_rows)
    weights: Ints = scale * num_parts // np.maximum(totals, 1)
    weights[-1] = scale * num_parts * num_classes // num_rows
    return weights


class PartSearch:
    """An iterated local search for the parts with the least imbalance.

    The imbalance is the sum over parts of (rows of a class - their equal share)^2 / share, over classes, plus
    the same of the parts' sizes times the number of classes. A part without rows, or with all rows of a class
    that must also be outside of it, is a violation; fewer violations count more than any balance.

    Args:
        counts: Rows by subject and class, shape (num_subjects, num_classes).
        required: Whether a class must have rows outside of each part, shape (num_classes,).

    Attributes:
        parts: Part of each subject, shape (num_subjects,).
    """

    def __init__(self, counts: Ints, required: NDArray[np.bool_], num_parts: int, *, seed: int) -> None:
        self._counts: Ints = np.column_stack([counts, counts.sum(axis=1)])
        totals = self._counts.sum(axis=0)
        self._num_parts, self._num_classes = num_parts, counts.shape[1]
        self._weights = class_weights(totals, num_parts)
        self._whole = np.append(np.where(required, totals[:-1], -1), -1)  # no count is -1
        quotient, rest = np.divmod(totals, num_parts)
        best = rest * (quotient + 1) ** 2 + (num_parts - rest) * quotient**2
        self._ideal = 0, int((self._weights * best).sum())
        # The old generator, since the stream of the new ones may change with numpy's version.
        self._rng = np.random.RandomState(seed % 2**32)
        self.parts = np.zeros(len(counts), dtype=np.int64)
        self._sums: Ints = np.zeros((num_parts, self._num_classes + 1), dtype=np.int64)

    @property
    def key(self) -> Key:
        """Number of violations, and imbalance up to a constant: lower is better."""
        return self._violations(self._sums), int((self._weights * self._sums**2).sum())

    def run(self, advance: Callable[[int], None]) -> None:
        """Search; `advance` is called with numbers of subjects that were placed."""
        self._place(advance)
        if len(self.parts) <= self._most_at_once:
            self._search_all()
        else:
            self._search_samples()

    @property
    def _most_at_once(self) -> int:
        return min(_MOST_AT_ONCE, int((_MOST_CELLS // (self._num_classes + 1)) ** 0.5))

    def _violations(self, sums: Ints) -> int:
        return int((sums == self._whole).sum() + (sums[:, -1] == 0).sum())

    def _place(self, advance: Callable[[int], None]) -> None:
        """Start: the largest subjects first, each where it adds least to the imbalance."""
        order = self._rng.permutation(len(self.parts))
        order = order[np.argsort(-self._counts[order, -1], kind="stable")]
        for subject in order:
            row = self._counts[subject]
            part = int((self._sums @ (self._weights * row)).argmin())
            self.parts[subject] = part
            self._sums[part] += row
            advance(1)

    def _search_all(self) -> None:
        """Improve by the best swaps, repeatedly from a kick, which shuffles the subjects of two parts."""
        everybody = np.arange(len(self.parts))
        products = self._products(everybody)
        self._improve(everybody, products)
        best, parts = self.key, self.parts.copy()
        num_affordable = _KICK_WORK // (len(everybody) + self._num_classes) ** 2
        for _ in range(min(_KICKS_A_SUBJECT * len(everybody), num_affordable)):
            if best == self._ideal:
                break
            pair = self._rng.permutation(self._num_parts)[:2]
            both = np.flatnonzero(np.isin(self.parts, pair))
            self._assign(both, self.parts[both][self._rng.permutation(len(both))])
            self._improve(everybody, products)
            if self.key <= best:
                best, parts = self.key, self.parts.copy()
            else:
                self._assign(everybody, parts)

    def _search_samples(self) -> None:
        """Improve by the best swaps within samples of the subjects."""
        size = self._most_at_once
        order = self._rng.permutation(len(self.parts))
        for _ in range(_NUM_SAMPLES):
            if self.key == self._ideal:
                break
            if len(order) < size:
                order = self._rng.permutation(len(self.parts))
            self._improve(order[:size], self._products(order[:size]))
            order = order[size:]

    def _assign(self, subjects: Ints, parts: Ints) -> None:
        np.subtract.at(self._sums, self.parts[subjects], self._counts[subjects])
        np.add.at(self._sums, parts, self._counts[subjects])
        self.parts[subjects] = parts

    def _padded(self, subjects: Ints) -> Ints:
        """Counts of some subjects and, for each part, of one without rows: a swap with it is a move."""
        return np.pad(self._counts[subjects], ((0, self._num_parts), (0, 0)))

    def _products(self, subjects: Ints) -> Ints:
        """Twice the weighted inner products of the padded counts."""
        counts = self._padded(subjects)
        products: Ints = 2 * ((counts * self._weights) @ counts.T)
        return products

    def _improve(self, subjects: Ints, products: Ints) -> None:
        """Make the best swap of two of the subjects, or move of one, until none makes the parts better."""
        num, counts = len(subjects), self._padded(subjects)
        weighted = counts * self._weights
        parts = np.concatenate([self.parts[subjects], np.arange(self._num_parts)])
        while True:
            # Half the change of the imbalance if two subjects change places, for all pairs.
            there = (weighted @ self._sums.T)[:, parts]
            alone = products.diagonal() // 2 - there.diagonal()
            change = there + there.T - products
            change += alone[:, None]
            change += alone
            pair = self._mend(counts, parts, change) or self._best_swap(counts, parts, change)
            if pair is None:
                break
            first, second = pair
            moved = counts[second] - counts[first]
            self._sums[parts[first]] += moved
            self._sums[parts[second]] -= moved
            parts[first], parts[second] = parts[second], parts[first]
            parts[num:] = np.arange(self._num_parts)
        self.parts[subjects] = parts[:num]

    def _best_swap(self, counts: Ints, parts: Ints, change: Ints) -> tuple[int, int] | None:
        """The pair whose swap lowers the imbalance most and adds no violation; `change` is used up."""
        while True:
            first, second = divmod(int(change.argmin()), len(parts))
            if change[first, second] >= 0:
                return None
            sums = self._sums[parts[[first, second]]]
            moved = counts[second] - counts[first]
            if self._violations(sums + np.stack([moved, -moved])) <= self._violations(sums):
                return first, second
            change[first, second] = change[second, first] = 0

    def _mend(self, counts: Ints, parts: Ints, change: Ints) -> tuple[int, int] | None:
        """The pair whose swap removes most violations; None if none removes any."""
        best: tuple[Key, tuple[int, int]] | None = None
        for part, column in np.argwhere(self._sums == self._whole):
            others = np.flatnonzero(parts != part)
            for first in np.flatnonzero((parts == part) & (counts[:, column] > 0)):
                moved = counts[others] - counts[first]
                sums = np.stack([np.broadcast_to(self._sums[part], moved.shape), self._sums[parts[others]]])
                before = (sums == self._whole).sum(axis=(0, 2))
                sums = sums + np.stack([moved, -moved])
                after = (sums == self._whole).sum(axis=(0, 2)) + (sums[:, :, -1] == 0).sum(axis=0)
                number = np.lexsort((change[first, others], after - before))[0]
                key = int(after[number] - before[number]), int(change[first, others[number]])
                if key[0] < 0 and (best is None or key < best[0]):
                    best = key, (int(first), int(others[number]))
        return None if best is None else best[1]
