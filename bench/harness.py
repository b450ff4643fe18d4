"""Shared by the benchmarks of speed: contenders take turns, and their times become a table and JSON.

Each contender is timed once in every round, so that other load on the machine affects all of them equally.
Rates are those of the median round; the ratio to another contender is the median of the rounds' ratios, shown
with the smallest and the largest.
"""

import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import console
from distracted.files import atomic_path, write_json
from distracted.predictions.provenance import package_versions
from markdown_table import say_header, say_row

#: Sides of the images, in pixels, where the measurements are not made at the network's own size.
_SIZES = {"efficientnet_lite0": 128}


def size_setting(model: str) -> str:
    """The size that a network is measured at, as SET= takes it."""
    return f"model.image_size={_SIZES.get(model, 'auto')}"


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays and numbers to an .npz file, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


@dataclass(frozen=True)
class Timing:
    """One contender's rounds.

    Attributes:
        work: Units in each round, such as images.
        seconds: Time of each round.
    """

    name: str
    work: int
    seconds: list[float]

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Units per second in the median round."""
        return self.work / self.median

    def ratio_to(self, other: "Timing") -> tuple[float, float, float]:
        """Ratio to another contender's rate: the median of the rounds, the smallest and the largest."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        ratios = [(theirs / other.work) / (ours / self.work) for ours, theirs in pairs]
        return statistics.median(ratios), min(ratios), max(ratios)


def take_turns(
    label: str, contenders: Mapping[str, Callable[[], int]], *, repeats: int, warm_up: bool = True
) -> list[Timing]:
    """Time contenders, one after another in each round, in another order each time: each leaves traces.

    Args:
        contenders: By name; each does its work once and returns the number of units.
        warm_up: Let each of them work once, untimed, before the first round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    work: dict[str, int] = {}
    rounds = repeats + warm_up
    with console.progress(label, total=rounds * len(contenders), unit="turn") as step:
        for number in range(rounds):
            order = list(contenders.items())
            Random(number).shuffle(order)
            for name, contender in order:
                start = time.perf_counter()
                work[name] = contender()
                if number or not warm_up:
                    seconds[name].append(time.perf_counter() - start)
                step()
    return [Timing(name, work[name], seconds[name]) for name in contenders]


class Apart:
    """A contender in its own process, which our settings in this one do not affect.

    Args:
        make: Makes the contender there; it and its arguments must be picklable.
    """

    def __init__(self, make: Callable[..., Callable[[], int]], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._ours.recv()  # it is ready

    def __call__(self) -> int:
        self.begin()
        return self.end()

    def begin(self) -> None:
        """Let it start to work."""
        self._ours.send(True)

    def end(self) -> int:
        """Wait until it has done its work; returns the number of units."""
        return int(self._ours.recv())

    def close(self) -> None:
        """End the process."""
        self._ours.send(False)
        self._process.join()


def _serve(pipe: Connection, make: Callable[..., Callable[[], int]], arguments: tuple[object, ...]) -> None:
    contender = make(*arguments)
    pipe.send(True)
    while pipe.recv():
        pipe.send(contender())


def say_rates(title: str, timings: Sequence[Timing], *, unit: str, compared_with: Sequence[str]) -> None:
    """Print a table of rates, with ratios to some of the contenders."""
    others = [next(t for t in timings if t.name == name) for name in compared_with]
    console.say(f"\n{title}\n")
    say_header([title.split(":")[0], f"{unit} a second", *(f"times {other.name}" for other in others)])
    for timing in timings:
        ratios = [timing.ratio_to(other) for other in others]
        cells = [f"{middle:.2f} ({low:.2f} to {high:.2f})" for middle, low, high in ratios]
        say_row([timing.name, f"{timing.rate:.4g}", *cells])


def cpu_of_children() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def save(out: Path | None, figures: Mapping[str, object]) -> None:
    """Write figures and a description of the machine to `out`, if it is given."""
    if out is not None:
        write_json(out, {"machine": machine(), **json.loads(json.dumps(figures, default=asdict))})


def machine() -> dict[str, object]:
    """The processor, the system, and the versions of packages."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    facts: dict[str, object] = {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return facts | package_versions()
