"""Cross-fitting: nothing that predicts fold k has seen a label of fold k, nor has the blender's choice."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distracted.ensemble.blenders import BLENDERS, Blender, LogProbs
from distracted.ensemble.newton import Vector
from distracted.metrics import difference_and_error, log_loss, log_losses
from distracted.progress import Progress, Step, silent

MIN_FOLDS = (
    3  # a choice among fitted blenders for fold k needs two other folds: one to fit on, one to compare on
)


@dataclass(frozen=True)
class Verdict:
    """How one blender did beside the best of them.

    Attributes:
        in_sample: Log loss with weights fitted on all folds, scored on the same rows.
        cross_fitted: Log loss with each fold's weights fitted on the others.
        difference: Cross-fitted loss above the best blender's; error: the standard error of that over
            subjects.
    """

    name: str
    in_sample: float
    cross_fitted: float
    difference: float
    error: float

    @property
    def as_good(self) -> bool:
        """Within one standard error of the best."""
        return self.difference <= self.error


@dataclass(frozen=True)
class CrossFit:
    """A cross-fitted blend.

    Attributes:
        log_probs: Blended out-of-fold predictions, each fold by what was fitted and chosen on the others,
            (num_images, num_classes).
        chosen: Blender of each fold; weights: and its weights, shape (num_runs,).
        verdicts: The table over all rows, from the simplest blender on; for reading, since no fold's choice
            uses it.
        overall: The blender that all folds together would choose; overall_weights: fitted on all of them.
    """

    log_probs: NDArray[np.float64]
    chosen: tuple[Blender, ...]
    weights: tuple[Vector, ...]
    verdicts: tuple[Verdict, ...]
    overall: Blender
    overall_weights: Vector


def cross_fit(
    log_probs: LogProbs,
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    subjects: NDArray[np.int64],
    *,
    blenders: Sequence[Blender] = BLENDERS,
    progress: Progress = silent,
) -> CrossFit:
    """Fit, choose and score blenders so that the score holds for subjects never seen.

    For fold k the blender is chosen by its scores on the other folds, and those scores are cross-fitted
    among them; its weights are then fitted on all of the other folds. With fewer than three folds there is
    nothing to choose by and the first blender is taken.

    Args:
        log_probs: Members' out-of-fold predictions, shape (num_runs, num_images, num_classes).
        labels: Class ids, shape (num_images,).
        folds: 0-based fold of each row, none of them -1, shape (num_images,).
        subjects: Subject ids, not all of them need occur, shape (num_images,).
        blenders: From the simplest to the most flexible.
    """
    num_folds = int(folds.max()) + 1
    if num_folds < MIN_FOLDS:
        blenders = blenders[:1]
    num_fits = len(blenders) * (1 + num_folds + num_folds * (num_folds - 1) // 2)
    with progress("fitting blends", total=num_fits, unit="fit") as step:
        fits = _Fits(log_probs, labels, folds, step)
        chosen, weights = [], []
        blended = np.empty(log_probs.shape[1:])
        for fold in range(num_folds):
            others = [other for other in range(num_folds) if other != fold]
            blender = _simplest(blenders, _compare(fits, blenders, others, (fold,), subjects))
            chosen.append(blender)
            weights.append(fits.weights(blender, fold))
            blended[folds == fold] = fits.predict(blender, fold)
        verdicts = _compare(fits, blenders, list(range(num_folds)), (), subjects)
        overall = _simplest(blenders, verdicts)
        return CrossFit(blended, tuple(chosen), tuple(weights), verdicts, overall, fits.weights(overall))


@dataclass
class _Fits:
    """Weights by blender and by the folds left out of the fit, each fitted once."""

    log_probs: LogProbs
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    step: Step
    _known: dict[tuple[str, tuple[int, ...]], Vector] = field(default_factory=dict)

    def weights(self, blender: Blender, *excluded: int) -> Vector:
        key = blender.name, tuple(sorted(excluded))
        if key not in self._known:
            rows = ~np.isin(self.folds, excluded)
            self._known[key] = blender.fit(self.log_probs[:, rows], self.labels[rows])
            self.step()
        return self._known[key]

    def predict(self, blender: Blender, fold: int, *excluded: int) -> NDArray[np.float64]:
        """Fold's rows blended with weights that saw neither it nor the excluded folds."""
        return blender.pool(self.log_probs[:, self.folds == fold], self.weights(blender, fold, *excluded))


def _compare(
    fits: _Fits,
    blenders: Sequence[Blender],
    among: list[int],
    excluded: tuple[int, ...],
    subjects: NDArray[np.int64],
) -> tuple[Verdict, ...]:
    """Every blender cross-fitted among some folds, without a look at the excluded ones."""
    if not among:  # a single fold: nothing to compare on, and the first blender fits nothing
        return ()
    rows = np.isin(fits.folds, among)
    labels, subjects = fits.labels[rows], subjects[rows]
    losses = []
    for blender in blenders:
        blended = np.empty(fits.log_probs.shape[1:])
        for fold in among:
            blended[fits.folds == fold] = fits.predict(blender, fold, *excluded)
        losses.append(log_losses(blended[rows], labels))
    best = min(losses, key=lambda values: float(values.mean()))
    verdicts = []
    for blender, values in zip(blenders, losses, strict=True):
        difference, error = difference_and_error(values, best, subjects)
        in_sample = log_loss(blender.pool(fits.log_probs[:, rows], fits.weights(blender, *excluded)), labels)
        verdicts.append(Verdict(blender.name, in_sample, float(values.mean()), difference, error))
    return tuple(verdicts)


def _simplest(blenders: Sequence[Blender], verdicts: Sequence[Verdict]) -> Blender:
    """The first blender that is as good as the best."""
    return next((b for b, verdict in zip(blenders, verdicts, strict=False) if verdict.as_good), blenders[0])
