"""What a fold's training says of itself: job.json beside its metrics, for those who look on."""

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

#: In place of a config's hash: whichever it is. It may be settled on another machine only.
ANY_CONFIG = ""

_Said = Literal["running", "stopped", "failed", "done"]


@dataclass(frozen=True)
class JobState:
    """How a fold's training stands.

    Attributes:
        state: As the job left it: stopped by request, or killed while it was `running`.
        epochs: Of gradient descent in all phases together; `train/epoch` in the metrics counts up to it.
        error: Why it failed, in one line.
        started: UTC, ISO 8601.
    """

    state: _Said
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

    def write(state: _Said, error: str = "") -> None:
        with suppress(OSError):  # a full disk: the fold's own files are what counts
            write_json(folder / JOB, asdict(JobState(state, now, epochs, error)))

    write("running")
    try:
        yield
    except (Stopped, KeyboardInterrupt) as error:
        write("stopped", str(error))
        raise
    except LockError:  # another process works on it, and says how it stands
        raise
    except BaseException as error:
        write("failed", first_line(error))
        raise
    write("done")


def mark_redo(folder: Path, config_hash: str) -> None:
    """Have a fold that is done made anew, by trainings of that config."""
    write_text(folder / REDO, config_hash)


def redo_of(folder: Path) -> str | None:
    """The hash of the config that a fold is to be made anew with; None: it is not."""
    try:
        return (folder / REDO).read_text(errors="replace")
    except OSError:
        return None


def read_job_state(folder: Path) -> JobState | None:
    """What a fold's job.json says; None where there is none that can be read.

    One that says `running` and whose lock nobody holds was killed: `stopped`.
    """
    try:
        found = _JOB.validate_json((folder / JOB).read_bytes(), strict=True)
    except (OSError, ValueError):
        return None
    if found.state == "running" and holder(folder / LOCK) is None:
        return replace(found, state="stopped", error="killed")
    return found
