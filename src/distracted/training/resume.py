"""The state of a fold's training on disk: last.ckpt, and previous.ckpt until the next one is proven."""

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from distracted.errors import CheckpointError, first_line
from distracted.files import atomic_path, flush_folder
from distracted.locks import Lock
from distracted.stopping import Stop, Stopped
from distracted.training.distributed import ALONE, Team
from distracted.training.state_file import State, read_state, write_state

_log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

#: The share of the time that `auto` spends on saving.
_SHARE = 0.01


class Checkpoints:
    """Keeps the state of one fold's training, so that it can go on from there when it was killed.

    Args:
        folder: The fold's scratch folder.
        made_for: What a state belongs to, as JSON values by name: the fold, the config, hashes of the data.
            A state that was made for anything else is refused.
        every: Steps between states; auto: as often as one percent of the time allows.
        stop: Asked after each step.
        lock: Of the fold; checked before each write.
        team: The processes that train the fold; the lead alone writes.
    """

    def __init__(
        self,
        folder: Path,
        made_for: Mapping[str, Any],
        *,
        every: int | Literal["auto"] = "auto",
        stop: Stop | None = None,
        lock: Lock | None = None,
        team: Team = ALONE,
    ) -> None:
        self._folder, self._made_for, self._every = folder, dict(made_for), every
        self._stop, self._lock, self._team = stop or Stop(), lock, team
        self._steps = 0
        self._cost = 0.0  # seconds that the last save took
        self._saved = time.perf_counter()

    @property
    def exist(self) -> bool:
        return any((self._folder / name).exists() for name in (LAST, PREVIOUS))

    def load(self) -> State | None:
        """The newest state that can be read; None where there is none.

        Raises:
            CheckpointError: it belongs to another config, other data or another fold; says what differs.
        """
        found = newest_state(self._folder)
        if found is None:
            return None
        path, made_for, state = found
        self._refuse_other(path, made_for)
        if path.name != LAST:  # else the damaged one would become the previous one of the next
            (self._folder / LAST).unlink(missing_ok=True)
        return state

    def after_step(self, make: Callable[[], State], *, boundary: bool = False) -> None:
        """Save where it is due; where a stop was asked for, save and stop.

        Args:
            make: The state of this moment; called only where it is saved, and then by all of the team.
            boundary: An epoch's or a phase's end.

        Raises:
            Stopped: by request, once the state is on disk.
            LockError: another process has taken the fold over.
        """
        if self._lock is not None and self._lock.is_lost:
            self._lock.check()
        self._steps += 1
        due = self._team.is_lead and self._is_due(boundary)
        asked, due = self._team.agree(bool(self._stop.reason), due)
        if asked or due:
            self._save_or_warn(make())
        if asked:
            raise Stopped(self._stop.reason or "another process of the team was asked to")

    def _is_due(self, boundary: bool) -> bool:
        if self._every != "auto":
            return boundary or self._steps >= self._every
        return time.perf_counter() - self._saved >= self._cost / _SHARE

    def _save_or_warn(self, state: State) -> None:
        """A state that cannot be written costs no work: the one before it stays, and training goes on."""
        if not self._team.is_lead:
            return
        try:
            self.save(state)
        except OSError as error:
            self._steps, self._saved = 0, time.perf_counter()
            reason = error.strerror or first_line(error)
            kept = "the one before it is kept" if self.exist else "there is none yet"
            _log.warning("%s: the checkpoint cannot be written (%s); %s", self._folder / LAST, reason, kept)

    def save(self, state: State) -> None:
        """Write a state: to a temporary file, read back, then named `last.ckpt`, the one there `previous`.

        Raises:
            OSError: no room, or no right to write; what is there stays.
            LockError: another process has taken the fold over.
        """
        start = time.perf_counter()
        if self._lock is not None:
            self._lock.check()
        last = self._folder / LAST
        with atomic_path(last) as temporary:
            write_state(temporary, self._made_for, state)
            read_state(temporary)
            if last.exists():
                last.replace(self._folder / PREVIOUS)
        self._steps, self._saved = 0, time.perf_counter()
        self._cost = self._saved - start

    def remove(self) -> None:
        """The fold is done, or to be begun anew."""
        for name in (LAST, PREVIOUS):  # in this order: a kill between them leaves an older state, not a newer
            (self._folder / name).unlink(missing_ok=True)
        flush_folder(self._folder)

    def _refuse_other(self, path: Path, made_for: Mapping[str, Any]) -> None:
        expected = json.loads(json.dumps(self._made_for))
        if differing := differences(made_for, expected):
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise CheckpointError(
                f"{path}: this training was begun with {'; '.join(differing[:5])}{more}. Go on as it was "
                "begun, give this one a name (NAME=), or begin anew (FORCE=1)"
            )


def newest_state(folder: Path) -> tuple[Path, dict[str, Any], State] | None:
    """The newest checkpoint that can be read, what it was made for, and its state; None: there is none."""
    damaged = False
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            made_for, state = read_state(path)
        except CheckpointError as error:
            _log.warning("%s", error)
            damaged = True
            continue
        if damaged:
            _log.warning("going on from the one before it, %s", path)
        return path, made_for, state
    if damaged:
        _log.warning("no checkpoint that can be read is left; beginning anew")
    return None


def differences(was: Any, now: Any, key: str = "") -> list[str]:
    """Where two trees of JSON values differ: `training.seed 0, now 1`, one text a leaf."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        keys = [*was, *(name for name in now if name not in was)]
        inner = [differences(was.get(name), now.get(name), f"{key}.{name}".lstrip(".")) for name in keys]
        found = [text for texts in inner for text in texts]
        if not found and list(was) != list(now):  # the order of phases is part of a config
            return [f"{key} {', '.join(was)}, now {', '.join(now)}"]
        return found
    return [] if was == now else [f"{key} {_brief(was)}, now {_brief(now)}"]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def made_with(device: torch.device, team: Team) -> dict[str, Any]:
    """What rounding depends on beside the config, as JSON values."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = {"torch": torch.__version__, "device": name, "threads": torch.get_num_threads()}
    return {**found, "processes": team.size}


def random_state(device: torch.device) -> State:
    """Where the global generators stand that torch, sklearn and timm draw from; of GPUs, the device's own."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    state: State = {
        "torch": torch.get_rng_state(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "python": list(random.getstate()),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: State, device: torch.device) -> None:
    """Have the global generators go on from where they stood."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
