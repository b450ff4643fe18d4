"""Pseudo-labels without a leak: which runs may teach fold k's student, and what they predict.

Fold k's student is scored on fold k's rows. So only networks that never saw fold k may teach it: the
teachers' own fold-k networks, with weights fixed beforehand. A run fitted across folds on out-of-fold rows (a
blend, a calibration, a chosen smoothing) has seen fold k through the networks of its other folds, and is
refused.
"""

import numpy as np
from numpy.typing import NDArray

from distracted.data.picture_sets import Images
from distracted.errors import StoreError
from distracted.files import sha256_json
from distracted.predictions.lineage import check_parents
from distracted.predictions.manifest import Parent
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.schema import PseudoConfig, RunConfig
from distracted.training.context import PseudoLabels


def with_teachers(store: Store, config: RunConfig, *, student: str) -> RunConfig:
    """The config with hashes of the teachers' predictions: other predictions make another run.

    Args:
        student: Name of the run to be trained.

    Raises:
        StoreError: a teacher is missing, incomplete, or has seen what its student is scored on.
    """
    if not config.pseudo.teachers:
        return config
    if student in config.pseudo.teachers:
        raise StoreError(f"pseudo.teachers: {student} cannot teach itself; NAME= gives the student a name")
    digests = {name: _digest(_teacher(store, name)) for name in config.pseudo.teachers}
    pseudo = config.pseudo.model_copy(update={"predictions": digests})
    return config.model_copy(update={"pseudo": pseudo})


def read_pseudo_labels(
    store: Store, config: PseudoConfig, fold: int
) -> tuple[PseudoLabels, tuple[Parent, ...]]:
    """Predictions of the teachers' fold-k networks for the test set, and with `own_fold` for the fold's rows.

    Args:
        config: As `with_teachers` fills it in.

    Returns:
        The labels, and the teachers as parents.

    Raises:
        StoreError: as `with_teachers`; a teacher has changed since; the threshold keeps no image.
    """
    teachers = [_teacher(store, name) for name in config.teachers]
    for teacher in teachers:
        if config.predictions[teacher.name] != _digest(teacher):
            raise StoreError(
                f"pseudo.teachers: {teacher.name} has changed since this run began; FORCE=1 begins it again"
            )
    images = Images.to_test(store.competition)
    probs = _mean(config, [teacher.test[teacher.folds.index(fold)] for teacher in teachers])
    if config.own_fold:
        rows = store.folds.valid(fold)
        images = images.and_then(Images.to_train(store.competition).take(rows))
        probs = np.concatenate([probs, _mean(config, [teacher.oof[rows] for teacher in teachers])])
    kept = np.flatnonzero(probs.max(axis=1) >= config.threshold)
    if not len(kept):
        raise StoreError(
            f"pseudo.threshold={config.threshold:g} keeps none of {len(probs)} images in fold {fold}: the "
            f"surest prediction is {probs.max():.3f}; expected a lower threshold"
        )
    parents = tuple(teacher.as_parent() for teacher in teachers)
    return PseudoLabels(images.take(kept), probs[kept].astype(np.float32)), parents


def _mean(config: PseudoConfig, log_probs: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    weights = np.array(config.teacher_weights or [1.0] * len(log_probs))
    mean: NDArray[np.float64] = np.average(np.exp(log_probs), axis=0, weights=weights)
    mean /= mean.sum(axis=1, keepdims=True)
    return mean


def _teacher(store: Store, name: str) -> Run:
    teacher = store.read_run(name)
    _check_blind(teacher)
    check_parents(store, name)
    return teacher


def _digest(teacher: Run) -> str:
    return sha256_json(teacher.as_parent().predictions)


def _check_blind(teacher: Run) -> None:
    if teacher.leaky:
        raise StoreError(
            f"pseudo.teachers: {teacher.name} watched the folds that it is scored on (LEAKY=1), and so would "
            "its student; expected a run that did not"
        )
    if teacher.fitted:
        raise StoreError(
            f"pseudo.teachers: {teacher.name} was fitted on out-of-fold rows: through the networks of the "
            "other folds its predictions for fold k have seen fold k's labels; expected runs as they were "
            "trained, or steps with fixed settings (make tta, make smooth METHODS=neighbours HOW=...)"
        )
