"""Images that occur more than once resized, compressed or brightened; copies.py finds the same bytes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.copies import ListedRows
from distracted.audit.findings import Check, pair_findings
from distracted.audit.odd_images import shows_something
from distracted.audit.scan import differing_bits, grey_thumbnail, perceptual_hash
from distracted.data.images import Image, read_rgb
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

_NUM_SAMPLED = 200  # images that are compressed again to set the limits
_CHUNK = 256  # hashes compared with all others at a time
_PARTNERS = 8  # nearest images of each fold and of the test set that an image is compared with
_MAX_PAIRS = 200_000  # pairs of a kind that are compared
_BITS_RANGE = 4, 12
_MIN_SIMILARITY = 0.95
_LONGEST = 60_000  # pixels; a JPEG's side has 65,500 at most


@dataclass(frozen=True)
class Limits:
    """How much two images may differ and still count as copies.

    Attributes:
        bits: Largest number of differing bits between perceptual hashes.
        similarity: Smallest correlation between grey thumbnails.
    """

    bits: int
    similarity: float


def measure_limits(paths: Sequence[Path]) -> Limits:
    """Derive limits from the data's own images: compare some of them with recompressed copies.

    Each is shrunk to three quarters and stored at JPEG quality 50. The limit of the hash covers 99% of these
    pairs; that of the similarity leaves twice the distance that 99% need. Both are bounded, since tiny or
    noisy images have no structure to compare.

    Args:
        paths: Readable images that are not blank.
    """
    bits, similarities = [], []
    for number in np.unique(np.linspace(0, len(paths) - 1, min(_NUM_SAMPLED, len(paths))).astype(int)):
        image = read_rgb(paths[number])
        copy = _recompress(image)
        bits.append(bin(perceptual_hash(image) ^ perceptual_hash(copy)).count("1"))
        similarities.append(_correlation(grey_thumbnail(image), grey_thumbnail(copy)))
    low = float(np.quantile(similarities, 0.01))
    most_bits = int(np.clip(np.quantile(bits, 0.99), *_BITS_RANGE))
    return Limits(bits=most_bits, similarity=max(_MIN_SIMILARITY, 1 - 2 * (1 - low)))


def check_near(store: Store, scanned: pd.DataFrame, *, progress: Progress = silent) -> list[Check]:
    """Look for near duplicates across subjects and across train and test, and in two classes of one subject.

    Candidates are pairs of images whose perceptual hashes differ in few bits. A pair is reported if its grey
    thumbnails correlate like an image with its recompressed copy. Features of an ImageNet network are
    unsuitable: on photographs of hands at 100 pixels, recompression lowers the cosine to between 0.2 and 0.7,
    while the hands of two people reach 0.88.

    Args:
        scanned: The table of `scan_images` for the training set followed by the test set.
    """
    paths = store.competition.train_paths() + store.competition.test_paths()
    shows = shows_something(scanned).to_numpy()
    alike = "differ no more than an image from its shrunk and recompressed copy."
    leak = f"Images of two subjects, or of training and test set, that {alike} Candidates for the drop list."
    contradiction = (
        f"Images of one subject in two classes that {alike} One of the labels is probably wrong: in videos, "
        "labels err where one action ends and the next begins."
    )
    pairs: list[list[tuple[int, int]]] = [[], []]
    similarities: list[list[float]] = [[], []]
    if shows.sum() > 1:
        limits = measure_limits([path for path, shown in zip(paths, shows, strict=True) if shown])
        leak += f" Limits here: {limits.bits} of 64 bits, similarity {limits.similarity:.3f}."
        hashes = scanned["hash"].to_numpy(np.uint64)
        candidates = _find_near(store, hashes, np.flatnonzero(shows), limits.bits, progress)
        with progress("comparing pictures", total=sum(map(len, candidates)), unit="pair") as step:
            thumbnail = cache(lambda row: grey_thumbnail(read_rgb(paths[row])).astype(np.uint8))
            for kind, near in enumerate(candidates):
                for left, right in near:
                    similarity = _correlation(thumbnail(left), thumbnail(right))
                    if similarity >= limits.similarity:
                        pairs[kind].append((left, right))
                        similarities[kind].append(similarity)
                    step()
    across, within = (
        pair_findings(store.competition, [two[at] for at in order], value=[values[at] for at in order])
        for two, values in zip(pairs, similarities, strict=True)
        for order in [np.argsort(np.negative(values), kind="stable")]
    )
    title, other = "Nearly the same picture twice", "Nearly the same picture of one subject in two classes"
    return [
        Check("near_duplicates", title, leak, "error", across, value="similarity"),
        Check("contradictions", other, contradiction, "warning", within, value="similarity"),
    ]


def _find_near(
    store: Store, hashes: NDArray[np.uint64], shown: NDArray[np.int64], bits: int, progress: Progress
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs with near hashes: of two subjects or of train and test, and of one subject in two classes.

    The test set's subjects are unknown, so pairs within it are left out. Where many images are alike, each
    training image is paired with the nearest of each fold and of the test set, so that no leak is left out.

    Args:
        hashes: Perceptual hash of each image, shape (num_images,).
        shown: Rows of images that show something.
    """
    train, test = store.competition.train, store.competition.test
    contents = pd.factorize(pd.concat([train["content"], test["content"]]))[0]
    listed = ListedRows.of(store)
    known = shown[listed.subjects[shown] >= 0]
    across, within = _Nearest(), _Nearest()
    with progress("comparing hashes", total=len(known), unit="img") as step:
        for chunk in np.array_split(known, max(1, -(-len(known) // _CHUNK))):
            differing = differing_bits(hashes[chunk], hashes[shown])
            for left, row in zip(chunk.tolist(), differing, strict=True):
                near = np.flatnonzero(row <= bits)
                near = near[contents[shown[near]] != contents[left]]  # `check_exact` lists copies
                right = shown[near]
                is_apart = listed.subjects[right] != listed.subjects[left]
                contradicts = ~is_apart & (listed.labels[right] != listed.labels[left])
                across.add(left, right[is_apart], row[near[is_apart]], listed.folds[right[is_apart]])
                within.add(
                    left, right[contradicts], row[near[contradicts]], listed.labels[right[contradicts]]
                )
            step(len(chunk))
    return across.pairs(), within.pairs()


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

    def pairs(self) -> list[tuple[int, int]]:
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


def _correlation(one: NDArray[np.number[Any]], other: NDArray[np.number[Any]]) -> float:
    """Correlation of two images of one size; 0 if one has a single shade."""
    first, second = (image.astype(np.float64).ravel() for image in (one, other))
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second) / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-9)


def _recompress(image: Image) -> Image:
    share = min(0.75, _LONGEST / max(image.shape))
    small = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 50])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
