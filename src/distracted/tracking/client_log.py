"""Finds parts of runs that the server refused, in the client's own log: the client calls such runs sent."""

import json
from pathlib import Path

#: Messages after which data is missing on the server: metrics, files, artifacts, or the whole run.
_LOSSES = ("filestream:", "file transfer:", "runfiles:", "artifact", "giving up after", "failed to init run")

_GONE = "no such file"


def is_gone(loss: str) -> bool:
    """Whether the lost file is no longer on disk, so that a retry cannot send it."""
    return _GONE in loss


def find_losses(log: Path) -> dict[str, str]:
    """One loss of each recording, by the path of its file; the key "" stands for an online run.

    A loss that a retry can repair is preferred. A missing log, or one of another client's form, has none.
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
