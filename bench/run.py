"""make bench: the benchmarks of speed, one after another, each in a process of its own.

Their tables are printed; their figures, with the machine they are of, go to a JSON file each. What a part
compares with is said in its own file. Peers that are not installed are left out (bench/requirements.txt).
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import console
from distracted.errors import ConfigError, DistractedError

#: Each part's script and its own arguments.
PARTS: dict[str, list[str]] = {
    "loader": ["speed_loader.py"],
    "train": ["speed_train.py"],
    "features": ["speed_features.py"],
    "predict": ["speed_predict.py"],
    "blend": ["blend.py"],
    "smooth": ["smoothing.py"],
    "growth": ["growth.py"],
}


def main(
    parts: Annotated[str, typer.Option(help="Names, separated by spaces; by default all.")] = "",
    folder: Annotated[Path, typer.Option(help="For the figures.")] = Path("cache/bench"),
) -> None:
    """Run the benchmarks and say where their figures are."""
    chosen = parts.split() or list(PARTS)
    if unknown := [part for part in chosen if part not in PARTS]:
        raise ConfigError(f"PARTS: unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    here = Path(__file__).parent
    failed = []
    folder.mkdir(parents=True, exist_ok=True)
    for part in chosen:
        script, *arguments = PARTS[part]
        out = folder / f"{part}.json"
        console.say(f"\n{part} ({here.name}/{script})")
        done = subprocess.run(
            [sys.executable, str(here / script), *arguments, "--out", str(out)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_paths(here))},
        )
        if done.returncode:
            failed.append(part)
        else:
            console.say(f"figures: {out}")
    if failed:
        raise DistractedError(f"{', '.join(failed)}: failed, see above; the others' figures are in {folder}")


def _paths(here: Path) -> list[str]:
    return [str(here.parent / "scripts"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


if __name__ == "__main__":
    console.run(main)
