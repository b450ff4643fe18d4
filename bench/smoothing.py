"""Time and peak memory of neighbour smoothing at the size of State Farm's test set.

    PYTHONPATH=scripts python bench/smoothing.py

79,726 frames of 2,048 features are simulated as clips: frames of a clip lie near each other, a driver's clips
less so. Each search runs in a process of its own, one after the other, so that its peak memory is its own.
Ours is the project's search and the smoothing of one fold's predictions, compared with scikit-learn's brute
force as a user would write it. The neighbours of both are compared.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

import console
from distracted.postprocess.neighbour_mean import neighbour_means
from distracted.postprocess.neighbours import directions_of, nearest_neighbours
from harness import save
from markdown_table import say_header, say_row

NUM_CLASSES = 10
CLIP, DRIVER = 40, 1500  # frames in a clip, and of a driver
#: Total variance, offset and power of the spectrum, fitted by eye to the measured ones.
SPREADS = {"drivers": (112.0, 1.0, 1.3), "clips": (270.0, 3.0, 1.2), "frames": (51.0, 3.0, 0.85)}
WAYS = ("faiss", "sklearn", "scikit-learn as it comes")


def main(
    frames: Annotated[int, typer.Option(help="Images.")] = 79_726,
    features: Annotated[int, typer.Option(help="Features of each image.")] = 2_048,
    neighbours: Annotated[int, typer.Option(help="Neighbours of each image.")] = 50,
    way: Annotated[str, typer.Option(help="Run one search in this process (internal).")] = "",
    out_indices: Annotated[Path | None, typer.Option(help="Its indices (internal).")] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Print a table: each search's seconds and peak memory."""
    if way:
        assert out_indices is not None
        _search(way, frames, features, neighbours, out_indices)
        return
    kept: dict[str, dict[str, float]] = {}
    say_header(["search", "search, s", "smoothing, s", "peak memory, GiB", "neighbours as ours"])
    with TemporaryDirectory() as folder:
        indices: dict[str, NDArray[np.int64]] = {}
        for name in WAYS:
            path = Path(folder) / f"{len(indices)}.npz"
            sizes = ["--frames", str(frames), "--features", str(features), "--neighbours", str(neighbours)]
            command = [sys.executable, __file__, *sizes, "--way", name, "--out-indices", str(path)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            indices[name] = np.load(path)["indices"]
            same = float((indices[name] == indices[WAYS[0]]).mean())
            kept[name] = {**figures, "same": same}
            say_row(
                [
                    name,
                    f"{figures['search']:.1f}",
                    f"{figures['smoothing']:.1f}",
                    f"{figures['peak']:.2f}",
                    f"{same:.4%}",
                ]
            )
    save(out, {"frames": frames, "features": features, "neighbours": neighbours, "searches": kept})


def _search(way: str, frames: int, features: int, k: int, out: Path) -> None:
    rows = simulate(frames, features)
    log_probs = np.log(np.random.default_rng(1).dirichlet(np.full(NUM_CLASSES, 0.3), frames) + 1e-6)
    start = time.perf_counter()
    smoothing = 0.0
    if way == WAYS[2]:
        indices = _as_it_comes(rows, k)
        search = time.perf_counter() - start
    else:
        neighbours = nearest_neighbours(
            rows, k, engine="faiss" if way == WAYS[0] else "sklearn", progress=console.progress
        )
        search = time.perf_counter() - start
        neighbour_means(log_probs, neighbours, "arithmetic", 0.3, [k])
        smoothing = time.perf_counter() - start - search
        indices = neighbours.indices.astype(np.int64)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    np.savez(out, indices=indices)
    print(json.dumps({"search": search, "smoothing": smoothing, "peak": peak}))


def _as_it_comes(rows: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(directions_of(rows))
    indices: NDArray[np.int64] = search.kneighbors(return_distance=False)
    return indices


def simulate(frames: int, features: int, clip: int = CLIP) -> NDArray[np.float32]:
    """Frames in clips of so many, clips of drivers; shape (frames, features).

    The variances are those of EfficientNet-Lite0's features: between the people and recordings of
    sign-digits and fingers, between a subject's images, and between jittered copies of one image. The i-th
    principal component has a share of (1 + i / offset)^-power.
    """
    rng = np.random.default_rng(0)
    scale = {name: _scale(features, *spread) for name, spread in SPREADS.items()}
    clips, driver = np.arange(frames) // clip, np.arange(frames) // DRIVER
    poses = rng.standard_normal((clips[-1] + 1, features), dtype=np.float32) * scale["clips"]
    people = rng.standard_normal((driver[-1] + 1, features), dtype=np.float32) * scale["drivers"]
    rows = rng.standard_normal((frames, features), dtype=np.float32)
    for start in range(0, frames, DRIVER):
        part = slice(start, start + DRIVER)
        rows[part] *= scale["frames"]
        rows[part] += poses[clips[part]] + people[driver[part]]
    return rows


def _scale(features: int, variance: float, offset: float, power: float) -> NDArray[np.float32]:
    shares = (1 + np.arange(features) / offset) ** -power
    scale: NDArray[np.float32] = np.sqrt(variance * shares / shares.sum()).astype(np.float32)
    return scale


if __name__ == "__main__":
    console.run(main)
