"""Part `resume`: a training that is stopped goes on to the bytes of one that is not."""

import os
import signal
from collections.abc import Callable, Iterator
from subprocess import Popen

from distracted.stopping import RESUMABLE
from gpu_parts.devices import tiny
from gpu_parts.place import Command, Place, fresh
from gpu_parts.rows import Row, judged, skipped

_LONGEST = 120.0


def check_resume(place: Place) -> Iterator[Row]:
    """SIGTERM to the training, and to its whole group with loader workers, in the middle of an epoch."""
    names = ["group"] if place.is_short else ["stopped", "group"]
    commands = {name: _command(place, name) for name in ["whole", *names]}
    whole = commands["whole"].start()
    running = {name: commands[name].start() for name in names}
    signals: dict[str, Callable[[Popen[str]], None]] = {
        "stopped": lambda process: process.send_signal(signal.SIGTERM),
        "group": lambda process: os.killpg(process.pid, signal.SIGTERM),
    }
    stopped = {name: _stop(commands[name], running[name], signals[name]) for name in names}
    output, _ = whole.communicate(timeout=_LONGEST)
    failed = whole.returncode != 0
    value = f"exit code {whole.returncode}{f': {output[-300:]}' if failed else ''}"
    yield judged("undisturbed", value, "exit code 0", not failed)
    if failed:
        return
    titles = {"stopped": "SIGTERM", "group": "SIGTERM to the group, with loader workers"}
    if place.is_short:
        yield skipped(titles["stopped"], "left out of the short form; the group's signal reaches it, too")
    for name, (code, step, said) in stopped.items():
        value = f"exit code {code} at step {step}{'' if code == RESUMABLE else said}"
        yield judged(titles[name], value, f"exit code {RESUMABLE}", code == RESUMABLE and step > 0)
        code, output = commands[name].run()
        same = not code and commands[name].predictions(0) == commands["whole"].predictions(0)
        went_on = f"goes on from step {step}" in output
        value = f"{'went on' if went_on else 'began again'}, {'the same bytes' if same else 'other bytes'}"
        value = value if not code else f"exit code {code}: {output[-300:]}"
        yield judged(f"{titles[name]}, and the same command", value, "the same bytes", same and went_on)


def _command(place: Place, name: str) -> Command:
    fresh(place.folder / name)
    network = tiny(place) if place.is_short else ["model.image_size=96"]
    workers = 0 if name == "stopped" else 1 if place.is_short else 2
    epochs = 30 if place.is_short else 20
    more = [f"phases.scratch.epochs={epochs}", "model.head.dropout=0.5", f"runtime.num_workers={workers}"]
    return Command(place, name, "resnet50", [*network, *more])


def _stop(command: Command, process: Popen[str], send: Callable[[Popen[str]], None]) -> tuple[int, int, str]:
    """Stop a training that works; its exit code, the step of its checkpoint, and its last words."""
    command.wait_for_work(process)
    send(process)
    output, _ = process.communicate(timeout=_LONGEST)
    return process.returncode, command.step(), f": {output[-300:]}"
