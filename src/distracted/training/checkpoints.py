"""Checkpoints of one fold's training: last.ckpt, and previous.ckpt until the next one has been read back.

A checkpoint is a safetensors file. The state is a tree of dicts, lists, JSON values and tensors: the
tensors are the file's own, all else is JSON in its header, with a digest of everything. Reading it executes
nothing.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from distracted.errors import CheckpointError, first_line
from distracted.files import atomic_path, flush_folder
from distracted.inference.memory import is_out_of_memory
from distracted.locks import Lock
from distracted.models.saved import write_tensors
from distracted.schema import list_differences
from distracted.stopping import Stop
from distracted.training.distributed import ALONE, Team, stop_of_team

_log = logging.getLogger(__name__)

State = dict[str, Any]

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

_VERSION = 1  # of the layout; a file of another version is not read
_TIME_SHARE = 0.01  # of the training's time that `auto` spends on saving


class Checkpoints:
    """Saves the state of one fold's training, which can resume from it after it was stopped or killed.

    Args:
        folder: The fold's scratch folder.
        made_for: The fold, the config and hashes of the data, as JSON values; a state made for others is
            refused.
        every: Steps between checkpoints; auto: as often as one percent of the time allows.
        stop: Asked after each step.
        lock: The fold's lock, checked before each write.
        team: The processes that train the fold; only the lead writes.
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
        self.stop, self._lock, self._team = stop or Stop(), lock, team
        self._steps_since = 0
        self._save_seconds = 0.0  # of the last save
        self._saved_at = time.perf_counter()

    @property
    def exist(self) -> bool:
        return any((self._folder / name).exists() for name in (LAST, PREVIOUS))

    def load(self) -> State | None:
        """The newest readable state; None if there is none.

        Raises:
            CheckpointError: it belongs to another config, other data or another fold; says what differs.
            OSError, MemoryError: it cannot be read now; both files stay.
        """
        newest = newest_state(self._folder)
        if newest is None:
            return None
        path, made_for, state = newest
        if changed := list_differences(made_for, json.loads(json.dumps(self._made_for))):
            raise CheckpointError(
                f"{path}: this training was begun with {changed}. Go on with the settings that it was begun "
                "with, give this one a name (NAME=), or begin again (FORCE=1)"
            )
        if path.name != LAST:  # else the next save would keep the damaged one as the previous one
            (self._folder / LAST).unlink(missing_ok=True)
        return state

    def after_step(self, state_dict: Callable[[], State], *, boundary: bool = False) -> None:
        """Save if a checkpoint is due; if a stop was requested, save and stop.

        Args:
            state_dict: Returns the current state; called only to save it, and then by every process.
            boundary: The end of an epoch or a phase.

        Raises:
            Stopped: by request, once the state is on disk.
            LockError: another process has taken the fold over.
        """
        if self._lock is not None and self._lock.is_lost:
            self._lock.check()
        self._steps_since += 1
        due = self._team.is_lead and self._is_due(boundary)
        asked, due = self._team.agree(bool(self.stop.reason), due)
        if asked or due:
            self._save_or_warn(state_dict())
        if asked:
            self._team.wait()  # until the lead has written
            raise stop_of_team(self.stop)

    def _is_due(self, boundary: bool) -> bool:
        if self._every != "auto":
            return boundary or self._steps_since >= self._every
        return time.perf_counter() - self._saved_at >= self._save_seconds / _TIME_SHARE

    def _save_or_warn(self, state: State) -> None:
        """A failed save loses no work: the checkpoint before it stays, and training goes on."""
        if not self._team.is_lead:
            return
        try:
            self.save(state)
        except OSError as error:
            self._steps_since, self._saved_at = 0, time.perf_counter()
            reason = error.strerror or first_line(error)
            rest = "the one before it is kept" if self.exist else "there is none yet"
            _log.warning("%s: the checkpoint cannot be written (%s); %s", self._folder / LAST, reason, rest)

    def save(self, state: State) -> None:
        """Write a temporary file, read it back, and make it last.ckpt; the one there becomes previous.ckpt.

        Raises:
            OSError: no room, or no right to write; the files there stay.
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
        self._steps_since, self._saved_at = 0, time.perf_counter()
        self._save_seconds = self._saved_at - start

    def remove(self) -> None:
        """Remove both files: the fold is done, or begins again."""
        for name in (LAST, PREVIOUS):  # in this order: a kill in between leaves an older state, not a newer
            (self._folder / name).unlink(missing_ok=True)
        flush_folder(self._folder)


def newest_state(folder: Path) -> tuple[Path, dict[str, Any], State] | None:
    """Path of the newest undamaged checkpoint, what it was made for, and its state; None if there is none.

    Raises:
        OSError, MemoryError: a checkpoint cannot be read now; it may be whole.
    """
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
            _log.warning("going on from the checkpoint before it, %s", path)
        return path, made_for, state
    if damaged:
        _log.warning("no readable checkpoint is left; beginning again")
    return None


def newest_made_for(folder: Path) -> dict[str, Any] | None:
    """What the newest checkpoint was made for, from its header alone; None if no header can be read."""
    for path in (folder / LAST, folder / PREVIOUS):
        with suppress(OSError, SafetensorError, KeyError, ValueError), safe_open(path, "pt") as file:
            made_for: dict[str, Any] = json.loads((file.metadata() or {})["made_for"])
            return made_for
    return None


def write_state(path: Path, made_for: Mapping[str, Any], state: State) -> None:
    """Write a state: a tree of dicts, lists, JSON values and tensors."""
    tensors: dict[str, torch.Tensor] = {}
    tree, belongs = json.dumps(_pack(state, tensors)), json.dumps(made_for)
    digest = _digest(tensors, belongs, tree)
    metadata = {"version": str(_VERSION), "made_for": belongs, "tree": tree, "sha256": digest}
    write_tensors(path, tensors, metadata)


def read_state(path: Path) -> tuple[dict[str, Any], State]:
    """Read what a state was made for, and the state.

    Raises:
        CheckpointError: another layout, or other bytes than were written.
        OSError, MemoryError: no right to read it, too many open files, a failing disk, too little memory.
    """
    path.open("rb").close()  # the reader below says of whatever cannot be opened that it does not exist
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata["version"] != str(_VERSION):
                raise CheckpointError(f"its layout is {metadata['version']}, expected {_VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if _digest(tensors, metadata["made_for"], metadata["tree"]) != metadata["sha256"]:
            raise CheckpointError("its bytes are not those that were written")
        return json.loads(metadata["made_for"]), _unpack(json.loads(metadata["tree"]), tensors)
    except Exception as error:  # garbage makes the reader fail in a dozen ways
        if isinstance(error, OSError) or is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path}: damaged ({first_line(error)})") from error


def _digest(tensors: Mapping[str, torch.Tensor], *texts: str) -> str:
    digest = sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """A tree as JSON: a tensor becomes its number among `tensors`; keys of mappings may be numbers."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _pack(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(inner, tensors) for inner in value]
    return value


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(inner, tensors) for key, inner in value["items"]}
    if isinstance(value, list):
        return [_unpack(inner, tensors) for inner in value]
    return value


def rounding_context(device: torch.device, team: Team) -> dict[str, Any]:
    """Everything besides the config that affects floating-point rounding, as JSON values."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads, processes = torch.get_num_threads(), team.size
    return {"torch": torch.__version__, "device": name, "threads": threads, "processes": processes}
