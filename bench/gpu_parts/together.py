"""Parts `two_folds` and `team`: several processes on one card, and several cards on one fold."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import torch

from gpu_parts.devices import tiny
from gpu_parts.place import Command, Place, fresh
from gpu_parts.rows import Row, judged, measured, skipped

_CLOSE = 1e-3  # between the losses of two processes and one: the order of sums differs
_SOON = 15.0  # seconds until a team has ended after one of it was killed
_LONGEST = 120.0
#: A network without BatchNorm and without dropout: the same up to rounding, however a batch is divided.
_PLAIN = ["model.backbone=test_vit", "model.image_size=160", "model.head.dropout=0"]


def check_two_folds(place: Place) -> Iterator[Row]:
    """A grid of two folds, one after another and side by side."""
    network = tiny(place) if place.is_short else ["model.image_size=128"]
    share = ["runtime.num_gpus=0.5"] if place.is_cuda else ["runtime.num_cpus=1"]
    settings = [*network, *share, f"phases.scratch.epochs={1 if place.is_short else 12}"]
    seconds, hashes = {}, {}
    for name, jobs in (("after_each_other", 1), ("side_by_side", 2)):
        fresh(place.folder / name)
        command = Command(place, name, "resnet50", settings)
        start = time.perf_counter()
        code, output = command.run("grid.py", "--jobs", str(jobs))
        seconds[name] = time.perf_counter() - start
        if code:
            yield judged(name.replace("_", " "), f"exit code {code}: {output[-300:]}", "0", False)
            return
        hashes[name] = command.predictions(0, 1)
    slow, fast = seconds.values()
    what = "two folds on one card" if place.is_cuda else "two folds on the CPU"
    value = f"{slow / fast:.2f} times as fast side by side ({slow:.0f} s and {fast:.0f} s)"
    yield measured(what, value, seconds=seconds)
    first, second = hashes.values()
    yield judged(
        "their predictions", "the same bytes" if first == second else "differ", "the same", first == second
    )


def check_team(place: Place) -> Iterator[Row]:
    """Two processes on one fold: on two cards by NCCL, else on the CPU by gloo."""
    if place.is_cuda and torch.cuda.device_count() >= 2:
        yield from _team(place, "NCCL, two cards", [])
        return
    cards = torch.cuda.device_count() if place.is_cuda else 0
    yield skipped("NCCL, two cards", f"needs two cards; the number here is {cards}")
    yield from _team(place, "gloo, on the CPU", ["runtime.device=cpu"])


def _team(place: Place, how: str, device: list[str]) -> Iterator[Row]:
    for name in ("alone", "team", "killed"):
        fresh(place.folder / name)
    what = f"{how}: losses against one process"
    if place.is_short:
        yield skipped(what, "left out of the short form; tests/scripts/test_team.py compares them")
    else:
        yield _agrees(place, what, [*_PLAIN, *device, "training.precision=fp32", "phases.scratch.epochs=4"])
    yield _killed(place, how, [*_PLAIN, *device, "phases.scratch.epochs=5000"])


def _agrees(place: Place, what: str, settings: list[str]) -> Row:
    alone, team = Command(place, "alone", "resnet50", settings), Command(place, "team", "resnet50", settings)
    for command, more in ((alone, ()), (team, ("--gpus", "2"))):
        code, output = command.run("train.py", *more)
        if code:
            return judged(what, f"{command.name}: exit code {code}: {output[-300:]}", "exit code 0", False)
    ours, theirs = _losses(alone), _losses(team)
    apart = max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=1.0)
    return judged(what, f"{apart:.1g} apart", f"at most {_CLOSE:g}", apart <= _CLOSE)


def _losses(command: Command) -> list[float]:
    path = command.workspace.metrics(command.place.photographs.name, "net", 0)
    lines = map(json.loads, path.read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def _killed(place: Place, how: str, settings: list[str]) -> Row:
    """One process of a team is killed; the command ends soon, and says so."""
    command = Command(place, "killed", "resnet50", settings)
    process = command.start("train.py", "--gpus", "2")
    try:
        command.wait_for_work(process)
        others = [pid for pid in _children(process.pid) if pid != command.lead()]
        start = time.monotonic()
        os.kill(others[0], signal.SIGKILL)
        output, _ = process.communicate(timeout=_LONGEST)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    took = time.monotonic() - start
    said = "was ended by signal 9" in output
    value = f"ended after {took:.1f} s with exit code {process.returncode}"
    expected = f"an error within {_SOON:.0f} s"
    return judged(f"{how}: a process is killed", value, expected, took < _SOON and said, seconds=took)


def _children(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]
