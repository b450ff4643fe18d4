"""Images that occur more than once resized, compressed or brightened; copies.py finds the same bytes."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.copies import ListedRows, describe_pair
from distracted.audit.findings import Check, as_findings
from distracted.audit.odd_images import shows_something
from distracted.audit.scan import differing_bits, grey_thumbnail, perceptual_hash
from distracted.data.images import Image, read_rgb
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

_NUM_SAMPLED = 200  # images that are compressed again to set the limits
_CHUNK = 256  # hashes compared with all others at a time
_MAX_PAIRS = 50_000  # candidates of a kind that are compared, the nearest hashes first
_BITS_RANGE = 4, 12
_MIN_SIMILARITY = 0.95


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
        similarities.append(float(_thumbnail(image) @ _thumbnail(copy)))
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
    across, within = _Nearest(), _Nearest()
    findings: list[list[dict[str, object]]] = [[], []]
    if shows.sum() > 1:
        limits = measure_limits([path for path, shown in zip(paths, shows, strict=True) if shown])
        leak += f" Limits here: {limits.bits} of 64 bits, similarity {limits.similarity:.3f}."
        hashes = scanned["hash"].to_numpy(np.uint64)
        _find_near(store, hashes, np.flatnonzero(shows), limits.bits, across, within, progress)
        with progress("comparing pictures", total=len(across) + len(within), unit="pair") as step:
            thumbnail = cache(lambda row: _thumbnail(read_rgb(paths[row])))
            for rows, candidates in zip(findings, (across, within), strict=True):
                for left, right in candidates:
                    similarity = float(thumbnail(left) @ thumbnail(right))
                    if similarity >= limits.similarity:
                        rows.append({**describe_pair(store, left, right), "value": similarity})
                    step()
    first, second = (as_findings(sorted(rows, key=lambda row: -row["value"])) for rows in findings)
    title, other = "Nearly the same picture twice", "Nearly the same picture of one subject in two classes"
    return [
        Check("near_duplicates", title, leak, "error", first, value="similarity"),
        Check("contradictions", other, contradiction, "warning", second, value="similarity"),
    ]


class _Nearest:
    """The pairs of images with the nearest hashes; bounds memory, since repeated clips make millions."""

    def __init__(self) -> None:
        self._pairs = np.empty((0, 3), dtype=np.int64)
        self._num = 0

    def add(self, left: NDArray[np.int64], right: NDArray[np.int64], bits: NDArray[np.uint8]) -> None:
        self._num += len(left)
        pairs = np.concatenate([self._pairs, np.stack([left, right, bits.astype(np.int64)], axis=1)])
        self._pairs = pairs[np.argsort(pairs[:, 2], kind="stable")][:_MAX_PAIRS]

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self._num > _MAX_PAIRS:
            text = "%d pairs of images have similar hashes; only the nearest %d are compared"
            _log.warning(text, self._num, _MAX_PAIRS)
        return ((int(left), int(right)) for left, right, _ in self._pairs)


def _find_near(
    store: Store,
    hashes: NDArray[np.uint64],
    shown: NDArray[np.int64],
    bits: int,
    across: _Nearest,
    within: _Nearest,
    progress: Progress,
) -> None:
    """Collect pairs of images with near hashes: of different subjects or of train and test, and of one
    subject in two classes. The test set's subjects are unknown, so pairs within it are left out.

    Args:
        hashes: Perceptual hash of each image, shape (num_images,).
        shown: Rows of images that show something.
    """
    contents = pd.concat([store.competition.train["content"], store.competition.test["content"]]).to_numpy()
    rows = ListedRows.of(store)
    known = shown[rows.subjects[shown] >= 0]
    with progress("comparing hashes", total=len(known), unit="img") as step:
        for chunk in np.array_split(known, max(1, -(-len(known) // _CHUNK))):
            later = shown[shown > chunk[0]]
            near = differing_bits(hashes[chunk], hashes[later])
            lefts, rights = np.nonzero((near <= bits) & (later[None, :] > chunk[:, None]))
            left, right, differing = chunk[lefts], later[rights], near[lefts, rights]
            copies = contents[left] == contents[right]  # `check_exact` lists them
            apart = rows.subjects[left] != rows.subjects[right]
            contradict = ~apart & (rows.labels[left] != rows.labels[right])
            for nearest, chosen in ((across, apart & ~copies), (within, contradict & ~copies)):
                nearest.add(left[chosen], right[chosen], differing[chosen])
            step(len(chunk))


def _thumbnail(image: Image) -> NDArray[np.float32]:
    """A small grey image as a vector of mean 0 and length 1, so that dot products are correlations."""
    flat = grey_thumbnail(image).ravel()
    flat -= flat.mean()
    vector: NDArray[np.float32] = flat / max(float(np.linalg.norm(flat)), 1e-6)
    return vector


def _recompress(image: Image) -> Image:
    small = cv2.resize(image, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 50])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
