"""The ways to smooth, by name: what each keeps of a feature space, and what it chooses from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distracted.errors import ConfigError
from distracted.postprocess.clusters import (
    MOST_DIMENSIONS,
    SIZES,
    ClusterMatch,
    Clusters,
    Matching,
    find_clusters,
    matchings,
)
from distracted.postprocess.diffusion import Diffusion, Spreading, spreadings
from distracted.postprocess.neighbour_mean import MEANS, Averaging, NeighbourMean, averagings
from distracted.postprocess.neighbours import Neighbours, nearest_neighbours
from distracted.postprocess.smooth import Method, Prior
from distracted.postprocess.spaces import Arrays, Layout, Space
from distracted.postprocess.step import LogProbs, Subset
from distracted.progress import Progress

#: Neighbours that are kept of each image.
MOST_NEIGHBOURS = 50


class Extent(NamedTuple):
    """What bounds settings.

    Attributes:
        smallest: Images in the smallest of the folds and the test set.
        per_subject: Of an average subject; None where there are no subjects.
    """

    smallest: int
    per_subject: int | None


@dataclass(frozen=True)
class Way:
    """A way to smooth.

    Attributes:
        layout: What it keeps of a space.
        most: The largest number of neighbours, or images in a cluster.
        candidates: All its settings in some spaces, none of them above `most`.
        setting: The dataclass of one candidate; bounded: its field that `most` bounds.
        method: Made of spaces and candidates.
    """

    name: str
    layout: Layout[Any]
    most: Callable[[Extent], int]
    candidates: Callable[..., Sequence[Any]]
    setting: type
    bounded: str
    method: Callable[[Mapping[str, Any], Sequence[Any]], Method]


def _find_neighbours(features: Any, progress: Progress) -> Arrays:
    found = nearest_neighbours(features, min(MOST_NEIGHBOURS, len(features) - 1), progress=progress)
    return {"indices": found.indices, "distances": found.distances}


def _read_neighbours(arrays: Arrays) -> Neighbours:
    return Neighbours(arrays["indices"].astype(np.int32), arrays["distances"].astype(np.float32))


def _find_clusters(features: Any, progress: Progress) -> Arrays:
    return {str(size): found for size, found in find_clusters(features, SIZES, progress=progress).items()}


def _read_clusters(arrays: Arrays) -> Clusters:
    return {int(size): clusters.astype(np.int32) for size, clusters in arrays.items()}


_NEIGHBOURS = Layout("neighbours", f"{MOST_NEIGHBOURS}", True, _find_neighbours, _read_neighbours)
_CLUSTERS = Layout("clusters", f"{SIZES} {MOST_DIMENSIONS}", False, _find_clusters, _read_clusters)


def _most_neighbours(extent: Extent) -> int:
    return min(MOST_NEIGHBOURS, extent.smallest - 1)


def _most_in_cluster(extent: Extent) -> int:
    """No more than a subject has: larger ones mix the few of a fold, whose mean a prior mends too well."""
    half = extent.smallest // 2
    return half if extent.per_subject is None else min(extent.per_subject, half)


WAYS = {
    way.name: way
    for way in (
        Way("neighbours", _NEIGHBOURS, _most_neighbours, averagings, Averaging, "k", NeighbourMean),
        Way("diffusion", _NEIGHBOURS, _most_neighbours, spreadings, Spreading, "k", Diffusion),
        Way("clusters", _CLUSTERS, _most_in_cluster, matchings, Matching, "size", ClusterMatch),
    )
}


#: The spaces that smoothing looks at: by the name of their layout, and then by their own.
Spaces = Mapping[str, Mapping[str, Space[Any]]]


@dataclass(frozen=True, eq=False)
class AnyOf:
    """Several ways to smooth, all their settings side by side.

    Attributes:
        methods: Each by the dataclass of its settings.
    """

    methods: Mapping[type, Method]

    @property
    def candidates(self) -> Sequence[Any]:
        return [candidate for method in self.methods.values() for candidate in method.candidates]

    @property
    def uses_prior(self) -> bool:
        return any(method.uses_prior for method in self.methods.values())

    def smoothed(
        self, log_probs: LogProbs, part: Subset, prior: Prior, candidates: Sequence[Any]
    ) -> Iterator[tuple[Any, NDArray[np.float64]]]:
        for setting, method in self.methods.items():
            if mine := [candidate for candidate in candidates if isinstance(candidate, setting)]:
                yield from method.smoothed(log_probs, part, prior, mine)


def any_of(spaces: Spaces, candidates: Sequence[Any]) -> AnyOf:
    """The ways of some candidates, in some spaces."""
    methods = {}
    for way in WAYS.values():
        if mine := [candidate for candidate in candidates if isinstance(candidate, way.setting)]:
            methods[way.setting] = way.method(spaces[way.layout.name], mine)
    return AnyOf(methods)


def all_settings(ways: Sequence[Way], spaces: Sequence[str], extent: Extent) -> list[Any]:
    """Every setting of some ways in some spaces."""
    return [c for way in ways for c in way.candidates(spaces, most=way.most(extent))]


def as_json(setting: Any) -> dict[str, Any]:
    """A setting as plain values, with the name of its way."""
    (name,) = (way.name for way in WAYS.values() if isinstance(setting, way.setting))
    return {"method": name, **asdict(setting)}


def from_json(values: Mapping[str, Any]) -> Any:
    """A setting from `as_json`."""
    return WAYS[values["method"]].setting(**{key: value for key, value in values.items() if key != "method"})


def find_ways(names: Sequence[str]) -> list[Way]:
    """Ways to smooth by name, or a ConfigError that names those there are."""
    if not names or (unknown := [name for name in names if name not in WAYS]):
        got = f"there is no {unknown[0]!r}" if names else "none is named"
        raise ConfigError(f"METHODS: {got}; expected some of {', '.join(WAYS)}")
    return [WAYS[name] for name in dict.fromkeys(names)]


def parse_setting(way: Way, text: str, space: str, extent: Extent) -> Any:
    """One candidate from text such as "k=10 bandwidth=0.3 mean=arithmetic".

    Raises:
        ConfigError: a key is missing or unknown, or a value does not fit.
    """
    expected = [item.name for item in fields(way.setting) if item.name != "space"]
    example = {"k": "10", "bandwidth": "0.3", "mean": "arithmetic", "share": "0.8", "size": "100"}
    such = " ".join(f"{key}={example.get(key, '0.5')}" for key in expected)
    given = dict(pair.partition("=")[::2] for pair in text.split())
    if set(given) != set(expected):
        raise ConfigError(f"HOW={text!r}: {way.name} takes {', '.join(expected)}; expected e.g. HOW={such!r}")
    values = {key: _value(key, value, text) for key, value in given.items()}
    if values[way.bounded] > way.most(extent):
        limit = f"which allow at most {way.bounded}={way.most(extent)}"
        raise ConfigError(f"HOW={text!r}: {too_few(extent, [way])}, {limit}")
    if way.bounded == "size" and values["size"] not in SIZES:
        raise ConfigError(f"HOW={text!r}: expected size one of {', '.join(map(str, SIZES))}")
    return way.setting(space=space, **values)


def too_few(extent: Extent, ways: Sequence[Way]) -> str:
    """What there is, for a message that says it is not enough."""
    text = f"the smallest part has {extent.smallest} images"
    if extent.per_subject is not None and any(way.bounded == "size" for way in ways):
        text += f" and an average subject {extent.per_subject}"
    return text


def _value(key: str, value: str, text: str) -> Any:
    if key == "mean":
        if value not in MEANS:
            raise ConfigError(f"HOW={text!r}: expected mean={' or mean='.join(MEANS)}, got {value!r}")
        return value
    if key == "bandwidth" and value == "none":
        return None
    try:
        number = int(value) if key in ("k", "size") else float(value)
    except ValueError:
        raise ConfigError(f"HOW={text!r}: {key}={value!r} is no number") from None
    most = {"share": 1, "strength": 1}.get(key, np.inf)
    if not 0 < number <= most:
        raise ConfigError(f"HOW={text!r}: {key} has to be above 0{' and at most 1' * (most == 1)}")
    return number
