"""How long a job takes to begin: started as Python starts a script, and as a fork of a process that waits.

    PYTHONPATH=scripts python bench/job_starts.py

The script imports what a training imports, and ends. Both ways take turns, one job at a time on one thread.
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

_SCRIPT = "import console, distracted.jobs.begun, distracted.jobs.fold, sklearn.linear_model\n"
_SCRIPTS = Path(console.__file__).parent
_LOOK = 0.01  # seconds


def main(repeats: Annotated[int, typer.Option(help="Jobs each way.")] = 15) -> None:
    """Print the median of the seconds, with the smallest and the largest."""
    variables = variables_for(1, None)
    seconds: dict[str, list[float]] = {"a process of its own": [], "a fork": []}
    with tempfile.TemporaryDirectory() as folder:
        script, log = Path(folder) / "job.py", Path(folder) / "log.txt"
        script.write_text(f"import sys\nsys.path.insert(0, {str(_SCRIPTS)!r})\n{_SCRIPT}")
        source = WarmStart(variables)
        took(source.start([str(script)], log, variables))  # until the process that forks has imported
        for _ in range(repeats):
            own = start([sys.executable, str(script)], log, variables)
            seconds["a process of its own"].append(took(own))
            seconds["a fork"].append(took(source.start([str(script)], log, variables)))
        source.close()
    say_header(["a job is", "seconds to its end (smallest, largest)"])
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
