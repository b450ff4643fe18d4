"""make smooth: images that look alike are predicted together, as a run of its own."""

from collections.abc import Sequence
from functools import cache
from typing import Annotated

import typer

import console
from distracted.config import load_config, load_runtime_config
from distracted.ensemble.derive import derive_run
from distracted.ensemble.nearness import Distance, neighbour_distances, sensitivity
from distracted.errors import ConfigError
from distracted.postprocess.candidates import all_candidates, find_limits, find_methods, parse_candidate
from distracted.postprocess.neighbours import Neighbours
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.spaces import OWN, Space, own_space, pretrained_space
from distracted.predictions.run import Run


def main(
    runs: Annotated[str, typer.Option(help="Complete runs, separated by spaces.")],
    spaces: Annotated[str, typer.Option(help="Feature spaces: pretrained models, or own.")] = OWN,
    methods: Annotated[str, typer.Option(help="Some of neighbours, diffusion, clusters.")] = "neighbours",
    how: Annotated[
        str, typer.Option(help="One setting to take, e.g. 'k=10 bandwidth=0.3 mean=arithmetic'.")
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the new run; by default <run>_smooth.")] = "",
    data: console.Data = "state_farm",
    set: Annotated[
        str, typer.Option(help="runtime.*, and what the models of SPACES take, e.g. 'model.image_size=128'.")
    ] = "",
    force: console.Force = False,
    root: console.Root = console.HERE,
) -> None:
    """Choose the smoothing of each fold on the other folds, or none, and write the result as a run."""
    chosen, named = console.run_names(runs, name), list(dict.fromkeys(spaces.split()))
    kinds = find_methods(methods.split())
    if not named or (how and len(named) > 1):
        raise ConfigError(f"SPACES={spaces!r}: expected {'one' if how else 'at least one'}")
    if how and len(kinds) > 1:
        raise ConfigError(f"HOW={how!r} is a setting of one method; got METHODS={methods!r}")
    settings = console.overrides(set)
    if named != [OWN]:  # a stored run is resolved but for runtime.*; a model named here is not
        settings = [item for item in settings if item.startswith("runtime.")]
    runtime = load_runtime_config(settings)
    placed = console.place(data, root, runtime)
    store = console.open_store(placed, root, runtime)
    if how:  # either may be refused before any network runs
        candidates = [parse_candidate(kinds[0], how, named[0], find_limits(store))]
    else:
        candidates = all_candidates(store, kinds, named)
    indices = list(dict.fromkeys(kind.index for kind in kinds))

    @cache
    def pretrained(model: str) -> Space:
        from distracted.training.resolve import resolve

        config = load_config(model=model, data=placed, overrides=console.overrides(set), root=root)
        resolved = resolve(config, num_folds=store.folds.num_folds)
        return pretrained_space(store, indices, resolved, progress=console.progress)

    def open_space(space: str, parent: Run) -> Space:
        if space != OWN:
            return pretrained(space)
        return own_space(store, indices, parent, runtime=runtime, progress=console.progress)

    rows, notes = [], []
    distances: dict[str, list[Distance]] = {}
    for run in chosen:
        parent = store.read_run(run)
        if parent.kind == "model":
            console.say(
                f"{run} is not calibrated: any averaging helps over-confident predictions; "
                f"`make calibrate RUNS={run}` first shows what smoothing itself gains"
            )
        opened = {space: open_space(space, parent) for space in named}
        made = derive_run(store, Smooth(opened, candidates, bool(how)), [run], name=name, force=force)
        rows.append((run, made.name, made.gain, made.how))
        if made.fits and Neighbours in indices:
            if losses := sensitivity(store, run, made.fits, opened):
                texts = ", ".join(f"{change} {loss:.4f}" for change, loss in losses.items())
                notes.append(f"{made.name}, log loss by neighbours: {texts}")
            distances[run] = neighbour_distances(store, opened)
    console.track(store, runtime, *(made_name for _, made_name, _, _ in rows))
    console.gains("smoothing, cross-fitted", rows)
    for run, near in distances.items():
        show_distances(run, near)
    for note in notes:
        console.say(note)


def show_distances(run: str, distances: Sequence[Distance]) -> None:
    """Print how near neighbours are in the folds and in the test set."""
    columns = ["space", "k", "validation folds", "all folds at once", "test set"]
    cells = []
    for one in distances:
        drivers = "" if one.drivers is None else f"{one.drivers:.3f}"
        cells.append([one.space, str(one.k), f"{one.folds:.3f}", drivers, f"{one.test:.3f}"])
    console.table(f"{run}: median distance to the k-th neighbour", columns, cells)


if __name__ == "__main__":
    console.run(main)
