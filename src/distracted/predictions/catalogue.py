"""The catalogue: which runs there are, whether they are complete, current and honest, what they score.

Everybody who asks "which run?" asks here. A command makes one catalogue, which reads what it is asked for,
once; after something was written it makes a new one.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from distracted.errors import StoreError
from distracted.headline import Metric
from distracted.metrics import accuracy, log_loss
from distracted.predictions.job_state import redo_of, trial_of
from distracted.predictions.lineage import ancestors, check_parents
from distracted.predictions.manifest import Kind, Manifest
from distracted.predictions.run import Run, StoredRun
from distracted.predictions.store import Store

_log = logging.getLogger(__name__)


def score_run(store: Store, run: StoredRun) -> dict[str, float]:
    """Pooled OOF log loss, accuracy and the competition's score of a run's held-out rows, by name.

    Raises:
        StoreError: as `Store.oof`.
    """
    metric = store.competition.metric
    if (kept := store.kept_scores.read(run, metric.name)) is not None:
        return kept
    oof = store.oof(run)
    rows = np.flatnonzero(np.isfinite(oof).all(axis=1))
    labels = store.folds.labels[rows]
    pooled = {"log_loss": log_loss(oof[rows], labels), "accuracy": accuracy(oof[rows], labels)}
    pooled[metric.name] = metric.value(oof[rows], labels)
    store.kept_scores.write(run, metric.name, pooled)
    return pooled


@dataclass(eq=False)
class Entry:
    """One run of the store.

    Args:
        partial: Whether missing folds, of the run or of its parents, are taken as they are.
    """

    store: Store
    name: str
    partial: bool = False

    @cached_property
    def _read(self) -> tuple[tuple[Manifest, ...], str]:
        """The manifests, or what is wrong with one of them."""
        try:
            return self.store.manifests(self.name) if self.store.finished_folds(self.name) else (), ""
        except StoreError as error:
            return (), str(error)

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """The manifests of its finished folds; empty if one of them cannot be read."""
        return self._read[0]

    @property
    def kind(self) -> Kind | Literal["?"]:
        """ "model" while no fold is finished; "?" if a manifest cannot be read."""
        if self.manifests:
            return self.manifests[0].kind
        return "?" if self.problem else "model"

    @property
    def leaky(self) -> bool:
        return any(manifest.leaky for manifest in self.manifests)

    @property
    def parents(self) -> tuple[str, ...]:
        return tuple({parent.run: None for manifest in self.manifests for parent in manifest.parents})

    @property
    def written(self) -> str:
        """Time at which its last fold was written, UTC, ISO 8601."""
        return max((manifest.written for manifest in self.manifests), default="")

    @property
    def seconds(self) -> float:
        return sum(manifest.seconds for manifest in self.manifests)

    @property
    def origin(self) -> str:
        """Where its pretrained weights come from, in a word, or ""."""
        weights = self.manifests[0].weights if self.manifests else {}
        return str(weights.get("origin", "")).partition(":")[0]

    @cached_property
    def tried_by(self) -> str:
        """The command that tried its settings among others; "" if none did.

        It may be unfinished. If it is not, its settings were chosen by labels that its own score reads.
        """
        return trial_of(self.store.workspace.trial(self.store.competition.name, self.name))

    @property
    def has_all_folds(self) -> bool:
        return len(self.manifests) == self.store.folds.num_folds

    @property
    def changes_config(self) -> bool:
        """Whether its folds are being retrained with another config, and some are finished."""
        scratches = (self.store.scratch(self.name, fold) for fold in range(self.store.folds.num_folds))
        several = len({manifest.config_hash for manifest in self.manifests}) > 1
        return self.has_all_folds and several and any(redo_of(scratch) is not None for scratch in scratches)

    @cached_property
    def _scored(self) -> tuple[dict[str, float], str]:
        if not self.manifests or self.changes_config or not (self.has_all_folds or self.partial):
            return {}, self._read[1]
        try:
            run = self.store.find_run(self.name, partial=self.partial, parts=("valid",))
            return score_run(self.store, run), ""
        except StoreError as error:
            now = Entry(self.store, self.name, self.partial)
            return ({}, str(error)) if now.manifests == self.manifests else now._scored  # retrained meanwhile

    @property
    def pooled(self) -> dict[str, float]:
        """Pooled OOF log loss, accuracy and the competition's score (cross-fitted for a blend).

        Empty while folds are missing.
        """
        return self._scored[0]

    @cached_property
    def problem(self) -> str:
        """Why the run cannot be used (a damaged file, other data, mixed configs), or ""."""
        if not self.pooled:
            return self._scored[1]
        try:
            self.store.check_files(*self.manifests)
        except StoreError as error:
            now = Entry(self.store, self.name, self.partial)
            return str(error) if now.manifests == self.manifests else now.problem  # retrained meanwhile
        return ""

    @cached_property
    def stale(self) -> str:
        """The parent that has changed since the run was made, or is gone, in a sentence; or ""."""
        if not self.manifests:
            return ""
        if self.changes_config:
            return f"{self.name}: its folds are being retrained with another config"
        try:
            check_parents(self.store, self.name, partial=self.partial)
        except StoreError as error:
            return str(error)
        return ""

    @property
    def is_complete(self) -> bool:
        """Whether all folds are there and usable."""
        return bool(self.pooled) and not self.problem

    @property
    def is_current(self) -> bool:
        """Whether it is complete, and its parents have not changed since it was made."""
        return self.is_complete and not self.stale

    @property
    def not_usable(self) -> str:
        """Why the run is not current, in one line; or ""."""
        if self.is_current:
            return ""
        return self.problem or self.stale or f"{self.name}: {self.missing} (make submit takes PARTIAL=1)"

    @property
    def missing(self) -> str:
        """The missing folds, in words; "" if there are none."""
        return self.store.missing_folds(self.manifests)

    @cached_property
    def holds_a_blend(self) -> bool:
        """Whether it is a blend, or made from one."""
        names = ancestors(self.store, self.name)
        return any(self.store.manifests(name)[0].kind == "blend" for name in names)


@dataclass(frozen=True)
class Meant:
    """The run that a command takes if none is named.

    Attributes:
        run: Its name.
        why: Why it was chosen, in one line.
        passed_over: Why others were not taken, a line each.
    """

    run: str
    predictions: Run = field(repr=False, compare=False)
    why: str
    passed_over: tuple[str, ...]

    def log(self, option: str) -> None:
        """Log which run was chosen and why; `option` is what names another, such as NAME."""
        for reason in self.passed_over:
            _log.warning("passed over: %s", reason)
        _log.info("%s; %s= takes another run", self.why, option)


class Catalogue:
    """The runs of a store.

    Args:
        partial: As in `Entry`.
    """

    def __init__(self, store: Store, *, partial: bool = False) -> None:
        self.store = store
        self._partial = partial
        self._entries: dict[str, Entry] = {}

    def entry(self, name: str) -> Entry:
        if name not in self._entries:
            self._entries[name] = Entry(self.store, name, self._partial)
        return self._entries[name]

    def entries(self) -> list[Entry]:
        """All runs that have at least one finished fold, by name."""
        return [self.entry(name) for name in self.store.runs()]

    def depth(self, name: str) -> int:
        """Longest chain of steps from a trained run to this one, both counted."""
        parents = [parent for parent in self.entry(name).parents if self.store.finished_folds(parent)]
        return 1 + max(map(self.depth, parents), default=0)

    @cached_property
    def meant_blend(self) -> Meant | None:
        """The current blend with the best cross-fitted score, the newer of equals; never a leaky one."""
        blends = [entry for entry in self.entries() if entry.kind == "blend"]
        return self._best(blends, "blend", "cross-fitted")

    @cached_property
    def meant_run(self) -> Meant | None:
        """The blend that is meant; without one, the current run with the best pooled score."""
        return self.meant_blend or self._best(self.entries(), "run", "pooled")

    def _passed_over(self) -> list[str]:
        """Why each unusable or leaky blend, or run with an unreadable manifest, cannot be the default."""
        blends = [entry for entry in self.entries() if entry.kind in ("blend", "?")]
        faults = [entry.not_usable or (f"{entry.name}: leaky (LEAKY=1)" * entry.leaky) for entry in blends]
        return [fault for fault in faults if fault]

    def why_no_blend(self) -> str:
        """Why no blend is meant: the fault of each, or that there is none."""
        return "; ".join(self._passed_over()) or "there is no blend yet; `make ensemble` makes one"

    def _best(self, entries: Iterable[Entry], noun: str, how: str) -> Meant | None:
        """The honest, current run with the best score, the newest of equals; no trial of a search."""
        metric = self.store.competition.metric
        newest_first = sorted(entries, key=lambda entry: entry.written, reverse=True)
        usable = [entry for entry in newest_first if entry.pooled and not entry.leaky]
        scored = [entry for entry in usable if not entry.tried_by]
        run, current = None, list[Entry]()
        for entry in sorted(scored, key=lambda entry: metric.loss_of(entry.pooled[metric.name])):
            if not current:  # read whole, before its files are only hashed: they are opened once
                run = None
                with suppress(StoreError):  # `problem` says why
                    run = self.store.read_run(entry.name, partial=self._partial)
            if run is not None and entry.is_current:
                current.append(entry)
        if run is None or not current:
            return None
        return Meant(run.name, run, _why(current, noun, how, metric), tuple(self._passed_over()))


def _why(ranked: list[Entry], noun: str, how: str, metric: Metric) -> str:
    score = f"{how} {metric.title}"
    (first, loss), *others = [(entry.name, f"{entry.pooled[metric.name]:.4f}") for entry in ranked]
    if not others:
        return f"{first}: the only current {noun} ({score} {loss})"
    return f"{first}: the best of {len(ranked)} current {noun}s by {score} ({loss}; {' '.join(others[0])})"
