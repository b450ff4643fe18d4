"""What the commands on predictions cost at State Farm's size, from a few runs to many.

    PYTHONPATH=scripts python bench/many_runs.py --folder <folder> --out cache/bench/many_runs.json

A competition of 22,424 training and 79,726 test images, each a tiny JPEG, and runs with simulated predictions
over five folds (20 MB a run). The commands run as users run them, one after another, in a workspace for each
number of runs; "again" has nothing left to do. CPU seconds are of all cores, since other work on the machine
changes the time on the wall. Memory is what the processes wrote, as in bench/memory.py. Results are kept, and
what was measured is skipped.

Another version of the project is measured by its own commands:

    PYTHONPATH=scripts python bench/many_runs.py --folder <folder> --version <its folder> --name before
"""

import json
import os
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import console
from blend import simulate
from distracted.files import write_json
from distracted.postprocess.step import normalised
from distracted.predictions.manifest import MANIFEST
from harness import save
from markdown_table import say_header, say_row
from memory import Peak, watch
from report_scale import NUM_FOLDS, NUM_TEST, draw

HERE = Path(__file__).parent
_QUIET = "--set runtime.tracking=none"
#: Commands by name, in their order.
COMMANDS = {
    "folds": "folds.py",
    "folds again": "folds.py",
    "ensemble": f"ensemble.py {_QUIET}",
    "ensemble again": f"ensemble.py {_QUIET}",
    "calibrate": f"calibrate.py --runs run000 {_QUIET}",
    "calibrate again": f"calibrate.py --runs run000 {_QUIET}",
    "submit": f"submit.py {_QUIET}",
    "submit again": f"submit.py {_QUIET}",
    "status": "status.py",
    "report": "report.py --no-heat",
    "report again": "report.py --no-heat",
    "audit": "audit.py --set 'model.image_size=32'",
    "audit again": "audit.py --set 'model.image_size=32'",
}


def main(
    folder: Annotated[Path, typer.Option(help="For the competition and the workspaces.")],
    runs: Annotated[str, typer.Option(help="Numbers of runs, separated by spaces.")] = "5 20 50 200",
    commands: Annotated[str, typer.Option(help="Names, separated by commas; by default all.")] = "",
    version: Annotated[Path, typer.Option(help="A checkout of another version.")] = HERE.parent,
    name: Annotated[str, typer.Option(help="Name of the workspaces: one for each version.")] = "now",
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Run the commands and print CPU seconds and peak memory of each."""
    numbers = [int(number) for number in runs.split()]
    chosen = commands.split(",") if commands else list(COMMANDS)
    folder = folder.absolute()
    data, made = folder / "data", folder / "made"
    if not (data / "sample_submission.csv").is_file():
        draw(data, size=(16, 12))
    make_runs(data, made, max(numbers))
    kept = folder / f"{name}.json"
    peaks = json.loads(kept.read_text()) if kept.is_file() else {}
    for number in numbers:
        root = folder / f"{name}_{number}"
        if not root.exists():
            link_runs(made, root, number)
        for command in chosen:
            if command in (measured := peaks.setdefault(str(number), {})):
                continue
            script, *arguments = shlex.split(COMMANDS[command])
            where = ["--data", f"{data}/", "--root", str(root)]
            console.say(f"{number} runs, {command}: {script}")
            paths = f"PYTHONPATH={version.absolute()}/src:{version.absolute()}/scripts"
            run = ["env", paths, sys.executable, str(version / "scripts" / script), *arguments, *where]
            measured[command] = asdict(watch(run))
            write_json(kept, peaks)
    show({number: {c: Peak(**p) for c, p in peaks[str(number)].items()} for number in numbers})
    save(out, {"runs": peaks})


def make_runs(data: Path, root: Path, most: int) -> None:
    """Write the missing runs: bench/blend.py's on the training images, random ones on the test set."""
    if (root / f"oof/{data.name}/run{most - 1:03}/fold{NUM_FOLDS - 1}/{MANIFEST}").is_file():
        return
    store = console.open_store(f"{data}/", root, console.runtime(""), num_folds=NUM_FOLDS)
    labels = store.folds.labels
    problem = simulate(most, len(labels), seed=0)
    columns = (np.arange(10) + (problem.labels - labels)[:, None]) % 10  # the true classes change places
    base = np.random.default_rng(0).normal(size=(NUM_TEST, 10)) * 3
    with console.progress("making runs", total=most, unit="run") as step:
        for number, log_probs in enumerate(problem.log_probs):
            name, rng = f"run{number:03}", np.random.default_rng([1, number])
            oof = np.take_along_axis(log_probs, columns, axis=1)
            for fold in set(range(NUM_FOLDS)) - set(store.finished_folds(name)):
                valid, test = oof[store.folds.valid(fold)], normalised(base + rng.normal(size=base.shape))
                config = {"run": number}
                store.write_fold(name, fold, kind="model", config=config, valid=valid, test=test)
            step()


def link_runs(made: Path, root: Path, number: int) -> None:
    """A workspace with the first runs, whose files are links."""
    part = root.with_name(f"{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for path in sorted((made / "oof").glob("*/run*"))[:number]:
        shutil.copytree(path, part / path.relative_to(made), copy_function=os.link)
    for path in (made / "oof").glob("*/*.*"):
        shutil.copy(path, part / path.relative_to(made))
    part.rename(root)


def show(peaks: dict[int, dict[str, Peak]]) -> None:
    """Print a table: commands, and CPU seconds and gigabytes for each number of runs."""
    say_header(["command", *(f"{number} runs" for number in peaks)])
    for command in COMMANDS:
        measured = [by_command.get(command) for by_command in peaks.values()]
        cells = [f"{peak.cpu_seconds:.1f} s, {peak.own / 1e3:.2f} GB" if peak else "" for peak in measured]
        say_row([f"`{command}`", *cells])


if __name__ == "__main__":
    console.run(main)
