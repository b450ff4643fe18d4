"""What the client lost, by its own log: it says that a run was sent although parts of it were refused."""

import json
from pathlib import Path

#: Messages after which data is missing on the server: metrics, files, artifacts, or the whole run.
_LOSSES = ("filestream:", "file transfer:", "runfiles:", "artifact", "giving up after", "failed to init run")

_GONE = "no such file"


def is_gone(loss: str) -> bool:
    """Whether a loss is of a file that is no longer on this disk, so that no other attempt can send it."""
    return _GONE in loss


def find_losses(log: Path) -> dict[str, str]:
    """A loss of each recording, by the path of its file; "" for a run that is no recording.

    A loss that another attempt can make good is preferred. A log that is missing, or not in the form of the
    locked client, tells nothing.
    """
    losses: dict[str, str] = {}
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            entry = json.loads(line)
            level, text = str(entry["level"]), str(entry["msg"])
        except (ValueError, KeyError, TypeError):
            continue
        if level.startswith("ERROR") and any(loss in text for loss in _LOSSES):
            recording = str(entry.get("sync_path", ""))
            if is_gone(losses.get(recording, _GONE)):
                losses[recording] = " ".join(f"{text} {entry.get('error', '')}".split())
    return losses
