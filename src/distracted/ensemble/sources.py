"""Sources: predictions that can be made again without the labels of any given folds.

What is fitted on out-of-fold rows (a temperature, a smoothing, blend weights, a choice) is fitted on the
folds that it may see and predicts those that it may not. A fold that a blend predicts must be hidden from its
members' steps, too, whose stored predictions of the other folds have seen it. So a blend takes its members as
sources, not as files. If one step stands on another, it is fitted on predictions of rows that the other was
not fitted on.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.pools import fit_linear_pool
from distracted.ensemble.unseen_classes import among_occurring, with_unseen
from distracted.headline import LOG_LOSS, Judged, Metric
from distracted.metrics import as_good, log_losses
from distracted.postprocess.step import (
    MIN_FOLDS,
    Estimator,
    Examples,
    Inputs,
    LogProbs,
    Rows,
    Runs,
    Subset,
)

#: No hidden folds.
NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """The rows with out-of-fold predictions: their labels, folds (never -1) and subjects, (num_images,)."""

    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    subjects: NDArray[np.int64]

    @cached_property
    def num_folds(self) -> int:
        return int(self.folds.max()) + 1

    @cached_property
    def by_fold(self) -> list[NDArray[np.int64]]:
        """Positions of each fold's rows."""
        return [np.flatnonzero(self.folds == fold) for fold in range(self.num_folds)]

    def visible_folds(self, hidden: frozenset[int]) -> list[int]:
        """The folds that are not hidden."""
        return [fold for fold in range(self.num_folds) if fold not in hidden]

    def visible(self, hidden: frozenset[int]) -> NDArray[np.bool_]:
        """Whether each row belongs to a fold that is not hidden."""
        is_visible = np.ones(self.num_folds, dtype=np.bool_)
        is_visible[list(hidden)] = False
        visible: NDArray[np.bool_] = is_visible[self.folds]
        return visible


class Source(ABC):
    """Predicts any subset without the labels of hidden folds.

    Attributes:
        min_folds: Folds that it needs to see; with fewer it leaves something out.
    """

    scored: ScoredRows
    min_folds = 0

    @abstractmethod
    def predict(self, subset: Subset, hidden: frozenset[int]) -> LogProbs:
        """Log-probabilities of a subset's rows, (num_images, num_classes).

        Args:
            hidden: Folds whose labels nothing fitted on out-of-fold rows may have seen.
        """

    @abstractmethod
    def with_test_set(self, predict: Callable[[str], LogProbs]) -> Self:
        """The same source with other images as its test set; fits and choices stay as they are.

        Args:
            predict: Predictions of those images by the `StoredSource` of a name, one for each fold's network,
                (num_folds, num_images, num_classes).
        """

    def held_out_log_probs(self, hidden: frozenset[int] = NONE, *, min_folds: int = 0) -> LogProbs:
        """Predictions of all rows of visible folds, each fold's by fits without it.

        Args:
            min_folds: A fit that would see fewer folds includes the one that it predicts.
        """
        scored, log_probs, positions = self.scored, [], []
        for fold in scored.visible_folds(hidden):
            without = hidden | {fold}
            enough = len(scored.visible_folds(without)) >= min_folds
            log_probs.append(self.predict(Subset(fold), without if enough else hidden))
            positions.append(scored.by_fold[fold])
        in_order: LogProbs = np.concatenate(log_probs)[np.concatenate(positions).argsort()]
        return in_order

    def forget(self) -> None:  # noqa: B027  # most sources keep nothing
        """Drop predictions that are kept for those who ask again; fits and choices stay."""

    def judged(self, metric: Metric, hidden: frozenset[int] = NONE) -> Judged:
        """The score of `held_out_log_probs`."""
        return metric.judge(self.held_out_log_probs(hidden), self.scored.labels[self.scored.visible(hidden)])

    def held_out_losses(self, hidden: frozenset[int] = NONE) -> NDArray[np.float64]:
        """Loss of each row of `held_out_log_probs`."""
        return log_losses(self.held_out_log_probs(hidden), self.scored.labels[self.scored.visible(hidden)])


class ByFold(Protocol):
    """Predictions by fold; perhaps read when they are asked for, since all together are large."""

    def __getitem__(self, fold: int, /) -> LogProbs: ...


@dataclass(eq=False)
class StoredSource(Source):
    """Predictions in which nothing was fitted on out-of-fold rows, such as a network's, as they are stored.

    Attributes:
        oof: Predictions of the scored rows, (num_images, num_classes).
        test: Predictions of the test set by fold, of its network, (num_test, num_classes); None if only the
            scored rows are needed.
    """

    name: str
    oof: LogProbs
    scored: ScoredRows
    test: "ByFold | None" = None

    def predict(self, subset: Subset, hidden: frozenset[int]) -> LogProbs:
        rows: LogProbs
        if subset.test:
            assert self.test is not None, f"{self.name}: no predictions of the test set"
            rows = self.test[subset.fold]
        else:
            rows = self.oof[self.scored.by_fold[subset.fold]]
        return rows

    def with_test_set(self, predict: Callable[[str], LogProbs]) -> Self:
        return replace(self, test=predict(self.name))

    def held_out_log_probs(self, hidden: frozenset[int] = NONE, *, min_folds: int = 0) -> LogProbs:
        rows: LogProbs = self.oof[self.scored.visible(hidden)]
        return rows


@dataclass(eq=False)
class FittedSource(Source):
    """An estimator on other sources, fitted on the folds that are not hidden.

    Attributes:
        on_fit: Called after each fit.
    """

    estimator: Estimator
    inputs: Sequence[Source]
    on_fit: Callable[[], None] = lambda: None
    _fits: dict[frozenset[int], Any] = field(default_factory=dict)
    _predicted: dict[tuple[Subset, frozenset[int]], LogProbs] = field(default_factory=dict)
    _num_classes: int = 0  # not known yet
    _trusted: dict[frozenset[int], NDArray[np.float64]] = field(default_factory=dict)  # see `with_unseen`

    def __post_init__(self) -> None:
        self.scored = self.inputs[0].scored
        self.min_folds = max(self.estimator.min_folds, *(source.min_folds for source in self.inputs))

    def fit(self, hidden: frozenset[int]) -> Any:
        """What the estimator learns from the visible folds; fitted once."""
        if hidden not in self._fits:
            examples = self.examples(hidden)
            if (occurs := self._occurring(hidden, examples.log_probs)) is not None:
                self._trusted[hidden] = fit_linear_pool(examples.log_probs, examples.labels)
                log_probs = among_occurring(examples.log_probs, occurs)
                labels = (occurs.cumsum() - 1)[examples.labels]
                examples = replace(examples, log_probs=log_probs, labels=labels)
            self._fits[hidden] = self.estimator.fit(examples)
            self.on_fit()
        return self._fits[hidden]

    def predict(self, subset: Subset, hidden: frozenset[int]) -> LogProbs:
        key = subset, hidden
        if key in self._predicted:
            return self._predicted[key]
        inputs = self._ask([partial(source.predict, subset, hidden) for source in self.inputs])
        subjects = None if subset.test else self.scored.subjects[self.scored.by_fold[subset.fold]]
        log_probs = self.predict_rows(Rows(subset, inputs, subjects), hidden)
        if not subset.test:  # sources on top ask again and again; test sets are large and asked for once
            self._predicted[key] = log_probs
        return log_probs

    def predict_rows(self, rows: Rows, hidden: frozenset[int]) -> LogProbs:
        """Predict rows of the inputs by what was learned from the visible folds."""
        fitted, runs = self.fit(hidden), rows.log_probs
        if (occurs := self._occurring(hidden, runs)) is None:
            return self.estimator.predict(fitted, rows)
        log_probs = self.estimator.predict(fitted, rows._replace(log_probs=among_occurring(runs, occurs)))
        return with_unseen(log_probs, runs, occurs, self._trusted[hidden])

    def _occurring(self, hidden: frozenset[int], runs: Runs) -> NDArray[np.bool_] | None:
        """The classes with a row in the visible folds, (num_classes,); None if the fit takes all classes."""
        labels = self.scored.labels[self.scored.visible(hidden)]
        if not self.estimator.can_sharpen or not len(labels):
            return None
        if not self._num_classes:
            self._num_classes = runs[0].shape[1]  # once: to ask for a run's predictions takes time
        occurs: NDArray[np.bool_] = np.bincount(labels, minlength=self._num_classes) > 0
        return None if occurs.all() else occurs

    def with_test_set(self, predict: Callable[[str], LogProbs]) -> Self:
        return replace(self, inputs=[source.with_test_set(predict) for source in self.inputs])

    def examples(self, hidden: frozenset[int]) -> Examples:
        """The inputs' predictions of the visible folds, in the order of the rows.

        If too few folds remain without the one that an input predicts, its fit includes it: without it a
        smoothing would not be chosen, and a blend would weigh a run that it does not blend.
        """
        scored, visible = self.scored, self.scored.visible(hidden)
        rows = scored.labels[visible], scored.folds[visible], scored.subjects[visible]
        held_out = [
            partial(source.held_out_log_probs, hidden, min_folds=source.min_folds) for source in self.inputs
        ]
        return Examples(self._ask(held_out), *rows)

    def forget(self) -> None:
        self._predicted.clear()
        for source in self.inputs:
            source.forget()

    def _ask(self, inputs: Sequence[Callable[[], LogProbs]]) -> Inputs:
        """The inputs' predictions; of a single run in float64, which is what steps compute in."""
        if len(inputs) > 1:
            return Inputs(inputs)
        [only] = inputs
        return Inputs([lambda: np.asarray(only(), dtype=np.float64)])


@dataclass(eq=False)
class ChosenSource(Source):
    """The simplest of several candidates that is as good as the best on the folds that are not hidden.

    Attributes:
        candidates: From the simplest to the most flexible.
        metric: The score to choose by.
    """

    candidates: Sequence[FittedSource]
    metric: Metric = LOG_LOSS
    _choices: dict[frozenset[int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scored = self.candidates[0].scored
        own = MIN_FOLDS - 1 if len(self.candidates) > 1 else 0
        self.min_folds = max(own, *(candidate.min_folds for candidate in self.candidates))

    def choice(self, hidden: frozenset[int]) -> int:
        """Position of the candidate that the visible folds choose; 0 if they are too few to compare."""
        if hidden not in self._choices:
            few = len(self.candidates) == 1 or len(self.scored.visible_folds(hidden)) < MIN_FOLDS - 1
            self._choices[hidden] = 0 if few else self._simplest(hidden)
        return self._choices[hidden]

    def fit(self, hidden: frozenset[int]) -> Any:
        """What the candidate learns that the visible folds choose."""
        return self.candidates[self.choice(hidden)].fit(hidden)

    def predict(self, subset: Subset, hidden: frozenset[int]) -> LogProbs:
        return self.candidates[self.choice(hidden)].predict(subset, hidden)

    def with_test_set(self, predict: Callable[[str], LogProbs]) -> Self:
        return replace(self, candidates=[candidate.with_test_set(predict) for candidate in self.candidates])

    def forget(self) -> None:
        for candidate in self.candidates:
            candidate.forget()

    def _simplest(self, hidden: frozenset[int]) -> int:
        judged = [candidate.judged(self.metric, hidden) for candidate in self.candidates]
        subjects = self.scored.subjects[self.scored.visible(hidden)]
        best = min(judged, key=lambda one: one.loss)
        compared = (one.above(best, subjects) for one in judged)
        return next(n for n, (difference, error) in enumerate(compared) if as_good(difference, error))


@dataclass(eq=False)
class SourceByFold(Source):
    """A source for each fold, such as blends of members that the other folds chose.

    A fit on top of it for fold k asks for all of fold k's own source, also on other folds' rows: it was made
    without fold k's labels, and theirs were not.

    Attributes:
        sources: By fold.
    """

    sources: Sequence[FittedSource | ChosenSource]

    def __post_init__(self) -> None:
        self.scored = self.sources[0].scored
        self.min_folds = max(source.min_folds for source in self.sources)

    def predict(self, subset: Subset, hidden: frozenset[int]) -> LogProbs:
        outer = hidden - {subset.fold}
        return self.sources[min(outer, default=subset.fold)].predict(subset, hidden)

    def fit(self, hidden: frozenset[int]) -> Any:
        """What is learned for the hidden fold."""
        [fold] = hidden
        return self.sources[fold].fit(hidden)

    def with_test_set(self, predict: Callable[[str], LogProbs]) -> Self:
        return replace(self, sources=[source.with_test_set(predict) for source in self.sources])

    def forget(self) -> None:
        for source in self.sources:
            source.forget()
