"""Runs that a step makes from another run: fold k from fold k, stored, scored and blended like any other."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distracted.errors import StoreError
from distracted.metrics import difference_and_error, log_losses, scores
from distracted.predictions.lineage import ancestors, is_current
from distracted.predictions.manifest import Manifest
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.schema import hash_config

_log = logging.getLogger(__name__)


class Derivation:
    """Writes the folds of a derived run.

    Its config is the step and the parents' config hashes: another step is another run; where only a parent
    has another config now, the run is made anew.

    Attributes:
        folds: Those to make: all that are not there, or were made of something else than they would be now.

    Args:
        parents: Complete; one, but for a step that takes several.
        name: Of the run that is made.
        step: What is done, as plain JSON values, with its `name`; all that changes the result.
        fitted: Whether the step is fitted on out-of-fold rows.
        inputs: Digests of what else each fold is made of, by name; kept in its details.
        whole: Where one fold is to be made, make all: the step is fitted over all of them.
        force: Make all folds anew, whatever made those that are there.

    Raises:
        StoreError: the name belongs to a run of another kind or of another step.
    """

    def __init__(
        self,
        store: Store,
        parents: Sequence[Run],
        name: str,
        step: Mapping[str, Any],
        *,
        fitted: bool = False,
        inputs: Sequence[Mapping[str, Any]] = (),
        whole: bool = False,
        force: bool = False,
    ) -> None:
        self.name = name
        self._store, self._runs = store, list(parents)
        self._parents = tuple(parent.as_parent() for parent in parents)
        told = [{"run": parent.run, "config_hash": parent.config_hash} for parent in self._parents]
        self._config = {
            "step": dict(step),
            **({"parent": told[0]} if len(told) == 1 else {"parents": told}),
            "leaky": any(parent.leaky for parent in parents),
            "fitted": fitted or any(parent.fitted for parent in parents),
        }
        finished = store.finished_folds(name)
        if store.kinds(name) - {"derived"}:
            raise StoreError(
                f"NAME={name}: there is a run of that name that is not derived from another; choose another "
                "name"
            )
        for parent in parents:
            if name in ancestors(store, parent.name):
                raise StoreError(f"NAME={name}: {parent.name} is made of it, or is it; choose another name")
        self._inputs = inputs
        folds = parents[0].folds
        other_parents = all(self._is_of_same_step(fold) for fold in finished)
        store.check_config(name, hash_config(self._config), redone=folds if force or other_parents else ())
        current = [] if force else [fold for fold in folds if self._is_current(fold, finished)]
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
        taken: int = 0,
        details: Mapping[str, Any] = MappingProxyType({}),
        **facts: Any,
    ) -> Manifest:
        """Write a fold with its scores; arguments as in `Store.write_fold`.

        Args:
            taken: Position of the parent whose networks predict.
        """
        parent = self._runs[taken]
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
            details={**details, **self._inputs_of(fold)},
            **facts,
        )

    def _is_of_same_step(self, fold: int) -> bool:
        """Whether a fold was made by this step of runs of these names."""
        manifest = self._store.find_manifest(self.name, fold)
        if manifest is None:
            return False
        config = manifest.config
        return config.get("step") == self._config["step"] and _names(config) == _names(self._config)

    def _inputs_of(self, fold: int) -> Mapping[str, Any]:
        return self._inputs[fold] if self._inputs else {}

    def _is_current(self, fold: int, finished: list[int]) -> bool:
        if fold not in finished:
            return False
        store, name = self._store, self.name
        if is_current(store, name, fold, config_hash=hash_config(self._config), parents=self._parents):
            details = store.manifest(name, fold).details
            inputs = self._inputs_of(fold)
            if {key: details.get(key) for key in inputs} == inputs:
                return True
        names = ", ".join(parent.name for parent in self._runs)
        _log.info("%s, fold %d: it, or %s, has changed since; made anew", name, fold, names)
        return False


def _names(config: Mapping[str, Any]) -> list[str]:
    return [parent["run"] for parent in config.get("parents") or [config["parent"]]]


@dataclass(frozen=True)
class Gain:
    """What a step was worth.

    Attributes:
        before, after: Pooled OOF log loss of the parent and of the derived run.
        difference: The latter minus the former, below 0 where the step helped; error: its standard error
            over subjects, of the paired difference.
    """

    before: float
    after: float
    difference: float
    error: float


def measure_gain(store: Store, parent: Run, derived: Run) -> Gain:
    """Compare a derived run with its parent on the rows that both never saw."""
    rows = store.folds.scored
    labels = store.folds.labels[rows]
    before, after = (log_losses(run.oof[rows], labels) for run in (parent, derived))
    difference, error = difference_and_error(after, before, store.folds.subjects[rows])
    return Gain(float(before.mean()), float(after.mean()), difference, error)
