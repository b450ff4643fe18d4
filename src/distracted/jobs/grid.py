"""The jobs of a grid: their resources, their commands and how they end, whichever engine runs them."""

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

from distracted.cores import workers_for
from distracted.schema import RuntimeConfig
from distracted.stopping import RESUMABLE, Stop

_LINES = 3  # at the end of a job's output that may hold its error


@dataclass(frozen=True)
class Job:
    """One fold of one run, and the resources that it takes.

    Attributes:
        num_gpus: GPUs, or a fraction of one: 0.5 lets two jobs share it.
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
        state: A stopped job goes on when the grid is run again.
        reason: Why it is not done, in one line.
    """

    job: Job
    state: Literal["done", "failed", "stopped"]
    reason: str = ""


#: Returns the command that trains a job's fold on a device: cuda, cpu, or auto for the best that there is.
Command = Callable[[Job, str], Sequence[str]]
#: Returns the file that a job's output goes to.
Log = Callable[[Job], Path]
#: Called about every second with the jobs that have ended; returns further jobs to run, in their order.
Watch = Callable[[Sequence[Ended]], Sequence[Job]]


class Engine(Protocol):
    """Runs jobs; `num_cpus` and `num_gpus` are its resources in total."""

    num_cpus: int
    num_gpus: int
    at_once: int  # number of one-core jobs that it runs at a time; 0: unknown
    grows: bool  # whether it may get more resources later
    startup: float  # seconds until a job's process begins its work, about

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise ClusterError if a job asks for more resources than it has."""
        ...

    def run(
        self, jobs: Sequence[Job], *, command: Command, log: Log, stop: Stop, watch: Watch
    ) -> list[Ended]:
        """Run jobs that passed `check`, and those that `watch` adds; a failed job stops no other.

        As many run at a time as there is room for.

        When a stop is requested, running jobs are told to save their state and stop, and no other is started.
        """
        ...


def room_for(job: Job, engine: Engine) -> int:
    """Number of jobs like this one that an engine runs at a time; at least 1."""
    rooms = [engine.num_cpus // job.num_cpus]
    rooms += [engine.at_once] if engine.at_once else []
    rooms += [int(engine.num_gpus / job.num_gpus + 1e-9)] if job.num_gpus else []
    return max(1, min(rooms))


def plan_jobs(
    todo: Sequence[tuple[str, int]], runtimes: Mapping[str, RuntimeConfig], engine: Engine, *, num_all: int
) -> list[Job]:
    """Resources of each (run, fold): from its config, else one GPU with its share of the cores, or cores.

    Args:
        num_all: Number of jobs of the whole grid, finished ones included: the rest of a grid gets as many
            threads as the whole, and so the same rounding.
    """
    jobs = []
    for run, fold in todo:
        runtime = runtimes[run]
        num_gpus = 1.0 if engine.num_gpus and runtime.device != "cpu" else 0.0
        if runtime.num_gpus != "auto" and (engine.num_gpus or engine.grows) and runtime.device != "cpu":
            num_gpus = runtime.num_gpus
        if runtime.num_cpus != "auto":
            num_cpus = runtime.num_cpus
        elif num_gpus and engine.num_gpus:
            share = Fraction(num_gpus).limit_denominator(10)  # 0.33 is a third
            num_cpus = max(1, int(engine.num_cpus * share / engine.num_gpus))
        else:
            num_cpus = max(1, engine.num_cpus // min(engine.at_once, num_all)) if engine.at_once else 1
        jobs.append(Job(run, fold, num_cpus, num_gpus))
    return jobs


def placement(job: Job, device: str, runtime: RuntimeConfig) -> str:
    """Further settings, as in SET=, of a job that runs on a device with its share of the cores.

    A job with a GPU loads images in as many processes as it has cores. They are given as a number: the job
    sees all of the machine's cores.
    """
    settings = [] if device == "auto" else [f"runtime.device={device}"]
    if job.num_gpus and runtime.num_workers == "auto":
        settings += [f"runtime.num_workers={workers_for(job.num_cpus)}"]
    return " ".join(settings)


def variables_for(num_cpus: int, card: str | None) -> dict[str, str]:
    """The environment variables that give a job its threads and its GPU.

    Args:
        card: The GPU that it sees, as CUDA_VISIBLE_DEVICES names it; "": none; None: what this process sees.
    """
    return {"OMP_NUM_THREADS": str(num_cpus)} | ({} if card is None else {"CUDA_VISIBLE_DEVICES": card})


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a job's command with further variables; its output is appended to its log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    assigned = [f"{name}={value}" for name, value in environment.items()]
    with log.open("ab") as file:
        # by `env`: torch reads the number of threads when it is imported
        return subprocess.Popen(["env", *assigned, *command], stdout=file, stderr=file)


def judge(job: Job, code: int, log: Path, *, stop_sent: bool = False) -> Ended:
    """How a job ended, by its command's exit code (minus a signal's number) and its output.

    Args:
        stop_sent: Whether it was told to stop; a process without a handler so far ends by the signal.
    """
    if code == 0:
        return Ended(job, "done")
    if is_stop(code, stop_sent=stop_sent):
        return Ended(job, "stopped", "it goes on when the grid is run again")
    if code < 0:
        return Ended(job, "failed", f"{by_signal(code)}; {log} has its output")
    last = log.read_text(errors="replace").rstrip().splitlines()[-_LINES:]  # not those of an earlier run
    errors = [line.removeprefix("error: ") for line in last if line.startswith("error: ")]
    return Ended(job, "failed", errors[-1] if errors else f"exit code {code}; see {log}")


def is_stop(code: int, *, stop_sent: bool) -> bool:
    """Whether a process that ended with this exit code was stopped, and goes on later; as for `judge`."""
    return code == RESUMABLE or (stop_sent and code in (-signal.SIGTERM, -signal.SIGINT))


def by_signal(code: int) -> str:
    """How a process ended whose exit code is minus a signal's number, in words."""
    return f"ended by signal {-code}" + (" (memory may have run out)" if code == -signal.SIGKILL else "")
