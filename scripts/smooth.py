"""make smooth: images that look alike are predicted together, as a run like any other."""

from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer

import console
from distracted.config import load_config, load_data_config, load_runtime_config
from distracted.ensemble.derive import smallest_part, smooth_run
from distracted.errors import ConfigError
from distracted.paths import Workspace
from distracted.postprocess.methods import Way, find_way, parse_setting
from distracted.postprocess.smooth import Smoothed
from distracted.postprocess.spaces import OWN, Space, fixed_space, own_space
from distracted.predictions.store import Run, Store, open_store
from distracted.training.resolve import settle


def main(
    runs: Annotated[str, typer.Option(help="Complete runs, separated by spaces.")],
    spaces: Annotated[str, typer.Option(help="Feature spaces: pretrained models, or own.")] = OWN,
    method: Annotated[str, typer.Option(help="neighbours, diffusion or clusters.")] = "neighbours",
    how: Annotated[str, typer.Option(help="One setting to take, instead of choosing.")] = "",
    name: Annotated[str, typer.Option(help="Of the run that is made; by default <run>_smooth.")] = "",
    data: console.Data = "state_farm",
    set: console.Set = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Choose the smoothing of each fold on the other folds, or none, and write the result as a run."""
    chosen, named = console.run_names(runs, name), list(dict.fromkeys(spaces.split()))
    way = find_way(method)
    if not named or (how and len(named) > 1):
        raise ConfigError(f"SPACES={spaces!r}: expected {'one' if how else 'at least one'}")
    store = open_store(Workspace(root), load_data_config(data, root=root), progress=console.progress)
    fixed = parse_setting(way, how, named[0], smallest=smallest_part(store)) if how else None
    opened: dict[str, Space[Any]] = {}
    rows = []
    for run in chosen:
        parent = store.read_run(run)
        if parent.kind == "model":
            console.say(
                f"{run} is not calibrated: averaging helps what is too sure of itself, whatever is averaged; "
                f"`make calibrate RUNS={run}` first tells what smoothing gives"
            )
        for space in named:
            if space == OWN or space not in opened:
                opened[space] = _open(store, way, space, parent, data, set, root)
        made = smooth_run(store, run, way=way, spaces=opened, fixed=fixed, name=name, force=force)
        taken = Counter(_describe(fitted) for fitted in made.fitted)
        described = "; ".join(f"{text} ({number} folds)" for text, number in taken.items())
        rows.append((run, made.name, made.gain, described))
    console.gains(f"smoothing by {way.name}, cross-fitted", rows)


def _open(store: Store, way: Way, space: str, parent: Run, data: str, set: str, root: Any) -> Space[Any]:
    overrides = console.overrides(set)
    if space == OWN:
        runtime = load_runtime_config([item for item in overrides if item.startswith("runtime.")])
        return own_space(store, way.layout, parent, runtime=runtime, progress=console.progress)
    config = load_config(model=space, data=data, overrides=overrides, root=root)
    settled = settle(config, num_folds=store.folds.num_folds)
    return fixed_space(store, way.layout, settled, progress=console.progress)


def _describe(fitted: Smoothed | None) -> str:
    if fitted is None:
        return "none"
    how = asdict(fitted.how)
    return " ".join(f"{key}={'none' if value is None else value}" for key, value in how.items())


if __name__ == "__main__":
    console.run(main)
