"""make gpu-check: whether training and prediction are right on this machine's card, and how fast they are.

    PYTHONPATH=scripts python bench/gpu_check.py [--parts "repeat memory"] [--out figures.json]

Runs each part in a process of its own, prints a table and writes JSON. It needs nothing but the repository:
photographs are rendered, networks start from random weights or from those of an installed package. Without a
card the parts run in a short form on the CPU, and what needs a card is skipped and says so. docs/gpu.md says
what must be seen on a machine with a card.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import console
from distracted.errors import ConfigError, DistractedError
from distracted.files import write_json
from gpu_parts.apart import Apart, rows_apart
from gpu_parts.devices import check_device, describe_machine
from gpu_parts.exhausted import check_memory
from gpu_parts.launches import check_launches
from gpu_parts.pixels import check_pixels
from gpu_parts.place import Place
from gpu_parts.repeats import check_models, check_repeat
from gpu_parts.rows import Row, as_json, cells, skipped
from gpu_parts.speeds import check_loader, check_predictions, check_steps
from gpu_parts.stops import check_resume
from gpu_parts.together import check_team, check_two_folds
from gpu_parts.waits import check_syncs

#: Each part's function; right before fast, so that a stop in between leaves what matters most.
PARTS: dict[str, Callable[[Place], Iterable[Row]]] = {
    "device": check_device,
    "pixels": check_pixels,
    "memory": check_memory,
    "syncs": check_syncs,
    "repeat": check_repeat,
    "models": check_models,
    "resume": check_resume,
    "team": check_team,
    "loader": check_loader,
    "steps": check_steps,
    "predictions": check_predictions,
    "two_folds": check_two_folds,
    "launches": check_launches,
}
_LONGEST = 240.0  # seconds of one part


def main(
    parts: Annotated[str, typer.Option(help="Names, separated by spaces; by default all.")] = "",
    folder: Annotated[Path, typer.Option(help="For photographs and trainings.")] = Path("cache/gpu_check"),
    out: Annotated[Path | None, typer.Option(help="The JSON file; by default gpu_check.json there.")] = None,
    short: Annotated[bool, typer.Option(help="The short form; always on a CPU.")] = False,
    seconds: Annotated[float, typer.Option(help="No part begins after so many.")] = 540.0,
) -> None:
    """Run the parts; the exit code is not 0 if one of them failed."""
    chosen = choose_parts(parts)
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}  # for the parts' processes
    start = time.monotonic()
    [machine] = Apart(describe_machine).results(_LONGEST)
    place = Place(folder.absolute(), machine["device"], is_short=short or machine["device"] != "cuda")
    console.say(describe(machine, place))
    place.render(console.progress)
    results: dict[str, dict[str, Any]] = {}
    table: list[list[str]] = []
    for part in chosen:
        begin = time.monotonic()
        left = seconds - (begin - start)
        rows = run_part(part, place, left)
        results[part] = as_json(rows, seconds=time.monotonic() - begin)
        table += cells(part, rows)
        console.say(f"{part}: {results[part]['verdict']}, {results[part]['seconds']:.0f} s")
        write_json(out or folder / "gpu_check.json", {"machine": machine, "parts": results})
    console.table(f"gpu-check: {describe(machine, place)}", ["part", "what", "seen", "expected", ""], table)
    console.say(f"{time.monotonic() - start:.0f} s; figures: {out or folder / 'gpu_check.json'}")
    if failed := [part for part, result in results.items() if result["verdict"] == "FAILED"]:
        raise DistractedError(f"gpu-check: {', '.join(failed)} failed; the table says what")


def choose_parts(text: str) -> Sequence[str]:
    """The parts that PARTS= names, in their order.

    Raises:
        ConfigError: there is no such part.
    """
    named = text.split()
    if unknown := [part for part in named if part not in PARTS]:
        raise ConfigError(f"PARTS: unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    return [part for part in PARTS if part in named or not named]


def run_part(part: str, place: Place, left: float) -> list[Row]:
    """A part's rows; if no time is left, one that says so."""
    if left <= 0:
        return [skipped("the whole part", f"no time was left; PARTS={part} runs it alone")]
    rows = list(rows_apart(PARTS[part], place, seconds=min(_LONGEST, left + 60)))
    for row in rows:
        if row.verdict == "FAILED":
            console.warn(f"{part}: {row.what}: {row.value}; expected: {row.expected}")
    return rows


def describe(machine: dict[str, Any], place: Place) -> str:
    """The machine in one line."""
    cards = [f"{c['name']} ({c['memory_gb']:g} GB, {c['capability']})" for c in machine["cards"]]
    named = " and ".join(cards) if cards else "no NVIDIA card"
    form = ", short form" if place.is_short else ""
    versions = f"torch {machine['torch']}, CUDA {machine['cuda'] or 'none'}"
    return f"{named}, {machine['cores']} cores, {versions}{form}"


if __name__ == "__main__":
    console.run(main)
