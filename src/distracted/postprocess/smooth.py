"""Smoothing: images that lie near each other in a feature space are predicted together.

Neighbours and clusters come from the same subset: for an out-of-fold row from its fold, for a test image from
the test set, as in the solutions of the 1st and 3rd place of State Farm. Labels and subjects of the rows that
are smoothed are never read.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from distracted.errors import ConfigError
from distracted.metrics import log_losses
from distracted.postprocess.clusters import ClusterMatch
from distracted.postprocess.diffusion import Diffusion
from distracted.postprocess.method import Method, Prior
from distracted.postprocess.neighbour_mean import NeighbourMean
from distracted.postprocess.spaces import Space, stored_spaces
from distracted.postprocess.step import Examples, LogProbs, PredictionStep, Rows, Subset, class_shares
from distracted.predictions.run import StoredRun
from distracted.predictions.store import Store

_ALL: tuple[type[Method], ...] = (NeighbourMean, Diffusion, ClusterMatch)
METHODS: Mapping[str, type[Method]] = {method.name: method for method in _ALL}


@dataclass(frozen=True)
class Smoothing:
    """What was fitted: the best candidate, and the class shares of the labels, (num_classes,)."""

    how: Method
    prior: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Smooth(PredictionStep):
    """Smooths by the candidate with the lowest log loss on out-of-fold rows.

    Attributes:
        spaces: Feature spaces by the names that candidates use.
        candidates: Methods with their settings.
        fixed: Take the first candidate, without reading labels; otherwise none may be better.
    """

    spaces: Mapping[str, Space]
    candidates: Sequence[Method]
    fixed: bool = False
    name: ClassVar[str] = "smooth"
    suffix: ClassVar[str] = "smooth"
    target: ClassVar[str] = "smooth"

    @classmethod
    def from_text(cls, text: str) -> Self:
        raise ConfigError(f"STEP={cls.name}: it needs feature spaces; `make smooth` makes it")

    @classmethod
    def load(cls, store: Store, run: StoredRun) -> Self:
        stored = run.manifests[0].config["step"]
        candidates = [from_json(values) for values in stored["candidates"]]
        return cls(stored_spaces(store, run), candidates, stored["fixed"])

    def settings(self) -> dict[str, Any]:
        return {
            "spaces": self._by_kind(lambda space, kind: space.description),
            "candidates": [to_json(candidate) for candidate in self.candidates],
            "fixed": self.fixed,
        }

    @classmethod
    def variables(cls, settings: Mapping[str, Any]) -> dict[str, str]:
        candidates = settings.get("candidates", [])
        if not candidates:
            return {}
        variables = {
            "SPACES": " ".join(dict.fromkeys(one["space"] for one in candidates)),
            "METHODS": " ".join(dict.fromkeys(one["method"] for one in candidates)),
        }
        if settings["fixed"]:
            variables["HOW"] = in_words(candidates[0], but=("method", "space"))
        return variables

    @classmethod
    def needs_all_images(cls, settings: Mapping[str, Any]) -> str:
        return "averages images that look alike"

    @property
    def reads_labels(self) -> bool:
        return not self.fixed or any(candidate.uses_prior for candidate in self.candidates)

    @property
    def must_beat_identity(self) -> bool:
        return not self.fixed

    @property
    def num_candidates(self) -> int:
        return 1 if self.fixed else 1 + len(self.candidates)  # with no smoothing at all

    @property
    def seconds(self) -> float:
        return sum(space.seconds for space in self.spaces.values())

    def inputs(self, fold: int) -> dict[str, Any]:
        keys = {"spaces": self._by_kind(lambda space, kind: space.keys_of_fold(kind, fold))}
        parts = {"valid": Subset(fold), "test": Subset(fold, test=True)}
        searches = {
            f"{name}, {part}": search
            for name, space in self.spaces.items()
            for kind in space.keys
            for part, subset in parts.items()
            if (search := space.search_of(kind, subset))
        }
        return keys | ({"searches": searches} if searches else {})  # none if all were exact

    def fit(self, examples: Examples) -> Smoothing:
        prior = class_shares(examples.labels, examples.log_probs[0].shape[1])
        how = self.candidates[0] if self.fixed else self._best(examples, prior)
        return Smoothing(how, tuple(prior.tolist()))

    def predict(self, fitted: Smoothing, rows: Rows) -> LogProbs:
        how = fitted.how
        index = self.spaces[how.space].get(how.index, rows.subset)
        return how.smooth(rows.log_probs[0], index, np.array(fitted.prior))

    def describe(self, fits: Sequence[Smoothing | None], overall: Any, runs: Sequence[str]) -> str:
        texts = Counter("none" if fitted is None else in_words(to_json(fitted.how)) for fitted in fits)
        return "; ".join(f"{text} ({number} folds)" for text, number in texts.items())

    def _best(self, examples: Examples, prior: Prior) -> Method:
        losses = {candidate: np.empty(len(examples.labels)) for candidate in self.candidates}
        groups: dict[tuple[type[Method], str], list[Method]] = {}
        for candidate in self.candidates:
            groups.setdefault((type(candidate), candidate.space), []).append(candidate)
        for (method, space), group in groups.items():
            for positions, rows in examples.by_fold():
                index = self.spaces[space].get(method.index, rows.subset)
                for candidate, smoothed in method.smooth_all(group, rows.log_probs[0], index, prior):
                    losses[candidate][positions] = log_losses(smoothed, examples.labels[positions])
        return min(losses, key=lambda candidate: float(losses[candidate].mean()))

    def _by_kind(self, value: Callable[[Space, str], Any]) -> dict[str, dict[str, Any]]:
        """A value of each space, by the kind of index and the name of the space: the form of manifests."""
        kinds = next(iter(self.spaces.values())).keys
        return {kind: {name: value(space, kind) for name, space in self.spaces.items()} for kind in kinds}


def to_json(candidate: Method) -> dict[str, Any]:
    """A candidate as manifests hold it: its method's name and its settings."""
    return {"method": candidate.name, **asdict(candidate)}  # type: ignore[call-overload]  # a dataclass


def from_json(values: Mapping[str, Any]) -> Method:
    """A candidate from `to_json`."""
    return METHODS[values["method"]](**{key: value for key, value in values.items() if key != "method"})


def in_words(values: Mapping[str, Any], *, but: Sequence[str] = ()) -> str:
    """A candidate's settings from `to_json` as HOW= takes them."""
    shown = {key: "none" if value is None else value for key, value in values.items() if key not in but}
    return " ".join(f"{key}={value}" for key, value in shown.items())
