"""Derived runs: fold k is made from fold k of other runs, then stored, scored and blended like any run."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distracted.errors import StoreError
from distracted.headline import Metric
from distracted.metrics import scores
from distracted.postprocess.step import Step
from distracted.predictions.lineage import ancestors
from distracted.predictions.manifest import Manifest
from distracted.predictions.run import StoredRun
from distracted.predictions.store import Store
from distracted.schema import hash_config

_log = logging.getLogger(__name__)


class Derivation:
    """Writes the folds of a derived run.

    The run's config holds the step and the parents' config hashes. Another step makes another run; if only a
    parent's config has changed, the run is made again.

    Attributes:
        folds: Folds to make: those missing, or made from inputs that have changed.

    Args:
        parents: Complete runs.
        whole: Make all folds if one is to be made.
        force: Make all folds, whatever made the existing ones.

    Raises:
        StoreError: the name belongs to a run of another kind or of another step.
    """

    def __init__(
        self,
        store: Store,
        parents: Sequence[StoredRun],
        name: str,
        step: Step,
        *,
        whole: bool = False,
        force: bool,
    ) -> None:
        self.name = name
        self._store, self._step, self._runs = store, step, list(parents)
        self._parents = tuple(parent.as_parent() for parent in parents)
        hashes = [{"run": parent.run, "config_hash": parent.config_hash} for parent in self._parents]
        self._config = {
            "step": step.config(),
            **({"parent": hashes[0]} if len(hashes) == 1 else {"parents": hashes}),
            "leaky": any(parent.leaky for parent in parents),
            "fitted": step.reads_labels or any(parent.fitted for parent in parents),
        }
        finished = store.finished_folds(name)
        if store.kinds(name) - {"derived"}:
            raise StoreError(
                f"NAME={name}: there is a run of that name that is not derived from another; choose another "
                "name"
            )
        for parent in parents:
            if name in ancestors(store, parent.name):
                raise StoreError(
                    f"NAME={name}: {parent.name} is that run, or made from it; choose another name"
                )
        folds = parents[0].folds
        other_parents = all(self._is_of_same_step(fold) for fold in finished)
        redone = folds if force or other_parents else ()
        store.check_config(name, hash_config(self._config), config=self._config, redone=redone)
        current = [fold for fold in finished if not force and self._is_current(fold)]
        if whole and len(current) < len(folds):
            current = []
        for fold in current:
            _log.info("%s, fold %d: done already (FORCE=1 redoes it)", name, fold)
        self.folds = [fold for fold in folds if fold not in current]

    def write(
        self,
        fold: int,
        *,
        valid: NDArray[np.floating[Any]],
        test: NDArray[np.floating[Any]],
        origin: int = 0,
        details: Mapping[str, Any],
        **facts: Any,
    ) -> Manifest:
        """Write a fold with its scores; arguments as in `Store.write_fold`.

        Args:
            origin: Position of the parent whose networks predict.
        """
        parent = self._runs[origin]
        labels = self._store.folds.labels[self._store.folds.valid(fold)]
        return self._store.write_fold(
            self.name,
            fold,
            kind="derived",
            config=self._config,
            valid=valid,
            test=test,
            parents=self._parents,
            weights=parent.manifests[parent.folds.index(fold)].weights,
            scores=scores(valid, labels, prefix="valid/"),
            details={**details, **self._step.inputs(fold)},
            **facts,
        )

    def _is_of_same_step(self, fold: int) -> bool:
        """Whether this step made a fold, from runs of these names."""
        manifest = self._store.find_manifest(self.name, fold)
        if manifest is None or manifest.config.get("step") != self._config["step"]:
            return False
        return [parent.run for parent in manifest.parents] == [parent.run for parent in self._parents]

    def _is_current(self, fold: int) -> bool:
        """Whether a fold is stored, undamaged, and made by this step from these parents and inputs."""
        manifest, inputs = self._store.find_manifest(self.name, fold), self._step.inputs(fold)
        made_from = hash_config(self._config), self._parents
        if manifest is not None and (manifest.config_hash, manifest.parents) == made_from:
            with suppress(StoreError):
                self._store.check_files(manifest)
                if {key: manifest.details.get(key) for key in inputs} == inputs:
                    return True
        names = ", ".join(parent.name for parent in self._runs)
        _log.info("%s, fold %d: made again, since it or %s has changed", self.name, fold, names)
        return False


@dataclass(frozen=True)
class Gain:
    """What a step gained.

    Attributes:
        metric: The competition's score.
        before, after: Pooled OOF score of the best parent and of the derived run.
        difference: after - before; of a loss it is below 0 if the step helped, of other scores above.
        error: Standard error over subjects of the paired difference.
    """

    metric: Metric

    before: float
    after: float
    difference: float
    error: float


def measure_gain(store: Store, parents: Sequence[StoredRun], derived: str) -> Gain:
    """Compare a derived run with its best parent on the out-of-fold rows."""
    rows, metric = store.folds.scored, store.competition.metric
    labels = store.folds.labels[rows]
    judged = (metric.judge(store.oof(parent)[rows], labels) for parent in parents)
    before = min(judged, key=lambda one: one.loss)
    after = metric.judge(store.oof(store.find_run(derived))[rows], labels)
    _, error = after.above(before, store.folds.subjects[rows])
    return Gain(metric, before.value, after.value, after.value - before.value, error)
