"""Images that occur more than once: as the same bytes, or resized, compressed and brightened."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.findings import Check, as_findings, describe_image
from distracted.audit.odd_images import shows_something
from distracted.audit.scan import differing_bits, grey_thumbnail, perceptual_hash
from distracted.data.images import Image, read_rgb
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

_NUM_SAMPLED = 200  # images that are compressed again to set the limits
_CHUNK = 256  # hashes compared with all others at a time
_MAX_COPIES = 20  # copies of one file of which all pairs are listed
_MAX_PAIRS = 50_000  # candidates that are compared, the nearest hashes first
_BITS_RANGE = 4, 12
_MIN_SIMILARITY = 0.95


def check_exact(store: Store) -> list[Check]:
    """Look for files with the same bytes: across subjects, across train and test, and within a subject."""
    contents = pd.concat(
        [store.competition.train["content"], store.competition.test["content"]], ignore_index=True
    )
    across: list[dict[str, str]] = []
    within: list[dict[str, str]] = []
    for rows in contents[contents.duplicated(keep=False)].groupby(contents).groups.values():
        for first, other in itertools.combinations(map(int, rows[:_MAX_COPIES]), 2):
            pair = _describe_pair(store, first, other)
            if pair["part"] == pair["other_part"] == "test":
                continue  # the test set's subjects are unknown
            same = pair["subject"] == pair["other_subject"]
            (within if same and pair["classname"] == pair["other_classname"] else across).append(pair)
    leak = (
        "Under two subjects, in two classes, or in training and test set: one copy is trained on while "
        "the other is scored, or one of two labels is wrong. Candidates for the drop list."
    )
    harmless = "These images count twice in training. They do not leak: a subject's images share a fold."
    title = "Repeated files of one subject and class"
    return [
        Check("exact_duplicates", "The same file twice", leak, "error", as_findings(across)),
        Check("repeated_files", title, harmless, "note", as_findings(within)),
    ]


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


def check_near(store: Store, scanned: pd.DataFrame, *, progress: Progress = silent) -> Check:
    """Look for near duplicates across subjects and across train and test.

    Candidates are pairs of images whose perceptual hashes differ in few bits. A pair is reported if its grey
    thumbnails correlate like an image with its recompressed copy. Features of an ImageNet network are
    unsuitable: on photographs of hands at 100 pixels, recompression lowers the cosine to between 0.2 and 0.7,
    while the hands of two people reach 0.88.

    Args:
        scanned: The table of `scan_images` for the training set followed by the test set.
    """
    paths = store.competition.train_paths() + store.competition.test_paths()
    shows = shows_something(scanned).to_numpy()
    about = (
        "Images of two subjects, or of training and test set, that differ no more than an image from its "
        "shrunk and recompressed copy. Candidates for the drop list."
    )
    rows = []
    if shows.sum() > 1:
        limits = measure_limits([path for path, shown in zip(paths, shows, strict=True) if shown])
        about += f" Limits here: {limits.bits} of 64 bits, similarity {limits.similarity:.3f}."
        pairs = _near_pairs(store, scanned["hash"].to_numpy(np.uint64), shows, limits.bits, progress)
        with progress("comparing pictures", total=len(pairs), unit="pair") as step:
            thumbnail = cache(lambda row: _thumbnail(read_rgb(paths[row])))
            for left, right in pairs:
                similarity = float(thumbnail(left) @ thumbnail(right))
                if similarity >= limits.similarity:
                    rows.append({**_describe_pair(store, left, right), "value": similarity})
                step()
    findings = as_findings(sorted(rows, key=lambda row: -row["value"]))
    title = "Nearly the same picture twice"
    return Check("near_duplicates", title, about, "error", findings, value="similarity")


def _near_pairs(
    store: Store, hashes: NDArray[np.uint64], shows: NDArray[np.bool_], bits: int, progress: Progress
) -> list[tuple[int, int]]:
    """Pairs of images of different subjects, or of train and test, whose hashes are near.

    The test set's subjects are unknown, so pairs within it are left out.
    """
    contents = pd.concat([store.competition.train["content"], store.competition.test["content"]]).to_numpy()
    subjects = np.full(len(hashes), -1, dtype=np.int64)
    subjects[: len(store.folds.subjects)] = store.folds.subjects
    rows = np.flatnonzero(shows)
    nearest, num_near = np.empty((0, 3), dtype=np.int64), 0
    known = rows[subjects[rows] >= 0]
    with progress("comparing hashes", total=len(known), unit="img") as step:
        for chunk in np.array_split(known, max(1, -(-len(known) // _CHUNK))):
            later = rows[rows > chunk[0]]
            near = differing_bits(hashes[chunk], hashes[later])
            close = (near <= bits) & (subjects[chunk][:, None] != subjects[later][None, :])
            left, right = np.nonzero(close & (later[None, :] > chunk[:, None]))
            pairs = np.stack([chunk[left], later[right], near[left, right].astype(np.int64)], axis=1)
            pairs = pairs[contents[pairs[:, 0]] != contents[pairs[:, 1]]]  # `check_exact` lists the others
            num_near += len(pairs)
            nearest = np.concatenate([nearest, pairs])
            # Bounds memory: repeated video clips make millions of pairs.
            nearest = nearest[np.argsort(nearest[:, 2], kind="stable")][:_MAX_PAIRS]
            step(len(chunk))
    if num_near > _MAX_PAIRS:
        _log.warning(
            "%d pairs of images have similar hashes; only the nearest %d are compared", num_near, _MAX_PAIRS
        )
    return [(int(left), int(right)) for left, right, _ in nearest]


def _describe_pair(store: Store, first: int, second: int) -> dict[str, str]:
    """The columns of two images, by their rows in the training set followed by the test set."""
    other = describe_image(store, second)
    renamed = {"other" if key == "img" else f"other_{key}": value for key, value in other.items()}
    return describe_image(store, first) | renamed


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
