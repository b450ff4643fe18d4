"""Finds and marks recordings of W&B runs on this disk: unsent, sent, set aside."""

import time
from contextlib import suppress
from pathlib import Path

from distracted.files import write_text
from distracted.locks import read_owner
from distracted.predictions.job_state import read_job_state
from distracted.predictions.store import Store
from distracted.tracking.client import OPEN, UNSENT, is_refused

#: In a recording's folder: why it is not sent again, or not wholly.
ASIDE = "set_aside.txt"
_SYNCED = ".synced"  # suffix of the file that the client leaves next to a sent one
_STATE = ".syncstate"  # and of the one that says at which step of its run it starts
#: Seconds without a change after which another machine's process, which cannot be looked up, counts as gone.
_SILENT_SECONDS = 3600.0
_NEW_ID = "new_id.txt"  # in a recording's folder: the run to send it to, its own having been deleted


def find_recordings(store: Store, *, again: bool = False) -> list[Path]:
    """Folders of complete recordings that are not, or not wholly, sent yet; oldest first.

    Args:
        again: Also those that were set aside.
    """
    unsent = [path for path in _every(store) if not was_sent(path)]
    wanted = [path for path in unsent if again or not _is_left(path)]
    finished = [path for path in wanted if not _grows(path)]
    return sorted(finished, key=_age)


def find_aside(store: Store) -> list[Path]:
    """The recordings that `find_recordings` leaves out."""
    return [path for path in _every(store) if not was_sent(path) and _is_left(path)]


def _is_left(recording: Path) -> bool:
    """Whether it was set aside, or its run was deleted on W&B."""
    return (recording / ASIDE).exists() or is_refused(folder_of(recording), run_of(recording))


def _every(store: Store) -> list[Path]:
    paths = store.workspace.runs(store.competition.name).rglob("wandb/*run-*")
    return [path for path in sorted(paths) if list(path.glob("*.wandb"))]


def _age(recording: Path) -> str:
    """Its time of start, first in its name."""
    return recording.name.removeprefix("offline-")


def was_sent(recording: Path) -> bool:
    """Whether all of a recording is on the server."""
    if (recording / UNSENT).exists():
        return False
    return has_mark(recording) or not recording.name.startswith("offline-")


def _grows(recording: Path) -> bool:
    """Whether a process still writes it: its fold is being trained, or its owner seems to be alive."""
    if is_trained_now(folder_of(recording)):
        return True
    owner = read_owner(recording / OPEN)
    if owner is None or owner.is_gone:
        return False
    changed = max(path.stat().st_mtime for path in recording.glob("*.wandb"))
    return owner.is_local or time.time() - changed < _SILENT_SECONDS


def is_trained_now(scratch: Path) -> bool:
    """Whether a fold with this scratch folder is being trained."""
    job = read_job_state(scratch)
    return job is not None and job.is_alive


def folder_of(recording: Path) -> Path:
    """The folder of a recording's run."""
    return recording.parents[1]


def set_aside(recording: Path, reason: str) -> None:
    """Do not send a recording again unless asked; its files stay."""
    with suppress(OSError):  # on a read-only disk it is tried each time
        write_text(recording / ASIDE, reason + "\n")


def run_of(recording: Path) -> str:
    """The id of the run that a recording is sent to."""
    try:
        return (recording / _NEW_ID).read_text(errors="replace").strip()
    except OSError:  # run-<time>-<id>, and perhaps a number
        return recording.name.removeprefix("offline-").split("-", 2)[-1].partition("-")[0]


def is_redirected(recording: Path) -> bool:
    """Whether it is sent to another run than it was recorded for."""
    return (recording / _NEW_ID).exists()


def redirect(folder: Path, *, old: str, new: str) -> list[Path]:
    """Have all recordings of a run, even those that were sent, sent to another run; returns them in order."""
    paths = [path for path in (folder / "wandb").glob("*run-*") if list(path.glob("*.wandb"))]
    redirected = sorted((path for path in paths if run_of(path) == old), key=_age)
    for recording in redirected:
        write_text(recording / _NEW_ID, new)
        for path in [*recording.glob(f"*{_STATE}"), recording / ASIDE]:
            path.unlink(missing_ok=True)
        mark_unsent(recording)
    return redirected


def mark_sent(recording: Path) -> None:
    """Note that a recording is wholly sent; the client has left its own mark."""
    for name in (UNSENT, ASIDE):
        (recording / name).unlink(missing_ok=True)


def mark_unsent(recording: Path) -> None:
    """Note that not all has arrived, and remove the client's mark, which it also sets after refusals."""
    with suppress(OSError):  # on a read-only disk the client sets none
        write_text(recording / UNSENT, "")
        for path in recording.glob(f"*{_SYNCED}"):
            path.unlink()


def has_mark(recording: Path) -> bool:
    """Whether the client says that it has sent a recording."""
    return bool(list(recording.glob(f"*.wandb{_SYNCED}")))
