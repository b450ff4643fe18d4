"""The state of a fold's training, in job.json next to its metrics: `make status` and `make grid` read it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from distracted.errors import LockError, first_line
from distracted.files import write_json, write_text
from distracted.locks import holder
from distracted.paths import JOB, LOCK, REDO
from distracted.schema import RunConfig, TrainPhase
from distracted.stopping import Stopped

#: Stands for any config's hash: the config may be resolved only later, on another machine.
ANY_CONFIG = ""

_State = Literal["running", "stopped", "failed", "done"]


@dataclass(frozen=True)
class JobState:
    """The state of a fold's training.

    Attributes:
        state: `stopped`: by request, or killed while it was running.
        epochs: Epochs of gradient descent in all phases; `train/epoch` in the metrics counts up to it.
        error: Why it failed or was stopped, in one line.
        started: UTC, ISO 8601.
    """

    state: _State
    started: str
    epochs: int
    error: str = ""

    @property
    def is_alive(self) -> bool:
        return self.state == "running"


_JOB = TypeAdapter(JobState)


@contextmanager
def job_state(folder: Path, config: RunConfig) -> Iterator[None]:
    """Keep job.json in a fold's scratch folder while it is trained: running, then done or failed."""
    epochs = sum(phase.epochs for phase in config.phases.values() if isinstance(phase, TrainPhase))
    now = datetime.now(UTC).isoformat(timespec="seconds")

    def write(state: _State, error: str = "") -> None:
        with suppress(OSError):  # a full disk: the fold's own files matter more
            write_json(folder / JOB, asdict(JobState(state, now, epochs, error)))

    write("running")
    try:
        yield
    except (Stopped, KeyboardInterrupt) as error:
        write("stopped", str(error))
        raise
    except LockError:  # another process trains the fold and writes its state
        raise
    except BaseException as error:
        write("failed", first_line(error))
        raise
    write("done")


def mark_redo(folder: Path, config_hash: str) -> None:
    """Mark a finished fold to be retrained with a config."""
    write_text(folder / REDO, config_hash)


def redo_of(folder: Path) -> str | None:
    """The hash of the config that a fold is marked to be retrained with; None if it is not marked."""
    try:
        return (folder / REDO).read_text(errors="replace")
    except OSError:
        return None


def mark_trial(path: Path, command: str) -> None:
    """Note in `Workspace.trial` which command tries a run, and may leave it unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, command)


def trial_of(path: Path) -> str:
    """The command that tried a run, from `Workspace.trial`; "" if none did."""
    try:
        return path.read_text()
    except OSError:
        return ""


def read_job_state(folder: Path) -> JobState | None:
    """A fold's job.json; None if it is missing or unreadable.

    A job that is `running` without a holder of its lock was killed: it is returned as `stopped`.
    """
    try:
        job = _JOB.validate_json((folder / JOB).read_bytes(), strict=True)
    except (OSError, ValueError):
        return None
    if job.state == "running" and holder(folder / LOCK) is None:
        return replace(job, state="stopped", error="killed")
    return job
