"""A training alone, beside busy processes, and two side by side: as torch comes, and as our commands set it.

    PYTHONPATH=scripts python bench/contention.py --out cache/bench/contention.json

Each training is a process of its own that repeats our step of EfficientNet-Lite0. The busy processes, one a
core, have equal priority: a training beside them has a fair share of one half of the machine. They are there
when it begins, or come later.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import console
from distracted.cores import usable_cores
from distracted.inference.device import keep_freed_memory
from harness import Apart, Timing, save, take_turns
from markdown_table import say_header, say_row
from speed_train import make_ours
from threads import share_machine, take_turns_of

AS_IT_COMES, OURS = "as torch comes", "as our commands set it"
ALONE, BESIDE, LATER, TWO = "alone", "beside busy processes", "busy processes came later", "two side by side"
_BUSY = "import threads; threads.take_turns_of(0)\nwhile True: pass"
_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


def main(
    steps: Annotated[int, typer.Option(help="In a round.")] = 12,
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 16,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 7,
    model: Annotated[str, typer.Option(help="A name in configs/models.")] = "efficientnet_lite0",
    folder: Annotated[Path, typer.Option(help="For photographs and their cache.")] = Path("cache/bench"),
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Print a table: images a second, as shares of a quiet machine's as torch comes."""
    contenders: dict[str, Callable[[], int]] = {}
    trainings = []
    for name in (AS_IT_COMES, OURS):
        start = partial(start_training, name, model, batch_size, steps, folder)
        first = start()
        with working(first):
            second = start()
        with busy_processes():
            time.sleep(0.3)  # until they have begun
            third = start()
        trainings += [first, second, third]
        contenders[f"{ALONE}, {name}"] = first
        contenders[f"{BESIDE}, {name}"] = beside_busy_processes(third)
        contenders[f"{LATER}, {name}"] = beside_busy_processes(first)
        contenders[f"{TWO}, {name}"] = together(first, second)
    timings = take_turns("contention", contenders, repeats=repeats)
    for training in trainings:
        training.close()
    say_table({timing.name: timing for timing in timings})
    save(out, {"contention": timings})


def say_table(timings: dict[str, Timing]) -> None:
    """Print the rates and, of what is possible, the share: half of a quiet machine, or all of it."""
    quiet = timings[f"{ALONE}, {AS_IT_COMES}"]
    say_header(["training", "threads", "images a second", "of the fair share (smallest, largest)"])
    for situation, fair in ((ALONE, 1.0), (BESIDE, 0.5), (LATER, 0.5), (TWO, 1.0)):
        for name in (AS_IT_COMES, OURS):
            timing = timings[f"{situation}, {name}"]
            middle, low, high = (ratio / fair for ratio in timing.ratio_to(quiet))
            say_row([situation, name, f"{timing.rate:.4g}", f"{middle:.2f} ({low:.2f}, {high:.2f})"])


@contextmanager
def settings(name: str) -> Iterator[None]:
    """The environment for processes that are started in this block."""
    before = dict(os.environ)
    for variable in _VARIABLES:
        os.environ.pop(variable, None)
    if name == OURS:
        share_machine()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def start_training(name: str, *arguments: object) -> Apart:
    with settings(name):
        return Apart(make_training, name, *arguments)


def make_training(name: str, model: str, batch_size: int, steps: int, folder: Path) -> Callable[[], int]:
    if name == AS_IT_COMES:  # this process has inherited our command's turns
        take_turns_of(0)
    keep_freed_memory()
    return make_ours(model, batch_size, steps, folder=folder)


@contextmanager
def busy_processes() -> Iterator[None]:
    """One a core, of equal priority."""
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(usable_cores())]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def working(training: Apart) -> Iterator[None]:
    training.begin()
    yield
    training.end()


def beside_busy_processes(training: Apart) -> Callable[[], int]:
    def train() -> int:
        with busy_processes():
            return training()

    return train


def together(first: Apart, second: Apart) -> Callable[[], int]:
    def train() -> int:
        first.begin()
        second.begin()
        return first.end() + second.end()

    return train


if __name__ == "__main__":
    console.run(main)
