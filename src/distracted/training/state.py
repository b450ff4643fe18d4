"""What a fold's training says of itself: job.json beside its metrics, for those who look on."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from distracted.errors import first_line
from distracted.files import write_json
from distracted.paths import JOB
from distracted.schema import RunConfig, TrainPhase


@dataclass(frozen=True)
class JobState:
    """How a fold's training stands.

    Attributes:
        state: As the job left it: `running` may also have been killed, which `is_dead` tells.
        epochs: Of gradient descent in all phases together; `train/epoch` in the metrics counts up to it.
        error: Why it failed, in one line.
        started: UTC, ISO 8601.
    """

    state: Literal["running", "failed", "done"]
    pid: int
    host: str
    started: str
    epochs: int
    error: str = ""

    @property
    def is_dead(self) -> bool:
        """Whether it says `running` and its process, on this machine, is no more."""
        return self.state == "running" and is_gone(self.pid, self.host)

    @property
    def is_alive(self) -> bool:
        """Whether it is under way, as far as this machine can tell."""
        return self.state == "running" and not self.is_dead


@contextmanager
def job_state(folder: Path, config: RunConfig) -> Iterator[None]:
    """Keep job.json in a fold's scratch folder while it is trained: running, then done or failed."""
    epochs = sum(phase.epochs for phase in config.phases.values() if isinstance(phase, TrainPhase))
    now = datetime.now(UTC).isoformat(timespec="seconds")

    def write(state: Literal["running", "failed", "done"], error: str = "") -> None:
        found = JobState(state, os.getpid(), socket.gethostname(), now, epochs, error)
        write_json(folder / JOB, asdict(found))

    write("running")
    try:
        yield
    except BaseException as error:
        write("failed", "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error))
        raise
    write("done")


def read_state(folder: Path) -> JobState | None:
    """What a fold's job.json says; None where there is none that can be read."""
    try:
        return JobState(**json.loads((folder / JOB).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_gone(pid: int, host: str) -> bool:
    """Whether a process of this machine is no more; of another machine's nothing is known."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False
