"""What blending and smoothing cost as images, runs and classes double.

    PYTHONPATH=scripts python bench/growth.py --out growth.json --chart growth.png

Each of the sizes is doubled while the others stay where they are: 5,606 images of 26 drivers, 10
runs, 10 classes; 10,000 frames of 1,280 features to smooth. Medians of the repeats; 2.0 for a doubling is
linear.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import console
from blend import simulate as simulate_runs
from distracted.ensemble.blenders import BLENDERS
from distracted.ensemble.crossfit import cross_fit
from distracted.postprocess.neighbour_mean import neighbour_means
from distracted.postprocess.neighbours import Neighbours, nearest_neighbours
from harness import Timing, save, take_turns
from markdown_table import say_header, say_row
from smoothing import simulate as simulate_frames

BLEND = {"images": 5_606, "runs": 10, "classes": 10}
SEARCH = {"images": 10_000}
SMOOTH = {"images": 10_000, "classes": 10}
_FEATURES, _NEIGHBOURS, _SEED = 1_280, 50, 0

#: By axis and by what is timed: its rounds at each size.
Curves = dict[str, dict[str, dict[int, Timing]]]


def main(
    doublings: Annotated[int, typer.Option(help="How many.")] = 3,
    repeats: Annotated[int, typer.Option(help="How often each is timed.")] = 3,
    scale: Annotated[float, typer.Option(help="Of the numbers of images; for a quick look.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
    chart: Annotated[Path | None, typer.Option(help="A PNG of the curves.")] = None,
) -> None:
    """Print a table: seconds at the largest size, and how many times as long each doubling takes."""
    curves: Curves = {}
    for make, start in ((blending, BLEND), (searching, SEARCH), (smoothing, SMOOTH)):
        first = {**start, "images": int(start["images"] * scale)}
        for axis in first:
            curves.setdefault(axis, {}).update(grow(make, first, axis, doublings, repeats))
    say_header(["doubling", "what", *(f"x{2**step}" for step in range(doublings + 1)), "a doubling takes"])
    for axis, by_name in curves.items():
        for name, timings in by_name.items():
            seconds = [timing.median for timing in timings.values()]
            times = [later / sooner for sooner, later in itertools.pairwise(seconds)]
            shown = " ".join(f"{ratio:.1f}" for ratio in times)
            say_row([f"{axis}, {min(timings):,}", name, *(f"{s:.2g} s" for s in seconds), f"{shown} times"])
    save(out, {"curves": curves, "scale": scale})
    if chart is not None:
        draw(curves, chart)


def grow(
    make: Callable[[dict[str, int]], dict[str, Callable[[], int]]],
    first: dict[str, int],
    axis: str,
    doublings: int,
    repeats: int,
) -> dict[str, dict[int, Timing]]:
    """Time what `make` gives at each size of an axis."""
    by_name: dict[str, dict[int, Timing]] = {}
    for size in (first[axis] * 2**step for step in range(doublings + 1)):
        timed = take_turns(f"{size} {axis}", make({**first, axis: size}), repeats=repeats, warm_up=False)
        for timing in timed:
            by_name.setdefault(timing.name, {})[size] = timing
    return by_name


def blending(sizes: dict[str, int]) -> dict[str, Callable[[], int]]:
    """One fit of each blender that is chosen from, and a whole cross-fitted blend with the choice of one."""
    problem = simulate_runs(sizes["runs"], sizes["images"], _SEED, sizes["classes"])

    def fit(blender: int) -> int:
        BLENDERS[blender].fit_weights(problem.log_probs, problem.labels)
        return sizes["images"]

    def blend() -> int:
        cross_fit(problem.sources())
        return sizes["images"]

    fitted = [number for number, blender in enumerate(BLENDERS) if "mean" not in blender.name]
    return {BLENDERS[number].name: partial(fit, number) for number in fitted} | {"the whole blend": blend}


def searching(sizes: dict[str, int]) -> dict[str, Callable[[], int]]:
    """The search for neighbours: exact up to 50,000 images, by an index from there on."""
    frames = simulate_frames(sizes["images"], _FEATURES)

    def search() -> int:
        return len(nearest_neighbours(frames, _NEIGHBOURS).indices)

    return {"search for neighbours": search}


def smoothing(sizes: dict[str, int]) -> dict[str, Callable[[], int]]:
    """The mean over neighbours that have been found."""
    images = sizes["images"]
    rng = np.random.default_rng(1)
    log_probs = np.log(rng.dirichlet(np.full(sizes["classes"], 0.3), images) + 1e-6)
    indices = rng.integers(0, images, (images, _NEIGHBOURS), dtype=np.int32)
    distances = np.sort(rng.random((images, _NEIGHBOURS), dtype=np.float32), axis=1)
    neighbours = Neighbours(indices, distances)

    def smooth() -> int:
        neighbour_means(log_probs, neighbours, "arithmetic", 0.3, [_NEIGHBOURS])
        return images

    return {"mean over neighbours": smooth}


def draw(curves: Curves, path: Path) -> None:
    """Seconds by size, both on logarithmic scales; the dotted line is linear."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True)
    colours: dict[str, str] = {}
    for ax, (axis, by_name) in zip(axes, curves.items(), strict=True):
        for name, timings in by_name.items():
            colour = colours.setdefault(name, f"C{len(colours)}")
            seconds = [timing.median for timing in timings.values()]
            linear = [seconds[0] * 2**step for step in range(len(seconds))]
            ax.loglog(list(timings), seconds, marker="o", markersize=4, color=colour, label=name)
            ax.loglog(list(timings), linear, color="grey", linestyle=":", linewidth=0.8)
        sizes = [size for timings in by_name.values() for size in timings]
        ticks = [min(sizes) * 2**step for step in range((max(sizes) // min(sizes)).bit_length())]
        ax.set_xticks(ticks, [f"{size:,}" for size in ticks])
        ax.set_xticks([], minor=True)
        ax.set_xlabel(axis)
        ax.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("seconds")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    console.run(main)
