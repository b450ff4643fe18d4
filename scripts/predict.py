"""make predict: a folder of new photographs, predicted by a blend or by one run."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import console
from distracted.errors import ConfigError
from distracted.imports import importing
from distracted.submission.submit import find_run

_SHOWN = 5


def main(
    images: Annotated[str, typer.Option(help="A folder of photographs, or one.")],
    name: Annotated[str, typer.Option(help="A run; by default the best current blend.")] = "",
    out: Annotated[str, typer.Option(help="The CSV; by default <folder>.csv next to the folder.")] = "",
    data: console.Data = "state_farm",
    set: Annotated[str, typer.Option(help="Settings of runtime.* only, e.g. 'runtime.device=cpu'.")] = "",
    root: console.Root = console.HERE,
) -> None:
    """Write each photograph's probability of each class; those that cannot be read are named."""
    with importing():
        from distracted.data.names import in_utf8
        from distracted.data.walk import by_kind
        from distracted.submission.photograph_files import check_folder
        from distracted.submission.photographs import predict_photographs, write_left_out, write_photographs

    if not images.strip():
        raise ConfigError("IMAGES= is missing: a folder of photographs")
    folder = Path(images).expanduser()
    check_folder(folder)
    runtime = console.runtime(set)
    store = console.open_store(data, root, runtime, images=False)
    path = place_csv(folder, out, store.competition.classes)
    run = find_run(store, name)
    predicted = predict_photographs(store, run, folder, runtime=runtime, progress=console.progress)
    write_photographs(path, predicted, store.competition.classes)
    for error in predicted.errors[:_SHOWN]:
        console.warn(error)
    if (rest := len(predicted.errors) - _SHOWN) > 0:
        console.warn(f"... and {rest} more")
    for kind in by_kind(predicted.left_out, _SHOWN):
        console.warn(f"left out: {kind}")
    listed = path.with_name(f"{path.stem}_left_out.csv")
    if rest > 0 or max(Counter(item[1:] for item in predicted.left_out).values(), default=0) > _SHOWN:
        write_left_out(listed, predicted)
        console.say(f"{listed}: all {len(predicted.left_out) + len(predicted.errors)} that are left out")
    if odd := sum(in_utf8(name) != name for name in predicted.names):
        console.warn(f"file names that are not UTF-8 ({odd}): the CSV has \\x and two digits for such bytes")
    left_out = f", {len(predicted.errors)} could not be read and are left out" if predicted.errors else ""
    console.say(f"{path}: {len(predicted.names)} photographs by {run.name}{left_out}")


def place_csv(folder: Path, out: str, classes: Sequence[str]) -> Path:
    """The CSV to write: OUT=, or one next to the folder, where only an earlier one is replaced."""
    beside = folder if folder.name.strip(".") else folder.resolve()  # "." and ".." have no name
    name = beside.stem if folder.is_file() else beside.name
    path = Path(out).expanduser() if out else beside.parent / f"{name}.csv"
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file (OUT=)")
    if not there.is_dir() or not os.access(there, os.W_OK):  # such as a notebook's input
        raise ConfigError(f"{path}: {there} is not writable; name another file (OUT=)")
    if not out and path.exists() and _header(path) != ["img", *classes]:  # train.csv beside train/
        raise ConfigError(f"{path}: is there already and holds something else; name another file (OUT=)")
    return path


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return next(csv.reader(file), [])


if __name__ == "__main__":
    console.run(main)
