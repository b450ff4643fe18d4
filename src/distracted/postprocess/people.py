"""Estimates how many people the test set shows, for the width of the forecast (docs/expected_score.md).

The forecast's variance is v (2 + S / S_test), where S_test is the number of test people, and State Farm has
not published it. Images are clustered at the distance that separates the known training people. Half of this
module checks the estimate on people held back, since without that check a number would be printed on data
where features do not tell people apart.
"""

import json
import logging
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distracted.errors import ConfigError, DataError
from distracted.files import sha256_json, write_json
from distracted.postprocess.neighbours import directions_of
from distracted.predictions.store import Store
from distracted.progress import Progress, silent

if TYPE_CHECKING:
    from distracted.training.resolve import Resolved

_log = logging.getLogger(__name__)

MIN_SUBJECTS = 6
#: An estimate is trusted up to this geometric mean error on known people ...
MAX_ERROR = 1.3
#: ... and from this mean agreement of clusters with known people on.
MIN_AGREEMENT = 0.6
_MAX_IMAGES = 3000  # of a set: the memory for clustering grows with the square
_SPLITS = 6
_VERSION = 1  # raised when the estimate changes


@dataclass(frozen=True)
class PeopleCount:
    """An estimate of a number of people.

    Attributes:
        people: Number of people in the unlabelled images.
        ratios: Estimates for random two thirds of the known people, made with the cut learned from the
            others, divided by the truth.
        agreement: Adjusted Rand index of those clusters and those people: 0 by chance, 1 for equal groups.
    """

    people: int
    ratios: tuple[float, ...]
    agreement: float

    @property
    def error(self) -> float:
        """Geometric mean factor by which the known people were miscounted, 1 or more."""
        return math.exp(sum(abs(math.log(ratio)) for ratio in self.ratios) / len(self.ratios))

    @property
    def trusted(self) -> bool:
        return self.error <= MAX_ERROR and self.agreement >= MIN_AGREEMENT


def count_people(
    train: NDArray[np.float32], subjects: NDArray[np.int64], test: NDArray[np.float32], *, seed: int = 0
) -> PeopleCount:
    """Estimate the number of people in `test`.

    Average linkage on the directions of features, seen from the training set's mean, cut at the height at
    which the training images form as many clusters as there are people. No label is read.

    Args:
        train: Features, (num_images, num_features).
        subjects: Subject id of each training image, (num_images,).
        test: Features, (num_test, num_features).
    """
    from sklearn.metrics import adjusted_rand_score

    rng, names = np.random.default_rng(seed), np.unique(subjects)
    known, unknown = (directions_of(rows, centre=train.mean(axis=0)) for rows in (train, test))
    height = _height(_some(known, rng), len(names))
    people = len(np.unique(_clusters(_some(unknown, rng), height)))
    ratios, agreements = [], []
    for _ in range(_SPLITS):
        teach = np.isin(subjects, rng.permutation(names)[: len(names) // 3])
        learned = _height(_some(known[teach], rng), len(names) // 3)
        kept = np.sort(rng.permutation(np.flatnonzero(~teach))[:_MAX_IMAGES])
        clusters = _clusters(known[kept], learned)
        ratios.append(len(np.unique(clusters)) / len(np.unique(subjects[kept])))
        agreements.append(float(adjusted_rand_score(subjects[kept], clusters)))
    return PeopleCount(people, tuple(ratios), float(np.mean(agreements)))


def _some(rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return rows if len(rows) <= _MAX_IMAGES else rows[np.sort(rng.permutation(len(rows))[:_MAX_IMAGES])]


def _height(rows: NDArray[np.float32], num_clusters: int) -> float:
    """Half way between the merge that leaves so many clusters and the next."""
    from scipy.cluster.hierarchy import linkage

    merges = linkage(rows, "average")[:, 2]
    return float(merges[-num_clusters : len(merges) - num_clusters + 2].mean())


def _clusters(rows: NDArray[np.float32], height: float) -> NDArray[np.int32]:
    from scipy.cluster.hierarchy import fcluster, linkage

    clusters: NDArray[np.int32] = fcluster(linkage(rows, "average"), height, "distance")
    return clusters


def count_test_people(
    store: Store, resolved: "Resolved", *, force: bool = False, progress: Progress = silent
) -> PeopleCount:
    """Count a competition's test people in a pretrained network's features; keep a trusted count in a file.

    A count kept for the same features is taken from the file, unless forced.

    Raises:
        DataError: there are too few training subjects to learn from.
        ConfigError: the network has no pretrained weights, so that its distances mean nothing.
    """
    from distracted.data.picture_sets import Images
    from distracted.training.feed import pretrained_features

    competition = store.competition
    if not competition.config.has_subjects or competition.num_subjects < MIN_SUBJECTS:
        raise DataError(
            f"{competition.config.folder}: {competition.num_subjects} training subjects are too few to learn "
            f"what tells people apart; expected {MIN_SUBJECTS} or more, or data.num_test_subjects in "
            "configs/data/"
        )
    config = resolved.config
    if not resolved.weights.pretrained:
        raise ConfigError(
            f"MODEL: {config.model.backbone} has no pretrained weights here, and random features do not tell "
            "people apart; expected a network that has, such as efficientnet_lite0"
        )
    how = sha256_json([_VERSION, config.hash, resolved.weights.sha256])
    if not force and (kept := _read_count(store)) is not None and kept[1] == how:
        _log.info("people: done already (FORCE=1 redoes it)")
        return kept[0]
    sets = [Images.to_train(competition), Images.to_test(competition)]
    train, test = pretrained_features(resolved, sets, store.workspace.cache(competition.name), progress)
    count, path = (
        count_people(train, store.folds.subjects, test),
        store.workspace.test_people(competition.name),
    )
    if count.trusted:
        source = {"backbone": config.model.backbone, "index_hash": competition.index_hash, "how": how}
        write_json(path, {**asdict(count), **source})
    else:
        path.unlink(missing_ok=True)
    return count


def read_test_people(store: Store) -> int | None:
    """The count that `count_test_people` kept for this data, if any."""
    kept = _read_count(store)
    return None if kept is None else kept[0].people


def _read_count(store: Store) -> tuple[PeopleCount, str] | None:
    """The count and how it was made; None if nothing was kept, the file is damaged, or the data differ."""
    try:
        kept = json.loads(store.workspace.test_people(store.competition.name).read_text())
        ratios = tuple(float(ratio) for ratio in kept["ratios"])
        count = PeopleCount(int(kept["people"]), ratios, float(kept["agreement"]))
        if kept["index_hash"] != store.competition.index_hash or count.people < 1 or not count.trusted:
            return None
        return count, str(kept.get("how"))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
        return None
