"""Sources: predictions that can be made again without the labels of any given folds.

What is fitted on out-of-fold rows (a temperature, a smoothing, blend weights, a choice) is fitted on the
folds that it may see and predicts those that it may not. A fold that a blend predicts must be hidden from its
members' steps, too, whose stored predictions of the other folds have seen it. So a blend takes its members as
sources, not as files. If one step stands on another, it is fitted on predictions of rows that the other was
not fitted on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distracted.metrics import difference_and_error, log_losses
from distracted.postprocess.step import MIN_FOLDS, Estimator, Examples, LogProbs, Subset

#: Differences in log loss below this count as equal, however certain they are.
NEGLIGIBLE = 1e-5


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """The rows with out-of-fold predictions: their labels, folds (never -1) and subjects, (num_images,)."""

    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    subjects: NDArray[np.int64]

    @property
    def num_folds(self) -> int:
        return int(self.folds.max()) + 1

    def subjects_by_fold(self) -> dict[int, NDArray[np.int64]]:
        """Subjects of each fold's rows, in the order of `Folds.valid`."""
        return {fold: self.subjects[self.folds == fold] for fold in range(self.num_folds)}

    def visible_folds(self, hidden: frozenset[int]) -> list[int]:
        """The folds that are not hidden."""
        return [fold for fold in range(self.num_folds) if fold not in hidden]

    def visible(self, hidden: frozenset[int]) -> NDArray[np.bool_]:
        """Whether each row belongs to a fold that is not hidden."""
        return ~np.isin(self.folds, list(hidden))


class Source(Protocol):
    """Predicts any subset without the labels of hidden folds."""

    @property
    def name(self) -> str: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def min_folds(self) -> int:
        """Folds that it needs to see; with fewer it leaves something out."""

    def predict(self, subset: Subset, hidden: frozenset[int]) -> LogProbs:
        """Log-probabilities of a subset's rows, (num_images, num_classes).

        Args:
            hidden: Folds whose labels nothing fitted on out-of-fold rows may have seen.
        """


@dataclass(frozen=True, eq=False)
class StoredSource:
    """Predictions in which nothing was fitted on out-of-fold rows, such as a network's, as they are stored.

    Attributes:
        oof: Predictions of the scored rows, (num_images, num_classes).
        test: Predictions of the test set by each fold's network, (num_folds, num_test, num_classes); None if
            only the scored rows are needed.
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

    def predict(self, subset: Subset, hidden: frozenset[int]) -> LogProbs:
        if not subset.test:
            held_out: LogProbs = self.oof[self.scored.folds == subset.fold]
            return held_out
        assert self.test is not None, f"{self.name}: no predictions of the test set"
        rows: LogProbs = self.test[subset.fold]
        return rows


@dataclass(frozen=True, eq=False)
class FittedSource:
    """An estimator on other sources, fitted on the folds that are not hidden.

    Attributes:
        on_fit: Called after each fit.
    """

    name: str
    estimator: Estimator
    inputs: Sequence[Source]
    scored: ScoredRows
    on_fit: Callable[[], None] = lambda: None
    _fits: dict[frozenset[int], Any] = field(default_factory=dict)
    _predicted: dict[tuple[Subset, frozenset[int]], NDArray[np.float64]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return self.inputs[0].num_classes

    @property
    def min_folds(self) -> int:
        return max(self.estimator.min_folds, *(source.min_folds for source in self.inputs))

    def fit(self, hidden: frozenset[int]) -> Any:
        """What the estimator learns from the visible folds; fitted once."""
        if hidden not in self._fits:
            self._fits[hidden] = self.estimator.fit(self.examples(hidden))
            self.on_fit()
        return self._fits[hidden]

    def predict(self, subset: Subset, hidden: frozenset[int]) -> NDArray[np.float64]:
        key = subset, hidden
        if key in self._predicted:
            return self._predicted[key]
        inputs = np.stack([source.predict(subset, hidden) for source in self.inputs])
        log_probs = self.estimator.predict(self.fit(hidden), inputs, subset)
        if not subset.test:  # sources on top ask again and again; test sets are large and asked for once
            self._predicted[key] = log_probs
        return log_probs

    def examples(self, hidden: frozenset[int]) -> Examples:
        """The inputs' predictions of the visible folds, in the order of the rows."""
        scored, visible = self.scored, self.scored.visible(hidden)
        inputs = [_predict_visible(source, scored, hidden) for source in self.inputs]
        return Examples(
            np.stack(inputs), scored.labels[visible], scored.folds[visible], scored.subjects[visible]
        )


def _predict_visible(source: Source, scored: ScoredRows, hidden: frozenset[int]) -> LogProbs:
    """Predictions of the visible folds, each by a fit without it.

    If too few other folds remain, the fit includes it: without it a smoothing would not be chosen, and a
    blend would weigh a run that it does not blend.
    """
    if isinstance(source, StoredSource):
        return source.oof[scored.visible(hidden)]
    rows = np.empty((len(scored.labels), source.num_classes))
    for fold in scored.visible_folds(hidden):
        without = hidden | {fold}
        enough = len(scored.visible_folds(without)) >= source.min_folds
        rows[scored.folds == fold] = source.predict(Subset(fold), without if enough else hidden)
    return rows[scored.visible(hidden)]


@dataclass(frozen=True, eq=False)
class ChosenSource:
    """The simplest of several candidates that is as good as the best on the folds that are not hidden.

    Attributes:
        candidates: From the simplest to the most flexible.
    """

    name: str
    candidates: Sequence[FittedSource]
    scored: ScoredRows
    _choices: dict[frozenset[int], int] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return self.candidates[0].num_classes

    @property
    def min_folds(self) -> int:
        own = MIN_FOLDS - 1 if len(self.candidates) > 1 else 0
        return max(own, *(candidate.min_folds for candidate in self.candidates))

    def choice(self, hidden: frozenset[int]) -> int:
        """Position of the candidate that the visible folds choose; 0 if they are too few to compare."""
        if hidden not in self._choices:
            few = len(self.candidates) == 1 or len(self.scored.visible_folds(hidden)) < MIN_FOLDS - 1
            self._choices[hidden] = 0 if few else self._simplest(hidden)
        return self._choices[hidden]

    def predict(self, subset: Subset, hidden: frozenset[int]) -> NDArray[np.float64]:
        return self.candidates[self.choice(hidden)].predict(subset, hidden)

    def _simplest(self, hidden: frozenset[int]) -> int:
        losses = [held_out_losses(candidate, self.scored, hidden) for candidate in self.candidates]
        subjects = self.scored.subjects[self.scored.visible(hidden)]
        best = min(losses, key=lambda values: float(values.mean()))
        compared = (difference_and_error(values, best, subjects) for values in losses)
        return next(n for n, (difference, error) in enumerate(compared) if as_good(difference, error))


def replace_test_set(source: Source, predict: Callable[[str], LogProbs]) -> Source:
    """The same source with other images as its test set; fits and choices stay as they are.

    Args:
        predict: Predictions of those images by the `StoredSource` of a name, one for each fold's network,
            (num_folds, num_images, num_classes).
    """

    def replaced(fitted: FittedSource) -> FittedSource:
        return replace(fitted, inputs=[replace_test_set(one, predict) for one in fitted.inputs])

    match source:
        case StoredSource():
            return replace(source, test=predict(source.name))
        case FittedSource():
            return replaced(source)
        case ChosenSource():
            return replace(source, candidates=[replaced(candidate) for candidate in source.candidates])
    raise AssertionError(source)


def as_good(difference: float, error: float) -> bool:
    """Whether a loss above the best one counts as equally good: within one standard error of it."""
    return difference <= max(error, NEGLIGIBLE)


def held_out_log_probs(
    source: Source, scored: ScoredRows, hidden: frozenset[int] = frozenset()
) -> NDArray[np.float64]:
    """Predictions of each visible fold by fits without it; the hidden folds' rows are NaN."""
    rows = np.full((len(scored.labels), source.num_classes), np.nan)
    for fold in scored.visible_folds(hidden):
        rows[scored.folds == fold] = source.predict(Subset(fold), hidden | {fold})
    return rows


def held_out_losses(source: Source, scored: ScoredRows, hidden: frozenset[int]) -> NDArray[np.float64]:
    """Loss of each visible row, predicted as by `held_out_log_probs`."""
    visible = scored.visible(hidden)
    return log_losses(held_out_log_probs(source, scored, hidden)[visible], scored.labels[visible])
