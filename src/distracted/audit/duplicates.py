"""Pictures that come more than once: byte for byte, or shrunk, compressed and brightened."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.findings import Check, as_findings, describe_image
from distracted.audit.odd_images import shows_something
from distracted.audit.scan import differing_bits, perceptual_hash
from distracted.data.images import Image, read_rgb
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

_log = logging.getLogger(__name__)

_SAMPLE = 200  # pictures that are compressed anew, to see what that changes
_SIDE = 32  # pixels of the grey pictures that are compared
_CHUNK = 256  # hashes compared with all others at a time
_MOST_COPIES = 20  # of one file, of which all pairs are named
_MOST = 50_000  # pairs that are looked at, the nearest hashes first
_LEAST_BITS, _MOST_BITS = 4, 12
_LEAST_LIKENESS = 0.95


def check_exact(store: Store) -> list[Check]:
    """Look for files with the same bytes: across subjects, across train and test, and of one subject."""
    train, test = store.competition.train, store.competition.test
    contents = pd.concat([train["content"], test["content"]], ignore_index=True)
    num_train = len(train)
    across: list[dict[str, str]] = []
    within: list[dict[str, str]] = []
    for rows in contents[contents.duplicated(keep=False)].groupby(contents).groups.values():
        for first, other in itertools.combinations(map(int, rows[:_MOST_COPIES]), 2):
            pair = _describe_pair(store, first, other, num_train)
            if pair["part"] == pair["other_part"] == "test":
                continue  # whose they are is not known
            same = pair["subject"] == pair["other_subject"]
            (within if same and pair["classname"] == pair["other_classname"] else across).append(pair)
    return [
        Check(
            "exact_duplicates",
            "The same file twice",
            "Under two subjects, two classes, or in training and test: the one is trained on while the other "
            "is scored, or both labels cannot be right. Candidates for the drop list.",
            "error",
            as_findings(across),
        ),
        Check(
            "repeated_files",
            "The same file twice, same subject and class",
            "They weigh double; no leak, since a subject's images are always in one fold.",
            "note",
            as_findings(within),
        ),
    ]


@dataclass(frozen=True)
class Sameness:
    """How much a picture may differ from itself, compressed anew.

    Attributes:
        bits: Of the hash; likeness: least correlation of small grey pictures.
    """

    bits: int
    likeness: float


def measure_sameness(paths: Sequence[Path]) -> Sameness:
    """Compress some of the data's own pictures anew, and see how much that changes.

    Each is shrunk to three quarters and stored at JPEG quality 50; the limits hold 99% of them, the likeness
    with as much again to spare, within bounds: tiny or noisy pictures have nothing that could be compared.

    Args:
        paths: Readable pictures that show something.
    """
    bits, likeness = [], []
    for number in np.unique(np.linspace(0, len(paths) - 1, min(_SAMPLE, len(paths))).astype(int)):
        image = read_rgb(paths[number])
        again = _compress(image)
        bits.append(bin(perceptual_hash(image) ^ perceptual_hash(again)).count("1"))
        likeness.append(float(_thumbnail(image) @ _thumbnail(again)))
    low = float(np.quantile(likeness, 0.01))
    most = int(np.clip(np.quantile(bits, 0.99), _LEAST_BITS, _MOST_BITS))
    return Sameness(most, max(_LEAST_LIKENESS, 1 - 2 * (1 - low)))


def check_near(
    store: Store, train: pd.DataFrame, test: pd.DataFrame, *, progress: Progress = silent
) -> Check:
    """Look for near duplicates across subjects and across train and test.

    Candidates are pairs of pictures whose hashes differ in few bits; those stay whose small grey pictures
    correlate as a picture does with itself compressed anew. (Distances between an ImageNet network's
    features do not tell: on hand photographs of 100 pixels, compressing lowers the cosine to 0.2 to 0.7,
    while two people's hands reach 0.88.)

    Args:
        train, test: As `scan_images`, in the competition's order.
    """
    both = pd.concat([train, test], ignore_index=True)
    num_train = len(train)
    paths = store.competition.train_paths() + store.competition.test_paths()
    shows = shows_something(both).to_numpy()
    contents = pd.concat([store.competition.train["content"], store.competition.test["content"]]).to_numpy()
    about = (
        "Pictures of two subjects, or of training and test, that differ no more than a picture does from "
        "itself, shrunk and compressed anew. Candidates for the drop list."
    )
    rows = []
    if shows.sum() > 1:
        same = measure_sameness([path for path, shown in zip(paths, shows, strict=True) if shown])
        pairs = _near_pairs(store, both, shows, contents, same.bits, progress)
        about += f" Limits here: {same.bits} of 64 bits, likeness {same.likeness:.3f}."
        rows = _compare(store, paths, pairs, num_train, same, progress)
    findings = as_findings(sorted(rows, key=lambda row: -float(row["value"])))
    return Check(
        "near_duplicates", "Nearly the same picture twice", about, "error", findings, value="likeness"
    )


def _near_pairs(
    store: Store,
    both: pd.DataFrame,
    shows: NDArray[np.bool_],
    contents: NDArray[np.object_],
    bits: int,
    progress: Progress,
) -> list[tuple[int, int]]:
    """Pairs of pictures of different subjects, or of train and test, whose hashes are near."""
    # Of the test set nothing is known: it is not compared in itself.
    subjects = np.full(len(both), -1, dtype=np.int64)
    subjects[: len(store.folds.subjects)] = store.folds.subjects
    hashes = both["hash"].to_numpy(np.uint64)
    rows = np.flatnonzero(shows)
    nearest, num_found = np.empty((0, 3), dtype=np.int64), 0
    known = rows[subjects[rows] >= 0]
    with progress("comparing hashes", total=len(known), unit="img") as step:
        for chunk in np.array_split(known, max(1, -(-len(known) // _CHUNK))):
            later = rows[rows > chunk[0]]
            near = differing_bits(hashes[chunk], hashes[later])
            close = (near <= bits) & (subjects[chunk][:, None] != subjects[later][None, :])
            left, right = np.nonzero(close & (later[None, :] > chunk[:, None]))
            pairs = np.stack([chunk[left], later[right], near[left, right].astype(np.int64)], axis=1)
            pairs = pairs[contents[pairs[:, 0]] != contents[pairs[:, 1]]]  # those are exact ones
            num_found += len(pairs)
            nearest = np.concatenate([nearest, pairs])  # clips that repeat make millions: not all are kept
            nearest = nearest[np.argsort(nearest[:, 2], kind="stable")][:_MOST]
            step(len(chunk))
    if num_found > _MOST:
        _log.warning("%d pairs of pictures have like hashes; the nearest %d are looked at", num_found, _MOST)
    return [(int(left), int(right)) for left, right, _ in nearest]


def _compare(
    store: Store,
    paths: Sequence[Path],
    pairs: Sequence[tuple[int, int]],
    num_train: int,
    same: Sameness,
    progress: Progress,
) -> list[dict[str, object]]:
    thumbnails: dict[int, NDArray[np.float32]] = {}
    rows = []
    with progress("comparing pictures", total=len(pairs), unit="pair") as step:
        for left, right in pairs:
            for row in (left, right):
                if row not in thumbnails:
                    thumbnails[row] = _thumbnail(read_rgb(paths[row]))
            likeness = float(thumbnails[left] @ thumbnails[right])
            if likeness >= same.likeness:
                rows.append({**_describe_pair(store, left, right, num_train), "value": likeness})
            step()
    return rows


def _describe_pair(store: Store, first: int, other: int, num_train: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for row, prefix in ((first, ""), (other, "other")):
        test = row >= num_train
        found |= describe_image(store, row - num_train if test else row, test=test, prefix=prefix)
    return found


def _thumbnail(image: Image) -> NDArray[np.float32]:
    """A small grey picture as a vector of mean 0 and length 1, so that products are correlations."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    flat = grey.astype(np.float32).ravel()
    flat -= flat.mean()
    vector: NDArray[np.float32] = flat / max(float(np.linalg.norm(flat)), 1e-6)
    return vector


def _compress(image: Image) -> Image:
    small = cv2.resize(image, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 50])
    assert done
    again = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert again is not None
    compressed: Image = again.astype(np.uint8)
    return compressed
