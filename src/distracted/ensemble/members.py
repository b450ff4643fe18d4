"""Stored runs as sources: what was fitted in them can be fitted anew without any folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from distracted.data.folds import Folds
from distracted.ensemble.blenders import find_blenders
from distracted.ensemble.sources import Chosen, Fitted, ScoredRows, Source, Stored
from distracted.errors import StoreError, first_line
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.choose import Choose
from distracted.postprocess.methods import WAYS, Spaces, any_of, from_json
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.spaces import Space, stored_space
from distracted.postprocess.step import STEP_VERSION, Examples, LogProbs, Step, Subset, normalised
from distracted.predictions.lineage import check_parents
from distracted.predictions.run import Run
from distracted.predictions.store import Store

_AGREES = 1e-3  # a stored log-probability and the same made anew: float32, other threads


def scored_rows(folds: Folds) -> ScoredRows:
    """The rows that some fold holds out."""
    rows = folds.scored
    return ScoredRows(folds.labels[rows], folds.ids[rows], folds.subjects[rows])


def open_sources(store: Store, runs: Sequence[Run], scored: ScoredRows) -> list[Source]:
    """Complete runs as sources: predictions as they are, or the step or blend that made them, on its parents.

    What several runs were made of is opened once.

    Raises:
        StoreError: a run that one was made of is gone or has changed, or one comes out otherwise now.
    """
    known: dict[str, Source] = {}

    def opened(run: Run) -> Source:
        if run.name not in known:
            check_parents(store, run.name)
            known[run.name] = fitted(run) if run.fitted else _as_stored(store, run, scored)
        return known[run.name]

    def fitted(run: Run) -> Source:
        names = [parent.run for parent in run.manifests[0].parents]
        parents = [known[name] if name in known else opened(store.read_run(name)) for name in names]
        if run.kind == "blend":
            source = _open_blend(run, parents, scored)
        else:
            source = step_source(run.name, open_step(store, run), parents, scored)
        _check_same(store, run, source)
        return source

    return [opened(run) for run in runs]


def _as_stored(store: Store, run: Run, scored: ScoredRows) -> Source:
    return Stored(run.name, run.oof[store.folds.scored], scored, run.test)


def _open_blend(run: Run, parents: Sequence[Source], scored: ScoredRows) -> Source:
    _check_version(run, run.manifests[0].config)
    blenders = find_blenders(run.manifests[0].config["blenders"])
    return Chosen(run.name, [Fitted(blender.name, blender, parents, scored) for blender in blenders], scored)


@dataclass(frozen=True)
class Keep:
    """The step that changes nothing."""

    name: str = "none"
    min_folds: ClassVar[int] = 1

    def learn(self, examples: Examples) -> None:
        return None

    def apply(self, fitted: None, log_probs: LogProbs, part: Subset) -> NDArray[np.float64]:
        return normalised(log_probs[0])


def step_source(name: str, step: Step, parents: Sequence[Source], scored: ScoredRows) -> Source:
    """A step on its parents; a smoothing that is chosen has to beat none on rows it was not chosen on."""
    made = Fitted(name, step, parents, scored)
    if isinstance(step, Smooth) and not step.fixed:
        return Chosen(name, [Fitted("none", Keep(), parents, scored), made], scored)
    return made


def open_step(store: Store, run: Run) -> Step:
    """The step that made a derived run, as its manifests say."""
    settings: Mapping[str, Any] = run.manifests[0].config["step"]
    _check_version(run, settings)
    try:
        if settings["name"] == "calibrate":
            return Calibrate(tuple(settings["parts"]), scored_rows(store.folds).subjects_by_fold())
        if settings["name"] == "choose":
            return Choose()
        if settings["name"] == "smooth":
            candidates = [from_json(candidate) for candidate in settings["candidates"]]
            return Smooth(any_of(_open_spaces(store, run), candidates), fixed=settings["fixed"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(_of_another_version(run, first_line(error))) from error
    raise StoreError(_of_another_version(run, f"no step {settings['name']}"))


def _check_version(run: Run, settings: Mapping[str, Any]) -> None:
    if settings.get("version") != STEP_VERSION:
        raise StoreError(_of_another_version(run, f"steps of version {settings.get('version', 1)}"))


def _of_another_version(run: Run, problem: str) -> str:
    return f"{run.name}: made by another version of the project ({problem}); make it anew with FORCE=1"


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
    """Every fold's held-out rows, and the test rows of one, come out as they are stored."""
    for fold in run.folds:
        hidden = frozenset({fold})
        pairs = [(source.predict(Subset(fold), hidden), run.oof[store.folds.valid(fold)])]
        if fold == 0:
            pairs.append((source.predict(Subset(fold, test=True), hidden), run.test[0]))
        if any(np.abs(np.exp(made) - np.exp(stored)).max() > _AGREES for made, stored in pairs):
            raise StoreError(
                f"{run.name}: fold {fold} comes out otherwise now than it is stored; make it anew with "
                "FORCE=1 (a blend: `make ensemble`)"
            )
