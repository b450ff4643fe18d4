"""How long a job takes to begin: as a process of its own, and as a fork of a process that waits.

    PYTHONPATH=scripts python bench/job_starts.py

The script imports what a training imports, and ends. A process of its own imports as Python comes, or as our
commands do (`importing`). The ways take turns, one job at a time on one thread.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

import console
from distracted.jobs.grid import start, variables_for
from distracted.jobs.warm import Process, WarmStart
from markdown_table import say_header, say_row

_IMPORTS = "    import console, distracted.jobs.begun, distracted.jobs.fold, sklearn.linear_model\n"
_AS_PYTHON_COMES = f"if True:\n{_IMPORTS}"
_AS_OURS = f"from distracted.imports import importing\nwith importing():\n{_IMPORTS}"
_SCRIPTS = Path(console.__file__).parent
_LOOK = 0.01  # seconds


def main(repeats: Annotated[int, typer.Option(help="Jobs each way.")] = 15) -> None:
    """Print the median of the seconds, with the smallest and the largest."""
    variables = variables_for(1, None)
    begin = f"import sys\nsys.path.insert(0, {str(_SCRIPTS)!r})\n"
    seconds: dict[str, list[float]] = {
        "imports as Python comes": [],
        "imports as our commands do": [],
        "is a fork": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        plain, ours, log = (Path(folder) / name for name in ("plain.py", "ours.py", "log.txt"))
        plain.write_text(begin + _AS_PYTHON_COMES)
        ours.write_text(begin + _AS_OURS)
        source = WarmStart(variables)
        took(source.start([str(ours)], log, variables))  # until the process that forks has imported
        for _ in range(repeats):
            for values, script in zip(seconds.values(), (plain, ours), strict=False):
                values.append(took(start([sys.executable, str(script)], log, variables)))
            seconds["is a fork"].append(took(source.start([str(ours)], log, variables)))
        source.close()
    say_header(["a job's process", "seconds to its end (smallest, largest)"])
    for name, values in seconds.items():
        say_row([name, f"{median(values):.2f} ({min(values):.2f}, {max(values):.2f})"])


def took(process: Process) -> float:
    """Seconds until a process has ended; it has to end well."""
    began = time.perf_counter()
    while (code := process.poll()) is None:
        time.sleep(_LOOK)
    assert code == 0, code
    return time.perf_counter() - began


if __name__ == "__main__":
    console.run(main)
