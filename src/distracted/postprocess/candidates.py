"""The candidates of a smoothing: all settings of METHODS= in SPACES=, or the one of HOW=."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from distracted.errors import ConfigError, StoreError
from distracted.postprocess.clusters import SIZES
from distracted.postprocess.method import Method
from distracted.postprocess.neighbour_mean import MEANS
from distracted.postprocess.neighbours import MAX_NEIGHBOURS
from distracted.postprocess.smooth import METHODS
from distracted.postprocess.step import MIN_FOLDS
from distracted.predictions.store import Store

_LIMITED_BY = {
    "k": "the smallest fold or test set has only so many other images",
    "size": "at most half of the smallest fold or test set, and the images of an average subject",
}


def find_methods(names: Sequence[str]) -> list[type[Method]]:
    """Methods by name.

    Raises:
        ConfigError: none is named, or one does not exist.
    """
    if not names or (unknown := [name for name in names if name not in METHODS]):
        got = f"there is no {unknown[0]!r}" if names else "none is named"
        raise ConfigError(f"METHODS: {got}; expected some of {', '.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names)]


def find_limits(store: Store) -> dict[str, int]:
    """The largest `k` and cluster `size` on a competition."""
    sizes = [len(store.folds.valid(fold)) for fold in range(store.folds.num_folds)]
    smallest = min(*sizes, len(store.competition.test))
    size = smallest // 2
    if store.competition.config.has_subjects:
        # Larger clusters mix a fold's few subjects, and their mean meets the prior too well.
        subjects = store.folds.subjects
        size = min(size, len(subjects) // len(np.unique(subjects)))
    return {"k": min(MAX_NEIGHBOURS, smallest - 1), "size": size}


def all_candidates(store: Store, methods: Sequence[type[Method]], spaces: Sequence[str]) -> list[Method]:
    """All settings of some methods in some spaces.

    Raises:
        StoreError: too few folds to choose by, or too few images for any setting.
    """
    name, num_folds, limits = store.competition.name, store.folds.num_folds, find_limits(store)
    if num_folds < MIN_FOLDS:
        raise StoreError(
            f"{name}: {num_folds} folds are too few to choose a smoothing by; expected three or more, or HOW="
        )
    candidates = [one for method in methods for one in method.candidates(spaces, limits)]
    if not candidates:
        names = " ".join(method.name for method in methods)
        most = " and ".join(f"{key}={value}" for key, value in limits.items())
        raise StoreError(f"{name}: too few images for METHODS={names!r}, which allow at most {most}")
    return candidates


def parse_candidate(method: type[Method], text: str, space: str, limits: Mapping[str, int]) -> Method:
    """One candidate from text such as "k=10 bandwidth=0.3 mean=arithmetic".

    Raises:
        ConfigError: a key is missing or unknown, or a value does not fit.
    """
    expected = [item.name for item in fields(method) if item.name != "space"]  # type: ignore[arg-type]
    given = dict(pair.partition("=")[::2] for pair in text.split())
    if set(given) != set(expected):
        takes = f"{method.name} takes {', '.join(expected)}; expected e.g. HOW={method.example!r}"
        raise ConfigError(f"HOW={text!r}: {takes}")
    try:
        values = {key: _parse(key, value) for key, value in given.items()}
        for key, most in limits.items():
            if values.get(key, 0) > most:
                raise ValueError(f"expected {key} at most {most} here: {_LIMITED_BY[key]}")
    except ValueError as error:
        raise ConfigError(f"HOW={text!r}: {error}") from None
    return method(space=space, **values)  # type: ignore[call-arg]


def _parse(key: str, value: str) -> Any:
    if key == "mean":
        if value not in MEANS:
            raise ValueError(f"expected mean={' or mean='.join(MEANS)}, got {value!r}")
        return value
    if key == "bandwidth" and value == "none":
        return None
    try:
        number = int(value) if key in ("k", "size") else float(value)
    except ValueError:
        raise ValueError(f"{key}={value!r} is not a number") from None
    most = 1 if key in ("share", "strength") else np.inf
    if not 0 < number <= most:
        raise ValueError(f"{key} has to be above 0{' and at most 1' * (most == 1)}")
    if key == "size" and number not in SIZES:
        raise ValueError(f"expected size one of {', '.join(map(str, SIZES))}")
    return number
