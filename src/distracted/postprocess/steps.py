"""The table of steps: adding one takes a module and a line here."""

from collections.abc import Mapping
from typing import Any

from distracted.errors import ConfigError, StoreError, first_line
from distracted.postprocess.adapt import Adapt
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.choose import Choose
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.step import PredictionStep, Step
from distracted.postprocess.tta import Augment
from distracted.predictions.manifest import Manifest
from distracted.predictions.run import StoredRun
from distracted.predictions.store import Store

_ALL: tuple[type[Step], ...] = (Calibrate, Adapt, Smooth, Choose, Augment)
STEPS: Mapping[str, type[Step]] = {step.name: step for step in _ALL}


def find_step(name: str) -> type[PredictionStep]:
    """The step on stored predictions of that name.

    Raises:
        ConfigError: there is none, or it needs networks and so a command of its own.
    """
    known = {key: step for key, step in STEPS.items() if issubclass(step, PredictionStep)}
    if name not in known:
        raise ConfigError(f"STEP={name}: expected one of {', '.join(known)}")
    return known[name]


def open_step(store: Store, run: StoredRun) -> Step:
    """The step that made a derived run.

    Raises:
        StoreError: another version of the project made it.
    """
    settings: Mapping[str, Any] = run.manifests[0].config["step"]
    step = STEPS.get(settings["name"])
    if step is None:
        raise other_version(run, f"no step {settings['name']}")
    check_version(run, settings, step.version)
    try:
        return step.load(store, run)
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise other_version(run, first_line(error)) from error


def check_version(run: StoredRun, settings: Mapping[str, Any], expected: int | None) -> None:
    """Refuse a run whose steps or blenders were fitted in another way."""
    if settings.get("version") != expected:
        raise other_version(run, f"steps of version {settings.get('version', 1)}")


def other_version(run: StoredRun, problem: str) -> StoreError:
    """The error for a run that this version cannot make again."""
    return StoreError(
        f"{run.name}: made by another version of the project ({problem}); FORCE=1 makes it again"
    )


def command_for(manifest: Manifest) -> str:
    """The command that makes a derived run."""
    settings = manifest.config["step"]
    step = STEPS.get(settings["name"])
    if step is None:
        return f"the step {settings['name']} of another version of the project"
    current = settings.get("version") == step.version
    parents = [parent.run for parent in manifest.parents]
    return step.command(settings if current else {}, manifest.run, parents)


def needs_all_images(manifest: Manifest) -> str:
    """What the run's step does with all test images together, or "" (`Step.needs_all_images`)."""
    settings = manifest.config.get("step", {})
    step = STEPS.get(settings.get("name", ""))
    return "" if step is None else step.needs_all_images(settings)
