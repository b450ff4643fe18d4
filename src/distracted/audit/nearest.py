"""Pairs of images with near perceptual hashes, so many of each image that no leak is left out."""

import logging
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.copies import ListedRows
from distracted.audit.scan import HASHES, differing_bits
from distracted.predictions.store import Store
from distracted.progress import Progress

_log = logging.getLogger(__name__)

_CHUNK = 16  # hashes compared with all others at a time: the distances fit into the processor's cache
_PARTNERS = 8  # nearest images of each fold and of the test set that an image is paired with
_MAX_PAIRS = 200_000  # of a kind

Pair = tuple[int, int]


class NearPairs(NamedTuple):
    """Pairs of rows in the training set followed by the test set, the nearest first.

    Attributes:
        across: Pairs of different subjects, or of a training and a test image.
        within: Pairs of one subject's images in two classes.
        turned: Pairs as in `across` that are alike once one of the two is mirrored or rotated.
    """

    across: list[Pair]
    within: list[Pair]
    turned: list[Pair]


def find_near(
    store: Store, scanned: pd.DataFrame, shown: NDArray[np.int64], bits: int, progress: Progress
) -> NearPairs:
    """Find pairs of images whose hashes differ in few bits.

    The test set's subjects are unknown, so pairs within it are left out. Where many images are alike, each
    training image is paired with the nearest of each fold and of the test set.

    Args:
        scanned: The table of `scan_images` for the training set followed by the test set.
        shown: Rows of images that show something.
        bits: Largest distance.
    """
    train, test = store.competition.train, store.competition.test
    contents = pd.factorize(pd.concat([train["content"], test["content"]]))[0]
    listed = ListedRows.of(store)
    hashes = np.ascontiguousarray(scanned[list(HASHES)].to_numpy(np.uint64)[shown].T)
    known = np.flatnonzero(listed.subjects[shown] >= 0)
    across, within, turned = _Nearest(), _Nearest(), _Nearest()
    with progress("comparing hashes", total=len(known), unit="img") as step:
        for chunk in np.array_split(known, max(1, -(-len(known) // _CHUNK))):
            for number, others in enumerate(hashes):
                differing = differing_bits(hashes[0, chunk], others)
                for left, row in zip(shown[chunk].tolist(), differing, strict=True):
                    near = np.flatnonzero(row <= bits)
                    near = near[contents[shown[near]] != contents[left]]  # `check_exact` lists copies
                    if not len(near):
                        continue
                    right = shown[near]
                    is_apart = listed.subjects[right] != listed.subjects[left]
                    kind = turned if number else across
                    kind.add(left, right[is_apart], row[near[is_apart]], listed.folds[right[is_apart]])
                    if number == 0:
                        differs = ~is_apart & (listed.labels[right] != listed.labels[left])
                        within.add(left, right[differs], row[near[differs]], listed.labels[right[differs]])
            step(len(chunk))
    pairs = across.pairs()
    known_pairs = set(pairs)
    return NearPairs(pairs, within.pairs(), [pair for pair in turned.pairs() if pair not in known_pairs])


class _Nearest:
    """The nearest images of each image, a few of each group; repeated clips would make millions of pairs."""

    def __init__(self) -> None:
        self._found: list[NDArray[np.int64]] = []  # rank, bits, left, right; shape (4, num_found)

    def add(
        self, left: int, right: NDArray[np.int64], bits: NDArray[np.uint8], groups: NDArray[np.int64]
    ) -> None:
        """Add an image with those that are near it, their distances and groups."""
        if not len(right):
            return
        keys = (groups - groups.min()) * 65 + bits
        order = np.argsort(keys.astype(np.min_scalar_type(keys.max())), kind="stable")  # a radix sort
        starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))
        ranks = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        order, ranks = order[ranks < _PARTNERS], ranks[ranks < _PARTNERS]
        pair = np.minimum(left, right[order]), np.maximum(left, right[order])
        self._found.append(np.stack([ranks, bits[order].astype(np.int64), *pair]))

    def pairs(self) -> list[Pair]:
        """Each pair once: the nearest partners of all images first, then the second nearest."""
        if not self._found:
            return []
        found = np.concatenate(self._found, axis=1)
        found = found[:, np.lexsort(found[::-1])]
        _, first = np.unique(found[2] << 32 | found[3], return_index=True)
        if len(first) > _MAX_PAIRS:
            text = "%d pairs of images have similar hashes; only the nearest %d are compared"
            _log.warning(text, len(first), _MAX_PAIRS)
        chosen = found[2:, np.sort(first)[:_MAX_PAIRS]]
        return list(zip(*chosen.tolist(), strict=True))
