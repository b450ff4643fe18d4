"""CPU seconds that loading costs for 1,000 test pictures, predicted in five views by five folds' networks.

    PYTHONPATH=scripts python bench/state_farm_views.py --folder <folder> --out cache/bench/views.json

The photographs are those of bench/state_farm_size.py. Counted is the processor time (user and system) of
reading, decoding, making views of 224 pixels and collating batches on one thread; no network runs. Contenders
take turns:

- a pass for each fold, as before version 0.3.0: five decodes, five times all views;
- one pass for all folds, with the views made on the CPU: what a machine without a GPU does;
- one pass that hands over untransformed pictures, whose views a GPU makes: what a GPU machine's CPU does.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer

import console
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.errors import DataError
from distracted.inference.views import VIEWS, Viewer
from harness import save
from markdown_table import say_header, say_row

SIZE, CROP, BATCH, FOLDS = 224, 0.95, 32, 5
PER_FOLD, ONCE, HANDED_OVER = "a pass for each fold", "one pass, views on the CPU", "one pass, views on a GPU"


def main(
    folder: Annotated[Path, typer.Option(help="That of bench/state_farm_size.py, or of any photographs.")],
    pictures: Annotated[int, typer.Option(help="In a round.")] = 320,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 9,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Print CPU seconds for 1,000 pictures, and how many times less than before."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    paths = find_pictures(folder, pictures)
    size = statistics.mean(path.stat().st_size for path in paths) / 1e3
    console.say(f"{len(paths)} JPEGs, {size:.0f} kB each\n")
    seconds = measure(make_contenders(paths), repeats)
    before = seconds[PER_FOLD]
    say_header(["loading", "CPU seconds for 1,000 pictures", "times less than a pass for each fold"])
    for name, rounds in seconds.items():
        ratios = [one / other for one, other in zip(before, rounds, strict=True)]
        middle = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        say_row([name, f"{statistics.median(rounds) / len(paths) * 1e3:.1f}", middle])
    save(out, {"pictures": len(paths), "kb": size, "cpu_seconds": seconds})


def find_pictures(folder: Path, count: int) -> list[Path]:
    """Some photographs, spread over those in the folder."""
    paths = sorted(folder.rglob("*.jpg"))
    if not paths:
        raise DataError(f"--folder={folder}: no .jpg files; bench/state_farm_size.py makes some")
    return [paths[row] for row in np.unique(np.linspace(0, len(paths) - 1, count).astype(int))]


def make_contenders(paths: list[Path]) -> dict[str, Callable[[], None]]:
    """By name; each loads all pictures for all folds' networks."""
    rows, viewer = np.arange(len(paths)), Viewer(VIEWS["five_crops"], size=SIZE, crop=CROP)
    with_views = Loader(Files(paths), rows, viewer, batch_size=BATCH, num_workers=0)
    untransformed = Loader(Files(paths), rows, None, batch_size=BATCH, num_workers=0)

    def load(loader: Loader, passes: int) -> None:
        for _ in range(passes):
            for _batch in loader.epoch():
                pass

    return {
        PER_FOLD: lambda: load(with_views, FOLDS),
        ONCE: lambda: load(with_views, 1),
        HANDED_OVER: lambda: load(untransformed, 1),
    }


def measure(contenders: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each contender's rounds; the first round only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with console.progress("loading", total=(repeats + 1) * len(contenders), unit="turn") as step:
        for number in range(repeats + 1):
            for name, contender in contenders.items():
                start = time.process_time()
                contender()
                if number:
                    seconds[name].append(time.process_time() - start)
                step()
    return seconds


if __name__ == "__main__":
    console.run(main)
