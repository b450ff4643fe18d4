"""Images that occur more than once: resized, compressed, brightened, turned; copies.py finds equal files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.findings import Check, pair_findings
from distracted.audit.nearest import NearPairs, find_near
from distracted.audit.odd_images import shows_something
from distracted.audit.scan import NUM_TURNS, grey_thumbnail, perceptual_hash, turn, turn_name
from distracted.data.images import Image, read_rgb
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

_NUM_SAMPLED = 200  # images that are compressed again to set the limits
_BITS_RANGE = 4, 12
_MIN_SIMILARITY = 0.95
_LONGEST = 60_000  # pixels; a JPEG's side has 65,500 at most
_ALIKE = "differ no more than an image from its shrunk and recompressed copy"
_LEAK = f"Images of two subjects, or of training and test set, that {_ALIKE}. Candidates for the drop list."
_CONTRADICTION = (
    f"Images of one subject in two classes that {_ALIKE}. One of the labels is probably wrong: in videos, "
    "labels err where one action ends and the next begins."
)
_TURNED = (
    f"Images of two subjects, or of training and test set, that {_ALIKE} once one of them is turned: "
    "augmented before they were handed out, or without the note on how the camera was held. They leak like "
    "other copies."
)


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
    """Look for near duplicates: of two subjects or of train and test, of one subject in two classes, turned.

    Candidates are pairs of images whose perceptual hashes differ in few bits. A pair is reported if its grey
    thumbnails correlate like an image with its recompressed copy. Features of an ImageNet network are
    unsuitable: on photographs of hands at 100 pixels, recompression lowers the cosine to between 0.2 and 0.7,
    while the hands of two people reach 0.88.

    Args:
        scanned: The table of `scan_images` for the training set followed by the test set.
    """
    paths = store.competition.train_paths() + store.competition.test_paths()
    shows = shows_something(scanned).to_numpy()
    candidates, limits, about = NearPairs([], [], []), Limits(0, 1), _LEAK
    if shows.sum() > 1:
        limits = measure_limits([path for path, shown in zip(paths, shows, strict=True) if shown])
        about += f" Limits here: {limits.bits} of 64 bits, similarity {limits.similarity:.3f}."
        candidates = find_near(store, scanned, np.flatnonzero(shows), limits.bits, progress)
    with progress("comparing pictures", total=sum(map(len, candidates)), unit="pair") as step:
        thumbnail = cache(lambda row: grey_thumbnail(read_rgb(paths[row])).astype(np.uint8))

        def find(pairs: Sequence[tuple[int, int]], turns: Sequence[int]) -> pd.DataFrame:
            """The pairs that are similar enough if the second image is turned, the most similar first."""
            similar = []
            for left, right in pairs:
                scores = [_correlation(thumbnail(left), turn(thumbnail(right), number)) for number in turns]
                best = int(np.argmax(scores))
                if scores[best] >= limits.similarity:
                    similar.append((scores[best], (left, right), turn_name(turns[best])))
                step()
            similar.sort(key=lambda item: -item[0])
            values, notes = [value for value, _, _ in similar], [note for _, _, note in similar]
            chosen = [pair for _, pair, _ in similar]
            return pair_findings(store.competition, chosen, value=values, note=notes)

        across, within = find(candidates.across, [0]), find(candidates.within, [0])
        other = find(candidates.turned, range(1, NUM_TURNS))
    value, two = "similarity", "Nearly the same picture of one subject in two classes"
    return [
        Check("near_duplicates", "Nearly the same picture twice", about, "error", across, value=value),
        Check("contradictions", two, _CONTRADICTION, "warning", within, value=value),
        Check("turned_copies", "Mirrored or rotated copies", _TURNED, "warning", other, value=value),
    ]


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
