"""What screening measured: speeds and probes of each input, kept in a file."""

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distracted.compete.candidates import FROZEN, Candidate, Input, all_candidates
from distracted.compete.times import Speed
from distracted.compete.value import Evidence
from distracted.errors import first_line
from distracted.files import write_json

_log = logging.getLogger(__name__)

_UNEVEN = 1.25  # the largest class against the smallest: from here on classes can be drawn equally often


@dataclass(frozen=True)
class Screened:
    """One input's measurements.

    Attributes:
        losses: Mean log loss of the probe on each fold, (num_folds,); even: the same with classes that count
            equally.
        seconds: Time of the measurement.
        config_hash: Hash of the config of the frozen features.
    """

    input: Input
    speed: Speed
    losses: tuple[float, ...]
    even: tuple[float, ...]
    seconds: float
    config_hash: str

    def as_json(self) -> dict[str, Any]:
        speed = {"train": dict(self.speed.train), "predict": self.speed.predict, "fit": self.speed.fit}
        size = {"model": self.input.model, "size": self.input.size, "own": self.input.own}
        scores = {"losses": self.losses, "even": self.even}
        return {**size, "speed": speed, **scores, "seconds": self.seconds, "config_hash": self.config_hash}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Screened":
        one = Input(value["model"], value["size"], value["own"])
        speed, losses = Speed(**value["speed"]), tuple(value["losses"])
        return cls(one, speed, losses, tuple(value["even"]), value["seconds"], value["config_hash"])


@dataclass
class Screen:
    """All measurements, and what was left out.

    Attributes:
        counts: Scored images of each class and fold, (num_folds, num_classes).
        left_out: Why, by model or input.
    """

    counts: NDArray[np.int64]
    inputs: list[Screened] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def candidates(self, fixed: Sequence[str] = ()) -> list[Candidate]:
        """All runs with these inputs; see `all_candidates`."""
        recipes = {one.input: {FROZEN, *one.speed.train} for one in self.inputs}
        every = all_candidates(recipes, uneven=True, fixed=fixed)
        return [candidate for candidate in every if candidate.recipe in recipes[candidate.input]]

    def evidence(self, hidden: Collection[int] = ()) -> Evidence:
        """The probes' scores without some folds' rows."""
        seen = [fold for fold in range(len(self.counts)) if fold not in hidden]
        of_class = self.counts[seen].sum(axis=0)

        def mean(losses: Sequence[float]) -> float:
            return float(np.average([losses[fold] for fold in seen], weights=self.counts[seen].sum(axis=1)))

        probes = {(one.input, False): mean(one.losses) for one in self.inputs}
        if of_class.max() > _UNEVEN * max(1, of_class.min()):
            probes |= {(one.input, True): mean(one.even) for one in self.inputs}
        return Evidence(probes)


def read_screened(path: Path, key: str) -> dict[Input, Screened]:
    """The measurements in a file; none if it is damaged, or was made under another key."""
    try:
        kept = json.loads(path.read_text())
        if kept["key"] != key:
            _log.info("%s: measured for other data, folds or threads; measured again", path)
            return {}
        return {one.input: one for one in map(Screened.from_json, kept["inputs"])}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: not readable (%s); measured again", path, first_line(error))
        return {}


def write_screened(path: Path, key: str, screened: Iterable[Screened]) -> None:
    """Write measurements to a file."""
    write_json(path, {"key": key, "inputs": [one.as_json() for one in screened]})
