"""Runs that a fitted step makes of another run: calibrated, smoothed; each fold by what the others taught."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distracted.ensemble.members import open_sources, scored_rows, step_source
from distracted.ensemble.sources import MIN_FOLDS, Chosen, Fitted, Source
from distracted.errors import ConfigError, StoreError
from distracted.postprocess.calibrate import CALIBRATIONS, Calibrate
from distracted.postprocess.choose import Choose
from distracted.postprocess.derived import Derivation, Gain, measure_gain
from distracted.postprocess.methods import Extent, Spaces, Way, all_settings, any_of, as_json, too_few
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.step import STEP_VERSION, Step, Subset
from distracted.predictions.lineage import check_parents
from distracted.predictions.run import Run
from distracted.predictions.store import Store


@dataclass(frozen=True)
class Derived:
    """A run that was made of another.

    Attributes:
        gain: Cross-fitted, beside the parent.
        fitted: What was fitted for each fold, or None where it was better to change nothing; empty where the
            run was done already; overall: what all folds together would fit, for reading.
    """

    name: str
    gain: Gain
    fitted: tuple[Any, ...] = ()
    overall: Any = None


def calibrate_run(
    store: Store, run: str, *, parts: Sequence[str] = CALIBRATIONS, name: str = "", force: bool = False
) -> Derived:
    """Write a run's calibrated predictions as a run: `<run>_calibrated`.

    Raises:
        ConfigError: a part that is not one of `CALIBRATIONS`.
        StoreError: the run is missing or incomplete, or the name is taken.
    """
    if not parts or (unknown := [part for part in parts if part not in CALIBRATIONS]):
        got = f"got {unknown[0]!r}" if parts else "got none"
        raise ConfigError(f"PARTS: expected some of {', '.join(CALIBRATIONS)}; {got}")
    taken = tuple(part for part in CALIBRATIONS if part in parts)
    step = Calibrate(taken, scored_rows(store.folds).subjects_by_fold())
    settings = {"name": "calibrate", "version": STEP_VERSION, "parts": list(step.parts)}
    return _derive(store, store.read_run(run), step, name or f"{run}_calibrated", settings, force=force)


def smooth_run(
    store: Store,
    run: str,
    *,
    candidates: Sequence[Any],
    spaces: Spaces,
    fixed: bool = False,
    name: str = "",
    force: bool = False,
) -> Derived:
    """Write a run's smoothed predictions as a run: `<run>_smooth`.

    Args:
        candidates: Settings, of `settings_to_try`; the best is chosen, or none.
        spaces: That the candidates name, by their ways' layouts.
        fixed: The only candidate is taken whatever it is worth.
    """
    step = Smooth(any_of(spaces, candidates), fixed=fixed)
    described = {layout: {n: s.describes for n, s in found.items()} for layout, found in spaces.items()}
    settings = {
        "name": "smooth",
        "version": STEP_VERSION,
        "spaces": described,
        "candidates": [as_json(candidate) for candidate in candidates],
        "fixed": step.fixed,
    }

    def keys(fold: int) -> dict[str, dict[str, dict[str, str]]]:
        return {layout: {n: s.of_fold(fold) for n, s in found.items()} for layout, found in spaces.items()}

    inputs = [{"spaces": keys(fold)} for fold in range(store.folds.num_folds)]
    seconds = sum(space.seconds for found in spaces.values() for space in found.values())
    name = name or f"{run}_smooth"
    return _derive(
        store, store.read_run(run), step, name, settings, inputs=inputs, force=force, seconds=seconds
    )


def choose_run(store: Store, runs: Sequence[str], *, name: str, force: bool = False) -> Derived:
    """Write the best of several runs as a run: for fold k, the one that is best on the other folds.

    The manifests say how many there were to choose from, and which was taken.

    Raises:
        StoreError: a run is missing or incomplete, fewer than two of them, a single split, or the name is
            taken.
    """
    start = time.perf_counter()
    parents, scored = [store.read_run(run) for run in dict.fromkeys(runs)], scored_rows(store.folds)
    if len(parents) < 2 or scored.num_folds < 2:
        raise StoreError(
            f"{store.competition.name}: {len(parents)} runs in {scored.num_folds} folds leave no choice; "
            "expected two of each or more"
        )
    step = Choose()
    settings = {"name": step.name, "version": STEP_VERSION}
    with store.hold(name):
        derivation = Derivation(store, parents, name, settings, fitted=True, force=force)
        source = Fitted(name, step, open_sources(store, parents, scored), scored)
        taken = [source.fitted(frozenset({fold})) for fold in range(scored.num_folds)]
        for fold in derivation.folds:
            hidden, position = frozenset({fold}), taken[fold]
            derivation.write(
                fold,
                valid=source.predict(Subset(fold), hidden),
                test=source.predict(Subset(fold, test=True), hidden),
                taken=position,
                seconds=(time.perf_counter() - start) / scored.num_folds,
                details={"chosen": parents[position].name, "num_candidates": len(parents)},
            )
    overall = source.fitted(frozenset())
    gain = measure_gain(store, parents[overall], store.read_run(name))
    names = [parent.name for parent in parents]
    return Derived(name, gain, tuple(names[position] for position in taken), names[overall])


def settings_to_try(store: Store, ways: Sequence[Way], spaces: Sequence[str]) -> list[Any]:
    """All settings of some ways in some spaces.

    Raises:
        StoreError: too few folds to choose by, or too few images for any setting.
    """
    name, num_folds, extent = store.competition.name, store.folds.num_folds, extent_of(store)
    if num_folds < MIN_FOLDS:
        raise StoreError(
            f"{name}: {num_folds} folds are too few to choose a smoothing by; expected three or more, or HOW="
        )
    candidates = all_settings(ways, spaces, extent)
    if not candidates:
        methods = " ".join(way.name for way in ways)
        raise StoreError(f"{name}: {too_few(extent, ways)}, too few for METHODS={methods!r}")
    return candidates


def extent_of(store: Store) -> Extent:
    """What a competition offers to smoothing."""
    sizes = [len(store.folds.valid(fold)) for fold in range(store.folds.num_folds)]
    smallest = min(*sizes, len(store.competition.test))
    if store.competition.config.columns.group is None:
        return Extent(smallest, None)
    subjects = store.folds.subjects
    return Extent(smallest, len(subjects) // len(np.unique(subjects)))


def _derive(
    store: Store,
    parent: Run,
    step: Step,
    name: str,
    settings: Mapping[str, Any],
    *,
    inputs: Sequence[Mapping[str, Any]] = (),
    force: bool,
    seconds: float = 0.0,
) -> Derived:
    """Write a run whose fold k is the parent's fold k through the step, fitted on the other folds.

    Args:
        inputs: As in `Derivation`.
        seconds: That were spent before.
    """
    start = time.perf_counter() - seconds
    scored = scored_rows(store.folds)
    reads_labels = not isinstance(step, Smooth) or step.reads_labels
    if reads_labels and scored.num_folds < 2:
        raise StoreError(
            f"{store.competition.name}: a single split has no other fold to fit {settings['name']} on; "
            "expected two folds or more"
        )
    with store.hold(name):
        derivation = Derivation(
            store, [parent], name, settings, fitted=reads_labels, inputs=inputs, whole=True, force=force
        )
        if not derivation.folds:
            check_parents(store, name)
            return Derived(name, measure_gain(store, parent, store.read_run(name)))
        source = step_source(name, step, open_sources(store, [parent], scored), scored)
        fitted = [_fitted(source, frozenset({fold})) for fold in range(scored.num_folds)]
        for fold, found in enumerate(fitted):
            hidden = frozenset({fold})
            derivation.write(
                fold,
                valid=source.predict(Subset(fold), hidden),
                test=source.predict(Subset(fold, test=True), hidden),
                seconds=(time.perf_counter() - start) / scored.num_folds,
                details={
                    "fitted": None if found is None else asdict(found),
                    "num_candidates": _num_candidates(step),
                },
            )
    overall = _fitted(source, frozenset())
    return Derived(name, measure_gain(store, parent, store.read_run(name)), tuple(fitted), overall)


def _fitted(source: Source, without: frozenset[int]) -> Any:
    """What the step learned, or None where nothing is changed."""
    if isinstance(source, Chosen):
        source = source.candidates[source.choice(without)]
    assert isinstance(source, Fitted)
    return source.fitted(without)


def _num_candidates(step: Step) -> int:
    """Settings that were chosen from, none among them."""
    if isinstance(step, Smooth):
        return 1 if step.fixed else 1 + len(step.method.candidates)
    return 2 if isinstance(step, Calibrate) and "prior" in step.parts else 1
