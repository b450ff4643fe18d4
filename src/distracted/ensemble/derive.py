"""Runs that a fitted step makes of another run: calibrated, smoothed; each fold by what the others taught."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distracted.ensemble.members import open_source, scored_rows, step_source
from distracted.ensemble.sources import Chosen, Fitted, Source
from distracted.errors import ConfigError, StoreError
from distracted.postprocess.calibrate import CALIBRATIONS, Calibrate
from distracted.postprocess.derived import Derivation, Gain, measure_gain
from distracted.postprocess.methods import Way
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.spaces import Space
from distracted.postprocess.step import Part, Step
from distracted.predictions.store import Run, Store


@dataclass(frozen=True)
class Derived:
    """A run that was made of another.

    Attributes:
        gain: Cross-fitted, beside the parent.
        fitted: What was fitted for each fold, or None where it was better to change nothing; overall: what
            all folds together would fit, for reading.
    """

    name: str
    gain: Gain
    fitted: tuple[Any, ...]
    overall: Any


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
    step = Calibrate(tuple(part for part in CALIBRATIONS if part in parts))
    settings = {"name": "calibrate", "parts": list(step.parts)}
    return _derive(store, store.read_run(run), step, name or f"{run}_calibrated", settings, force=force)


def smooth_run(
    store: Store,
    run: str,
    *,
    way: Way,
    spaces: Mapping[str, Space[Any]],
    fixed: Any = None,
    name: str = "",
    force: bool = False,
) -> Derived:
    """Write a run's smoothed predictions as a run: `<run>_smooth`.

    Args:
        fixed: One setting, taken whatever it is worth; by default the best is chosen, or none.
    """
    candidates = [fixed] if fixed else way.candidates(list(spaces), most=way.most(smallest_part(store)))
    if not candidates:
        raise StoreError(
            f"{store.competition.name}: the smallest part has {smallest_part(store)} images, too few for "
            f"METHOD={way.name}"
        )
    step = Smooth(way.method(spaces, candidates), fixed=fixed is not None)
    settings = {
        "name": "smooth",
        "method": way.name,
        "spaces": {key: space.describes for key, space in spaces.items()},
        "candidates": [asdict(candidate) for candidate in candidates],
        "fixed": step.fixed,
    }
    details = [
        {"spaces": {key: space.of_fold(fold) for key, space in spaces.items()}}
        for fold in range(store.folds.num_folds)
    ]
    parent = store.read_run(run)
    return _derive(store, parent, step, name or f"{run}_smooth", settings, details=details, force=force)


def smallest_part(store: Store) -> int:
    """Images in the smallest of the folds and the test set."""
    sizes = [len(store.folds.valid(fold)) for fold in range(store.folds.num_folds)]
    return min(*sizes, len(store.competition.test))


def _derive(
    store: Store,
    parent: Run,
    step: Step,
    name: str,
    settings: Mapping[str, Any],
    *,
    details: Sequence[Mapping[str, Any]] = (),
    force: bool,
) -> Derived:
    """Write a run whose fold k is the parent's fold k through the step, fitted on the other folds."""
    scored = scored_rows(store.folds)
    reads_labels = not isinstance(step, Smooth) or step.reads_labels
    if reads_labels and scored.num_folds < 2:
        raise StoreError(
            f"{store.competition.name}: a single split has no other fold to fit {settings['name']} on; "
            "expected two folds or more"
        )
    derivation = Derivation(store, parent, name, settings, fitted=reads_labels, force=force)
    source = step_source(name, step, [open_source(store, parent, scored)], scored)
    fitted = []
    for fold in range(scored.num_folds):
        hidden = frozenset({fold})
        fitted.append(_fitted(source, hidden))
        if fold in derivation.folds:
            derivation.write(
                fold,
                valid=source.predict(Part(fold), hidden),
                test=source.predict(Part(fold, test=True), hidden),
                details={
                    "fitted": asdict(fitted[-1]) if fitted[-1] is not None else None,
                    "num_candidates": _num_candidates(step),
                    **(details[fold] if details else {}),
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
    return 1
