"""Sources: predictions that can be made anew without the labels of any folds.

What is fitted on out-of-fold rows (a temperature, a smoothing, a blend's weights, a choice) is fitted on the
folds that it may see, and predicts those that it may not. A fold that a blend predicts has to be hidden from
its members' steps too, whose stored predictions of the other folds have seen it: so a blend takes its members
as sources, not as files. Where one step stands on another, it is fitted on what the other predicts of rows
that it was not fitted on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distracted.metrics import difference_and_error, log_losses
from distracted.postprocess.step import Examples, LogProbs, Step, Subset

#: A choice among fitted steps for fold k needs two other folds: one to fit on, one to compare on.
MIN_FOLDS = 3
#: Log loss: what is better by less is as good, however sure that is.
NEGLIGIBLE = 1e-5


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """The rows that have out-of-fold predictions: label, fold (none is -1) and subject, (num_images,)."""

    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    subjects: NDArray[np.int64]

    @property
    def num_folds(self) -> int:
        return int(self.folds.max()) + 1

    def subjects_by_fold(self) -> dict[int, NDArray[np.int64]]:
        """Subjects of each fold's rows, in the order of `Folds.valid`."""
        return {fold: self.subjects[self.folds == fold] for fold in range(self.num_folds)}

    def others(self, without: frozenset[int]) -> list[int]:
        """The folds that may be seen."""
        return [fold for fold in range(self.num_folds) if fold not in without]

    def seen(self, without: frozenset[int]) -> NDArray[np.bool_]:
        """Whether each row is of a fold that may be seen."""
        return ~np.isin(self.folds, list(without))


class Source(Protocol):
    """Predicts any part without the labels of some folds."""

    @property
    def name(self) -> str: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def min_folds(self) -> int:
        """Folds that it has to see; with fewer it leaves out some of what it does."""

    def predict(self, part: Subset, without: frozenset[int]) -> LogProbs:
        """Log-probabilities of a part's rows, (num_images, num_classes).

        Args:
            without: Folds whose labels nothing that was fitted on out-of-fold rows may have seen.
        """


@dataclass(frozen=True, eq=False)
class Stored:
    """Predictions as they are: a network's. Nothing in them was fitted on out-of-fold rows.

    Attributes:
        oof: Of the scored rows, (num_images, num_classes).
        test: Of each fold's network, (num_folds, num_test, num_classes); None where only the scored rows are
            asked for.
    """

    name: str
    oof: LogProbs
    scored: ScoredRows
    test: LogProbs | None = None

    @property
    def num_classes(self) -> int:
        return int(self.oof.shape[1])

    @property
    def min_folds(self) -> int:
        return 0

    def predict(self, part: Subset, without: frozenset[int]) -> LogProbs:
        if not part.test:
            held_out: LogProbs = self.oof[self.scored.folds == part.fold]
            return held_out
        assert self.test is not None, f"{self.name}: no predictions of the test set"
        rows: LogProbs = self.test[part.fold]
        return rows


@dataclass(frozen=True, eq=False)
class Fitted:
    """A step on other sources, fitted on the folds that may be seen.

    Attributes:
        on_fit: Called after each fit.
    """

    name: str
    step: Step
    sources: Sequence[Source]
    scored: ScoredRows
    on_fit: Callable[[], None] = lambda: None
    _known: dict[frozenset[int], Any] = field(default_factory=dict)
    _predicted: dict[tuple[Subset, frozenset[int]], NDArray[np.float64]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return self.sources[0].num_classes

    @property
    def min_folds(self) -> int:
        return max(self.step.min_folds, *(source.min_folds for source in self.sources))

    def fitted(self, without: frozenset[int]) -> Any:
        """What the step learned from the other folds; fitted once."""
        if without not in self._known:
            self._known[without] = self.step.learn(self.examples(without))
            self.on_fit()
        return self._known[without]

    def predict(self, part: Subset, without: frozenset[int]) -> NDArray[np.float64]:
        key = part, without
        if key in self._predicted:
            return self._predicted[key]
        inputs = np.stack([source.predict(part, without) for source in self.sources])
        found = self.step.apply(self.fitted(without), inputs, part)
        if not part.test:  # asked for again and again by what stands on it; test sets are large
            self._predicted[key] = found
        return found

    def examples(self, without: frozenset[int]) -> Examples:
        """The sources' predictions of the folds that may be seen, in the order of the rows."""
        scored, seen = self.scored, self.scored.seen(without)
        inputs = [_of_seen_folds(source, scored, without) for source in self.sources]
        return Examples(np.stack(inputs), scored.labels[seen], scored.folds[seen], scored.subjects[seen])


def _of_seen_folds(source: Source, scored: ScoredRows, without: frozenset[int]) -> LogProbs:
    """Predictions of the folds that may be seen, each by what was fitted without it.

    Where too few others remain, by what was fitted with it: without it a smoothing would not be chosen, and a
    blend would weigh a run that it does not blend.
    """
    if isinstance(source, Stored):
        return source.oof[scored.seen(without)]
    rows = np.empty((len(scored.labels), source.num_classes))
    for fold in scored.others(without):
        hidden = without | {fold}
        enough = len(scored.others(hidden)) >= source.min_folds
        rows[scored.folds == fold] = source.predict(Subset(fold), hidden if enough else without)
    return rows[scored.seen(without)]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The simplest of several candidates that is as good as the best, by the folds that may be seen.

    Attributes:
        candidates: From the simplest to the most flexible.
    """

    name: str
    candidates: Sequence[Fitted]
    scored: ScoredRows
    _known: dict[frozenset[int], int] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return self.candidates[0].num_classes

    @property
    def min_folds(self) -> int:
        own = MIN_FOLDS - 1 if len(self.candidates) > 1 else 0
        return max(own, *(candidate.min_folds for candidate in self.candidates))

    def choice(self, without: frozenset[int]) -> int:
        """Which candidate the other folds choose; the first where they are too few to compare."""
        if without not in self._known:
            few = len(self.candidates) == 1 or len(self.scored.others(without)) < MIN_FOLDS - 1
            self._known[without] = 0 if few else self._simplest(without)
        return self._known[without]

    def predict(self, part: Subset, without: frozenset[int]) -> NDArray[np.float64]:
        return self.candidates[self.choice(without)].predict(part, without)

    def _simplest(self, without: frozenset[int]) -> int:
        losses = [held_out_losses(candidate, self.scored, without) for candidate in self.candidates]
        subjects = self.scored.subjects[self.scored.seen(without)]
        best = min(losses, key=lambda values: float(values.mean()))
        compared = (difference_and_error(values, best, subjects) for values in losses)
        return next(n for n, (difference, error) in enumerate(compared) if as_good(difference, error))


def of_other_images(source: Source, predictions: Callable[[str], LogProbs]) -> Source:
    """A source whose test set are other images; what was fitted, and its choices, stay as they are.

    Args:
        predictions: Of those images by each fold's network of the `Stored` source of a name, (num_folds,
            num_images, num_classes).
    """

    def of(step: Fitted) -> Fitted:
        return replace(step, sources=[of_other_images(part, predictions) for part in step.sources])

    match source:
        case Stored():
            return replace(source, test=predictions(source.name))
        case Fitted():
            return of(source)
        case Chosen():
            return replace(source, candidates=[of(candidate) for candidate in source.candidates])
    raise AssertionError(source)


def as_good(difference: float, error: float) -> bool:
    """Whether a candidate whose loss is above the best one's is as good: within a standard error of it."""
    return difference <= max(error, NEGLIGIBLE)


def held_out_log_probs(
    source: Source, scored: ScoredRows, without: frozenset[int] = frozenset()
) -> NDArray[np.float64]:
    """Each fold that may be seen, predicted without a look at itself, too; rows of the others are NaN."""
    rows = np.full((len(scored.labels), source.num_classes), np.nan)
    for fold in scored.others(without):
        rows[scored.folds == fold] = source.predict(Subset(fold), without | {fold})
    return rows


def held_out_losses(source: Source, scored: ScoredRows, without: frozenset[int]) -> NDArray[np.float64]:
    """Loss of each row of the folds that may be seen, predicted as `held_out_log_probs`."""
    seen = scored.seen(without)
    return log_losses(held_out_log_probs(source, scored, without)[seen], scored.labels[seen])
