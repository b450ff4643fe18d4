"""The jobs of a grid, what each takes, and how they end, whichever engine runs them."""

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from distracted.schema import RuntimeConfig
from distracted.stopping import RESUMABLE, Stop

_LINES = 3  # at the end of what a job printed, among which its error stands


@dataclass(frozen=True)
class Job:
    """One fold of one run, and what it takes.

    Attributes:
        num_gpus: Of a GPU; 0.5 lets two share one.
    """

    run: str
    fold: int
    num_cpus: int = 1
    num_gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.run}, fold {self.fold}"


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        state: stopped goes on when the grid is run again.
        reason: Why it is not done, in a line.
    """

    job: Job
    state: Literal["done", "failed", "stopped"]
    reason: str = ""


#: The command that trains a job's fold, on a device by its name ("auto": the best that the process sees).
Command = Callable[[Job, str], Sequence[str]]
#: The file that takes what a job's command prints.
Log = Callable[[Job], Path]
#: Told of the jobs that have ended, every second or so.
Watch = Callable[[Sequence[Ended]], None]


class Engine(Protocol):
    """Runs jobs.

    Attributes:
        num_cpus, num_gpus: All that it has.
        at_once: How many jobs of one core it would run at a time, or 0 where that is not known.
        grows: Whether it may get what it does not have now.
    """

    @property
    def num_cpus(self) -> int: ...

    @property
    def num_gpus(self) -> int: ...

    @property
    def at_once(self) -> int: ...

    @property
    def grows(self) -> bool: ...

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse jobs that it has no room for.

        Raises:
            ClusterError: says which, and what there is.
        """
        ...

    def run(
        self, jobs: Sequence[Job], *, command: Command, log: Log, stop: Stop, watch: Watch
    ) -> list[Ended]:
        """Run jobs, as many at a time as there is room for; one that fails stops no other.

        Where a stop is asked for, each is told to, and saves its state; no further one is begun.
        """
        ...


def plan_jobs(
    todo: Sequence[tuple[str, int]], runtimes: Mapping[str, RuntimeConfig], engine: Engine, *, num_all: int
) -> list[Job]:
    """What each (run, fold) takes: as its config says, else a GPU and its share of the cores, or cores.

    Args:
        num_all: Of the whole grid, done ones included: the rest of it is to be computed as all of it.
    """
    jobs = []
    for run, fold in todo:
        runtime = runtimes[run]
        num_gpus = 1.0 if engine.num_gpus and runtime.device != "cpu" else 0.0
        if runtime.num_gpus != "auto" and (engine.num_gpus or engine.grows):
            num_gpus = runtime.num_gpus
        if runtime.num_cpus != "auto":
            num_cpus = runtime.num_cpus
        elif num_gpus and engine.num_gpus:
            num_cpus = max(1, int(engine.num_cpus / engine.num_gpus * num_gpus))
        else:
            num_cpus = max(1, engine.num_cpus // min(engine.at_once, num_all)) if engine.at_once else 1
        jobs.append(Job(run, fold, num_cpus, num_gpus))
    return jobs


def start(command: Sequence[str], log: Path, num_cpus: int) -> subprocess.Popen[bytes]:
    """Begin a job's command with so many threads; what it prints is added to its log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        # `env`, since torch counts its threads when it is imported
        return subprocess.Popen(["env", f"OMP_NUM_THREADS={num_cpus}", *command], stdout=file, stderr=file)


def judge(job: Job, code: int, log: Path, *, told: bool = False) -> Ended:
    """How a job ended, by its command's exit code (minus a signal's number) and what it printed.

    Args:
        told: To stop; a process that had not begun yet ends by the signal itself.
    """
    if code == 0:
        return Ended(job, "done")
    if code == RESUMABLE or (told and code in (-signal.SIGTERM, -signal.SIGINT)):
        return Ended(job, "stopped", "it goes on when the grid is run again")
    if code < 0:
        out = " (memory may have run out)" if code == -9 else ""
        return Ended(job, "failed", f"ended by signal {-code}{out}; {log} has what it printed")
    last = log.read_text(errors="replace").rstrip().splitlines()[-_LINES:]  # not of an earlier sitting
    said = [line for line in last if line.startswith("error: ")]
    return Ended(job, "failed", said[-1].removeprefix("error: ") if said else f"exit code {code}; see {log}")
