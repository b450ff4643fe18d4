"""Does the cross-fitted choice leave predictions unsmoothed if neighbours carry no information?

    PYTHONPATH=scripts python bench/nothing_near.py --data <competition> --root <workspace with runs>

Every trained run of a store is calibrated and then smoothed by each method (and by the choice among all) in a
space of random features, where an image's neighbours are arbitrary. The table shows how often a fold is left
unsmoothed, and the change of the score. Clusters are left out if subjects have too few images for them.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import console
from distracted.ensemble.members import open_sources, scored_rows, step_source
from distracted.ensemble.sources import ChosenSource, FittedSource, ScoredRows, Source
from distracted.metrics import difference_and_error
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.candidates import find_limits
from distracted.postprocess.method import Method
from distracted.postprocess.smooth import METHODS, Smooth
from distracted.postprocess.step import Subset
from distracted.progress import silent
from markdown_table import say_header, say_row

NUM_FEATURES = 64
Rng = np.random.Generator


def main(
    data: console.Data,
    root: console.Root = console.HERE,
    repeats: Annotated[int, typer.Option(help="Shuffles of each run's features.")] = 5,
) -> None:
    """Print a table: for each method, the share of folds left unsmoothed, and the change of the score."""
    store = console.open_store(data, root, console.runtime(""))
    scored = scored_rows(store)
    runs = [store.read_run(name) for name in store.runs() if store.manifest(name, 0).kind == "model"]
    limits = find_limits(store)
    methods = {name: [method] for name, method in METHODS.items() if method.candidates([""], limits)}
    methods["all at once"] = [method for (method,) in methods.values()]
    none_of = {name: [0, 0] for name in methods}
    changes: dict[str, list[float]] = {name: [] for name in methods}
    with console.progress("runs", total=len(runs) * repeats, unit="shuffle") as step:
        for run in runs:
            member = FittedSource(Calibrate(), open_sources(store, [run]))
            plain = member.held_out_losses()
            for repeat in range(repeats):
                rng = np.random.default_rng([3, repeat])
                for name, chosen_from in methods.items():
                    source = _smoothed(member, scored, chosen_from, limits, rng)
                    assert isinstance(source, ChosenSource)
                    choices = [source.choice(frozenset({fold})) for fold in range(scored.num_folds)]
                    none_of[name][0] += choices.count(0)
                    none_of[name][1] += len(choices)
                    after = source.held_out_losses()
                    changes[name].append(difference_and_error(after, plain, scored.subjects)[0])
                step()
    say_header(["smoothing", "folds left unsmoothed", "mean change of log loss", "largest rise"])
    for name, (kept, total) in none_of.items():
        values = np.array(changes[name])
        share = f"{kept} of {total} ({kept / total:.1%})"
        say_row([name, share, f"{values.mean():+.6f}", f"{values.max():+.6f}"])


def _smoothed(
    member: Source, scored: ScoredRows, methods: Sequence[type[Method]], limits: dict[str, int], rng: Rng
) -> Source:
    features = dict(_features(scored, rng))
    space: Any = SimpleNamespace(get=cache(lambda index, subset: index.build(features[subset], silent)))
    candidates = [one for method in methods for one in method.candidates(["shuffled"], limits)]
    return step_source(Smooth({"shuffled": space}, candidates), [member])


def _features(scored: ScoredRows, rng: Rng) -> Iterator[tuple[Subset, NDArray[np.float32]]]:
    for fold in range(scored.num_folds):
        num = int((scored.folds == fold).sum())
        yield Subset(fold), rng.standard_normal((num, NUM_FEATURES), dtype=np.float32)


if __name__ == "__main__":
    console.run(main)
