"""How many people unlabelled images show: from clusters, at the height that tells known people apart."""

import json
import logging
import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from distracted.errors import ConfigError, DataError
from distracted.files import sha256_json, write_json
from distracted.postprocess.neighbours import directions_of
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.training.feed import Images, pretrained_features
from distracted.training.resolve import Settled

_log = logging.getLogger(__name__)

MIN_SUBJECTS = 6
#: Geometric mean error on known people beyond which an estimate is none.
LARGEST_ERROR = 1.3
#: And mean agreement of clusters with known people below which it is none.
LEAST_AGREEMENT = 0.6
_MOST_IMAGES = 3000  # of a set: clustering takes their square
_SPLITS = 6
_VERSION = 1  # counted up where the estimate changes


@dataclass(frozen=True)
class PeopleCount:
    """An estimate of a number of people.

    Attributes:
        people: In the unlabelled images.
        ratios: What was estimated for random two thirds of the known people, by what the others taught,
            divided by the truth.
        agreement: Of those clusters with those people: adjusted Rand index, 0 by chance, 1 the same.
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
        return self.error <= LARGEST_ERROR and self.agreement >= LEAST_AGREEMENT


def count_people(
    train: NDArray[np.float32], subjects: NDArray[np.int64], test: NDArray[np.float32], *, seed: int = 0
) -> PeopleCount:
    """Estimate the number of people in `test`.

    Average linkage on the directions of features, seen from the training set's mean: cut at the height that
    leaves as many clusters of the training images as there are people. No label is read.

    Args:
        train: Features, (num_images, num_features).
        subjects: Subject id of each training image, (num_images,).
        test: Features, (num_test, num_features).
    """
    rng = np.random.default_rng(seed)
    mean = train.mean(axis=0)
    known, unknown = (directions_of(rows, centre=mean) for rows in (train, test))
    height = _height(_some(known, rng), len(np.unique(subjects)))
    people = len(np.unique(_clusters(_some(unknown, rng), height)))
    names, ratios, agreements = np.unique(subjects), [], []
    for _ in range(_SPLITS):
        teach = np.isin(subjects, rng.permutation(names)[: len(names) // 3])
        taught = _height(_some(known[teach], rng), len(names) // 3)
        kept = np.flatnonzero(~teach)
        kept = np.sort(rng.permutation(kept)[:_MOST_IMAGES])
        found = _clusters(known[kept], taught)
        ratios.append(len(np.unique(found)) / len(np.unique(subjects[kept])))
        agreements.append(float(adjusted_rand_score(subjects[kept], found)))
    return PeopleCount(people, tuple(ratios), float(np.mean(agreements)))


def _some(rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return rows if len(rows) <= _MOST_IMAGES else rows[np.sort(rng.permutation(len(rows))[:_MOST_IMAGES])]


def _height(rows: NDArray[np.float32], num_clusters: int) -> float:
    """Half way between the merge that leaves so many clusters and the next."""
    merges = linkage(rows, "average")[:, 2]
    return float(merges[-num_clusters : len(merges) - num_clusters + 2].mean())


def _clusters(rows: NDArray[np.float32], height: float) -> NDArray[np.int32]:
    found: NDArray[np.int32] = fcluster(linkage(rows, "average"), height, "distance")
    return found


def count_test_people(
    store: Store, settled: Settled, *, force: bool = False, progress: Progress = silent
) -> PeopleCount:
    """Count a competition's test people in a pretrained network's features; kept where it can be trusted.

    What was kept is taken where it was counted in the same features, unless forced.

    Raises:
        DataError: there are too few training subjects to learn from.
        ConfigError: the network has no pretrained weights: what is alike in it would mean nothing.
    """
    competition = store.competition
    if competition.config.columns.group is None or competition.num_subjects < MIN_SUBJECTS:
        raise DataError(
            f"{competition.config.folder}: {competition.num_subjects} training subjects are too few to learn "
            f"what tells people apart; expected {MIN_SUBJECTS} or more, or data.num_test_subjects in "
            "configs/data/"
        )
    config = settled.config
    if not settled.weights.pretrained:
        raise ConfigError(
            f"MODEL: {config.model.backbone} has no pretrained weights here, and random features do not tell "
            "people apart; expected a network that has, such as efficientnet_lite0"
        )
    path = store.workspace.test_people(competition.name)
    how = sha256_json([_VERSION, config.hash, settled.weights.sha256])
    if not force and (kept := _read_kept(store)) is not None and kept[1] == how:
        _log.info("people: done already (FORCE=1 redoes it)")
        return kept[0]
    sets = [Images.to_train(competition), Images.to_test(competition)]
    train, test = pretrained_features(settled, sets, store.workspace.cache(competition.name), progress)
    found = count_people(train, store.folds.subjects, test)
    if found.trusted:
        told = {"backbone": config.model.backbone, "index_hash": competition.index_hash, "how": how}
        write_json(path, {**asdict(found), **told})
    else:
        path.unlink(missing_ok=True)
    return found


def read_test_people(store: Store) -> int | None:
    """What `count_test_people` kept for this data, if it did."""
    kept = _read_kept(store)
    return None if kept is None else kept[0].people


def _read_kept(store: Store) -> tuple[PeopleCount, str] | None:
    """The count and how it was made; None where nothing was kept, it is damaged, or it is of other data."""
    try:
        kept = json.loads(store.workspace.test_people(store.competition.name).read_text())
        ratios = tuple(float(ratio) for ratio in kept["ratios"])
        count = PeopleCount(int(kept["people"]), ratios, float(kept["agreement"]))
        if kept["index_hash"] != store.competition.index_hash or count.people < 1 or not count.trusted:
            return None
        return count, str(kept.get("how"))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
        return None
