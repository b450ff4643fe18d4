"""What the search for neighbours costs as images double: by inverted lists, and by exact search.

    PYTHONPATH=scripts python bench/neighbours.py --doublings 5

Frames of 1,280 features that are spread as real ones are (`smoothing.simulate`). Each size has a process of
its own, so that its peak memory is its own. Processor seconds, since those do not depend on other load; with
OMP_NUM_THREADS=1 they are the seconds of one free core. Exact search is timed on some of the images and
scaled, since its time is linear in them.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import console
from distracted.postprocess.knn import knn
from distracted.postprocess.neighbours import MAX_NEIGHBOURS, directions_of, nearest_neighbours
from harness import save
from markdown_table import say_header, say_row
from smoothing import simulate

_EXACT = 1024  # images whose exact neighbours are timed


def main(
    images: Annotated[int, typer.Option(help="At first.")] = 10_000,
    doublings: Annotated[int, typer.Option(help="How many.")] = 3,
    features: Annotated[int, typer.Option(help="Features of each image.")] = 1_280,
    clip: Annotated[
        int, typer.Option(help="Frames in a clip; State Farm has 86 of a driver and class.")
    ] = 86,
    noise: Annotated[bool, typer.Option(help="Features without structure, the worst case.")] = False,
    size: Annotated[int, typer.Option(help="Measure one size in this process (internal).")] = 0,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Print a table: the search that is used if it is tried at each size, its seconds, recall and memory."""
    if size:
        print(json.dumps(measure(size, features, clip, noise)))
        return
    rows = []
    say_header(["images", "search", "seconds", "peak memory, GiB", "exact search, seconds"])
    for number in (images * 2**step for step in range(doublings + 1)):
        command = [
            sys.executable,
            __file__,
            "--size",
            str(number),
            "--features",
            str(features),
            "--clip",
            str(clip),
        ]
        command += ["--noise"] * noise
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        cells = [f"{row['seconds']:.1f}", f"{row['peak']:.2f}", f"{row['exact']:.0f}"]
        say_row([f"{number:,}", row["search"] or "exact", *cells])
    save(out, {"features": features, "clip": clip, "noise": noise, "sizes": rows})


def measure(images: int, features: int, clip: int, noise: bool) -> dict[str, float | str]:
    """Seconds of both searches, the first one's description, and its peak memory in GiB."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((images, features), np.float32) if noise else simulate(images, features, clip)
    start = time.process_time()
    found = nearest_neighbours(rows, MAX_NEIGHBOURS, many=1)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    directions, start = directions_of(rows), time.process_time()
    knn(directions[:_EXACT], directions, MAX_NEIGHBOURS + 1)
    exact = (time.process_time() - start) * images / _EXACT
    return {"images": images, "search": found.search, "seconds": seconds, "peak": peak, "exact": exact}


if __name__ == "__main__":
    console.run(main)
