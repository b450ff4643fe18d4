"""make smooth: images that look alike are predicted together, as a run like any other."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import console
from distracted.config import load_config, load_data_config, load_runtime_config
from distracted.ensemble.derive import extent_of, settings_to_try, smooth_run
from distracted.ensemble.nearness import Distance, neighbour_distances, sensitivity
from distracted.errors import ConfigError
from distracted.paths import Workspace
from distracted.postprocess.methods import Way, as_json, find_ways, parse_setting
from distracted.postprocess.smooth import Smoothed
from distracted.postprocess.spaces import OWN, Space, fixed_spaces, own_spaces
from distracted.predictions.run import Run
from distracted.predictions.store import Store, open_store
from distracted.schema import RuntimeConfig
from distracted.training.resolve import settle


def main(
    runs: Annotated[str, typer.Option(help="Complete runs, separated by spaces.")],
    spaces: Annotated[str, typer.Option(help="Feature spaces: pretrained models, or own.")] = OWN,
    methods: Annotated[str, typer.Option(help="Some of neighbours, diffusion, clusters.")] = "neighbours",
    how: Annotated[
        str, typer.Option(help="One setting to take, e.g. 'k=10 bandwidth=0.3 mean=arithmetic'.")
    ] = "",
    name: Annotated[str, typer.Option(help="Of the run that is made; by default <run>_smooth.")] = "",
    data: console.Data = "state_farm",
    set: Annotated[
        str, typer.Option(help="runtime.*, and what the models of SPACES take, e.g. 'model.image_size=128'.")
    ] = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
    debug: console.Debug = False,
) -> None:
    """Choose the smoothing of each fold on the other folds, or none, and write the result as a run."""
    chosen, named = console.run_names(runs, name), list(dict.fromkeys(spaces.split()))
    ways = find_ways(methods.split())
    if not named or (how and len(named) > 1):
        raise ConfigError(f"SPACES={spaces!r}: expected {'one' if how else 'at least one'}")
    if how and len(ways) > 1:
        raise ConfigError(f"HOW={how!r} is a setting of one method; got METHODS={methods!r}")
    own_alone = named == [OWN]  # the run has settled all but runtime.*, a model named here has not
    runtime = load_runtime_config(
        [item for item in console.overrides(set) if own_alone or item.startswith("runtime.")]
    )
    store = open_store(Workspace(root), load_data_config(data, root=root), progress=console.progress)
    if how:  # either is refused before any network has run
        candidates = [parse_setting(ways[0], how, named[0], extent_of(store))]
    else:
        candidates = settings_to_try(store, ways, named)
    opener = _Opener(store, ways, runtime, data, set, root)
    rows = []
    distances: dict[str, list[Distance]] = {}
    changed: list[tuple[str, dict[str, float]]] = []
    for run in chosen:
        parent = store.read_run(run)
        if parent.kind == "model":
            console.say(
                f"{run} is not calibrated: averaging helps what is too sure of itself, whatever is averaged; "
                f"`make calibrate RUNS={run}` first tells what smoothing gives"
            )
        opened = opener(named, parent)
        made = smooth_run(
            store, run, candidates=candidates, spaces=opened, fixed=bool(how), name=name, force=force
        )
        taken = Counter(_describe(fitted) for fitted in made.fitted)
        described = "; ".join(f"{text} ({number} folds)" for text, number in taken.items())
        rows.append((run, made.name, made.gain, described or "done already"))
        if "neighbours" in opened and made.fitted:
            changed.append((made.name, sensitivity(store, run, made.fitted, opened["neighbours"])))
            distances[run] = neighbour_distances(store, opened["neighbours"])
    console.track(store, runtime, *(made_name for _, made_name, _, _ in rows))
    console.gains("smoothing, cross-fitted", rows)
    for run, near in distances.items():
        show_distances(run, near)
    for made_name, found in changed:
        if found:
            texts = [f"{how} {loss:.4f}" for how, loss in found.items()]
            console.say(f"{made_name}, log loss by neighbours: {', '.join(texts)}")


def show_distances(run: str, distances: Sequence[Distance]) -> None:
    """Print how near neighbours are in the folds and in the test set."""
    columns = ["space", "k", "validation folds", "all folds at once", "test set"]
    cells = [
        [
            d.space,
            str(d.k),
            f"{d.folds:.3f}",
            "" if d.drivers is None else f"{d.drivers:.3f}",
            f"{d.test:.3f}",
        ]
        for d in distances
    ]
    console.table(f"{run}: median distance to the k-th neighbour", columns, cells)


class _Opener:
    """Makes spaces, a fixed network's once for all runs."""

    def __init__(
        self, store: Store, ways: Sequence[Way], runtime: RuntimeConfig, data: str, set: str, root: Path
    ) -> None:
        self._store, self._data, self._overrides, self._root = store, data, console.overrides(set), root
        self._layouts = list({way.layout.name: way.layout for way in ways}.values())
        self._runtime = runtime
        self._fixed: dict[str, dict[str, Space[Any]]] = {}

    def __call__(self, names: Sequence[str], parent: Run) -> dict[str, dict[str, Space[Any]]]:
        """By the names of the layouts, and then of the spaces."""
        made = {name: self._own(parent) if name == OWN else self._of_model(name) for name in names}
        layouts = [layout.name for layout in self._layouts]
        return {layout: {name: found[layout] for name, found in made.items()} for layout in layouts}

    def _own(self, parent: Run) -> dict[str, Space[Any]]:
        return own_spaces(
            self._store, self._layouts, parent, runtime=self._runtime, progress=console.progress
        )

    def _of_model(self, name: str) -> dict[str, Space[Any]]:
        if name not in self._fixed:
            config = load_config(model=name, data=self._data, overrides=self._overrides, root=self._root)
            settled = settle(config, num_folds=self._store.folds.num_folds)
            self._fixed[name] = fixed_spaces(self._store, self._layouts, settled, progress=console.progress)
        return self._fixed[name]


def _describe(fitted: Smoothed | None) -> str:
    if fitted is None:
        return "none"
    return " ".join(f"{key}={'none' if v is None else v}" for key, v in as_json(fitted.how).items())


if __name__ == "__main__":
    console.run(main)
