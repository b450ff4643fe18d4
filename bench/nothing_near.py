"""Where neighbours say nothing, does the cross-fitted choice smooth nothing?

    PYTHONPATH=scripts python bench/nothing_near.py --data <competition> --root <workspace with runs>

Every trained run of a store is calibrated, and then offered to each way to smooth (and to all at once) in
a space of random features: what is near an image is anybody. Counted is how often a fold is left as it is,
and what the choice did to the score. Where subjects have too few images for clusters, there are none.
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

import console
from distracted.config import load_data_config
from distracted.ensemble.derive import extent_of
from distracted.ensemble.members import open_sources, scored_rows, step_source
from distracted.ensemble.sources import Chosen, Fitted, ScoredRows, Source, held_out_losses
from distracted.metrics import difference_and_error
from distracted.paths import Workspace
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.methods import WAYS, Extent, Way, all_settings, any_of
from distracted.postprocess.smooth import Smooth
from distracted.postprocess.step import Subset
from distracted.predictions.store import open_store
from distracted.progress import silent
from markdown_table import say_header, say_row

NUM_FEATURES = 64


def main(
    data: console.Data,
    root: console.Root = console.HERE,
    repeats: Annotated[int, typer.Option(help="Shuffles of each run's features.")] = 5,
    debug: console.Debug = False,
) -> None:
    """Print a table: each way, the share of folds left as they are, and the change of the score."""
    store = open_store(Workspace(root), load_data_config(data, root=root), progress=console.progress)
    scored = scored_rows(store.folds)
    runs = [store.read_run(name) for name in store.runs() if store.manifest(name, 0).kind == "model"]
    extent = extent_of(store)
    ways = {name: [way] for name, way in WAYS.items() if way.candidates([""], most=way.most(extent))}
    ways["all at once"] = [way for (way,) in ways.values()]
    none_of = {name: [0, 0] for name in ways}
    changes: dict[str, list[float]] = {name: [] for name in ways}
    with console.progress("runs", total=len(runs) * repeats, unit="shuffle") as step:
        for run in runs:
            calibrate = Calibrate(subjects=scored.subjects_by_fold())
            member = Fitted("calibrated", calibrate, open_sources(store, [run], scored), scored)
            plain = held_out_losses(member, scored, frozenset())
            for repeat in range(repeats):
                rng = np.random.default_rng([3, repeat])
                for name, chosen_from in ways.items():
                    source = _smoothed(member, scored, chosen_from, extent, rng)
                    assert isinstance(source, Chosen)
                    choices = [source.choice(frozenset({fold})) for fold in range(scored.num_folds)]
                    none_of[name][0] += choices.count(0)
                    none_of[name][1] += len(choices)
                    after = held_out_losses(source, scored, frozenset())
                    changes[name].append(difference_and_error(after, plain, scored.subjects)[0])
                step()
    say_header(["smoothing", "folds left as they are", "mean change of log loss", "largest rise"])
    for name, (kept, total) in none_of.items():
        values = np.array(changes[name])
        share = f"{kept} of {total} ({kept / total:.1%})"
        say_row([name, share, f"{values.mean():+.6f}", f"{values.max():+.6f}"])


def _smoothed(
    member: Source, scored: ScoredRows, ways: list[Way], extent: Extent, rng: np.random.Generator
) -> Source:
    features = dict(_features(scored, rng))
    spaces = {}
    for way in ways:
        kept = {part: way.layout.read(way.layout.find(rows, silent)) for part, rows in features.items()}
        spaces[way.layout.name] = {"shuffled": kept.__getitem__}
    candidates = all_settings(ways, ["shuffled"], extent)
    return step_source("smooth", Smooth(any_of(spaces, candidates)), [member], scored)  # type: ignore[arg-type]


def _features(scored: ScoredRows, rng: np.random.Generator) -> Iterator[tuple[Subset, NDArray[np.float32]]]:
    for fold in range(scored.num_folds):
        num = int((scored.folds == fold).sum())
        yield Subset(fold), rng.standard_normal((num, NUM_FEATURES), dtype=np.float32)


if __name__ == "__main__":
    console.run(main)
