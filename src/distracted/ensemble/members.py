"""Stored runs as sources: what was fitted in them can be fitted anew without any folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distracted.data.folds import Folds
from distracted.ensemble.blenders import find_blenders
from distracted.ensemble.sources import Chosen, Fitted, Scored, Source, Stored
from distracted.errors import StoreError
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.methods import WAYS, Spaces, any_of, from_json
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.spaces import Space, stored_space
from distracted.postprocess.step import Examples, LogProbs, Part, Step, normalised
from distracted.predictions.lineage import check_parents
from distracted.predictions.store import Run, Store

_AGREES = 1e-3  # a stored log-probability and the same made anew: float32, other threads


def scored_rows(folds: Folds) -> Scored:
    """The rows that some fold holds out."""
    rows = folds.scored
    return Scored(folds.labels[rows], folds.ids[rows], folds.subjects[rows])


def open_source(store: Store, run: Run, scored: Scored) -> Source:
    """A complete run as a source: predictions as they are, or the step or blend that made them.

    Raises:
        StoreError: a run that it was made of is gone or has changed, or it comes out otherwise now.
    """
    if not run.fitted:
        return Stored(run.name, run.oof[store.folds.scored], scored, run.test)
    check_parents(store, run)
    parents = [open_source(store, store.read_run(parent.run), scored) for parent in run.manifests[0].parents]
    source: Source
    if run.kind == "blend":
        blenders = find_blenders(run.manifests[0].config["blenders"])
        candidates = [Fitted(blender.name, blender, parents, scored) for blender in blenders]
        source = Chosen(run.name, candidates, scored)
    else:
        source = step_source(run.name, open_step(store, run), parents, scored)
    _check_same(store, run, source)
    return source


@dataclass(frozen=True)
class Keep:
    """The step that changes nothing."""

    name: str = "none"

    def learn(self, examples: Examples) -> None:
        return None

    def apply(self, fitted: None, log_probs: LogProbs, part: Part) -> NDArray[np.float64]:
        return normalised(log_probs[0])


def step_source(name: str, step: Step, parents: Sequence[Source], scored: Scored) -> Source:
    """A step on its parents; a smoothing that is chosen has to beat none on rows it was not chosen on."""
    made = Fitted(name, step, parents, scored)
    if isinstance(step, Smooth) and not step.fixed:
        return Chosen(name, [Fitted("none", Keep(), parents, scored), made], scored)
    return made


def open_step(store: Store, run: Run) -> Step:
    """The step that made a derived run, as its manifests say."""
    settings: Mapping[str, Any] = run.manifests[0].config["step"]
    if settings["name"] == "calibrate":
        return Calibrate(tuple(settings["parts"]))
    if settings["name"] == "smooth":
        candidates = [from_json(candidate) for candidate in settings["candidates"]]
        return Smooth(any_of(_open_spaces(store, run), candidates), fixed=settings["fixed"])
    raise StoreError(f"{run.name}: made by a step that is not known here: {settings['name']}")


def _open_spaces(store: Store, run: Run) -> Spaces:
    layouts = {way.layout.name: way.layout for way in WAYS.values()}
    described: Mapping[str, Mapping[str, Any]] = run.manifests[0].config["step"]["spaces"]

    def open_space(layout: str, name: str, describes: object) -> Space[Any]:
        keys = {manifest.fold: manifest.details["spaces"][layout][name] for manifest in run.manifests}
        return stored_space(store, layouts[layout], keys, describes)

    return {
        layout: {name: open_space(layout, name, describes) for name, describes in found.items()}
        for layout, found in described.items()
    }


def _check_same(store: Store, run: Run, source: Source) -> None:
    made = source.predict(Part(0), frozenset({0}))
    stored = run.oof[store.folds.valid(0)]
    if np.abs(np.exp(made) - np.exp(stored)).max() > _AGREES:
        raise StoreError(f"{run.name}: it comes out otherwise now than it is stored; make it anew (FORCE=1)")
