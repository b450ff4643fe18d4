"""One W&B run. After W&B's first error, everything is dropped, so that no work stops because of W&B."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from distracted.errors import DistractedError, TrackingError, first_line
from distracted.files import create_text, write_json, write_text
from distracted.locks import this_process
from distracted.schema import RuntimeConfig
from distracted.tracking.client_log import find_losses
from distracted.tracking.online import (
    DELETED,
    PROJECT,
    Mode,
    ask_server,
    client_settings,
    find_wandb_mode,
    is_switched_off,
    project_of,
    quiet_settings,
)

if TYPE_CHECKING:  # slow to import: wandb is imported once a run is really tracked
    from wandb import Artifact, Run

_log = logging.getLogger(__name__)

#: Marks the folder of an online run that is not completely sent; `make wandb-sync` sends the rest.
UNSENT = "unsent"
#: In the folder of an unfinished run: the process that writes it.
OPEN = "open.json"
_ID_FILE = "wandb_id.txt"
_REFUSED = "wandb_refused.txt"  # the id of a run that was deleted on W&B
#: Characters; W&B's limit.
MAX_TAG = 64
#: The x axis of all metrics: steps of gradient descent. (W&B's own step can only increase, but a resumed fold
#: repeats steps.)
STEP = "train/step"

JobType = Literal["train", "summary", "derived", "ensemble", "submission", "sweep", "search"]


class WandbRun:
    """A run on W&B, or a null object where W&B is off; use it as a context manager.

    W&B's first error is logged once, and further calls do nothing.

    Attributes:
        error: W&B's error, or "".

    Args:
        folder: W&B's files go into `wandb` in this folder, and the run's id and project into a file there, so
            that a later run in the same folder continues it.
        group: Group that W&B shows the run in.
        online: Send it now or not at all; by default, what cannot be sent is recorded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        runtime: RuntimeConfig,
        group: str,
        name: str,
        job_type: JobType,
        config: Mapping[str, Any],
        tags: Sequence[str] = (),
        online: bool = False,
    ) -> None:
        self._run: Run | None = None
        self.error = ""
        if is_switched_off(runtime):
            return
        try:
            mode = find_wandb_mode()
            if mode == "disabled":
                return
            if online and mode == "offline":
                raise TrackingError("W&B's server cannot be used any more")
            every_tag = [*(tag[:MAX_TAG] for tag in tags), *(client_settings().run_tags or ())]
            self._run = _start(
                mode,
                must_send=online,
                group=group,
                name=name,
                job_type=job_type,
                tags=list(dict.fromkeys(every_tag)),
                config=dict(config),
                dir=folder,
                **_identity(folder, runtime),
            )
            self._prepare(self._run)
        except Exception as error:  # of any type: work goes on without W&B
            self._fail(error)

    def _prepare(self, run: "Run") -> None:
        _send_relative_paths(run)
        folder = _run_folder(run)
        write_json(folder / OPEN, asdict(this_process()))
        if not self.is_offline:
            write_text(folder / UNSENT, "")
        for metrics in ("train/*", "valid/*", "holdout/*"):
            run.define_metric(metrics, step_metric=STEP)

    @property
    def is_on(self) -> bool:
        return self._run is not None

    @property
    def is_offline(self) -> bool:
        return self._run is not None and bool(self._run.settings._offline)

    def log(self, metrics: Mapping[str, Any]) -> None:
        self._try(lambda run: run.log(dict(metrics)))

    def show(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Log charts and tables, made only where W&B is on; those that cannot be made are left out."""
        if self._run is None:
            return
        try:
            panels = dict(make())
        except DistractedError as error:
            _log.warning("W&B: a chart or table is left out (%s)", first_line(error))
            return
        self._try(lambda run: run.log(panels))

    def summarise(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Update the run's summary, the values that W&B lists it with."""
        self._try(lambda run: run.summary.update(dict(make())))

    def log_artifact(self, make: Callable[[], "Artifact"], aliases: Sequence[str]) -> None:
        """Record files that the run made."""
        self._try(lambda run: run.log_artifact(make(), aliases=["latest", *aliases]))

    def use_artifact(self, name: str) -> None:
        """Record files that the run used. Impossible offline; `make wandb-sync` adds it later."""
        if not self.is_offline:
            self._try(lambda run: run.use_artifact(name))

    def finish(self, *, failed: bool = False) -> None:
        self._try(lambda run: self._close(run, failed=failed))
        self._run = None

    def _close(self, run: "Run", *, failed: bool) -> None:
        folder, is_offline = _run_folder(run), self.is_offline
        try:
            run.finish(exit_code=int(failed))
            if not is_offline and (lost := find_losses(Path(run.settings.log_internal)).get("")):
                raise TrackingError(lost)
            (folder / UNSENT).unlink(missing_ok=True)
        finally:
            (folder / OPEN).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.finish(failed=error[0] is not None)

    def _try(self, call: Callable[["Run"], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._run is not None:
            (_run_folder(self._run) / OPEN).unlink(missing_ok=True)
        self._run = None
        self.error = first_line(error)
        if isinstance(error, ConnectionError):  # W&B's service process died: let the next run start another
            with suppress(Exception):
                import wandb

                wandb.teardown()
        ask_server.cache_clear()  # the next run asks again
        _log.warning("W&B failed (%s); going on without it", self.error)


def _run_folder(run: "Run") -> Path:
    """The folder that the client records a run in."""
    return Path(run.settings.sync_dir)


def _start(mode: Mode, *, must_send: bool, **arguments: Any) -> "Run":
    """Start a run; one that the server does not take is recorded, unless it has to be sent."""
    import wandb

    arguments |= {"resume": "allow", "settings": quiet_settings()}
    try:
        return wandb.init(mode=mode, **arguments)
    except Exception as error:
        if must_send or mode == "offline":
            raise
        text = first_line(error)
    ask_server.cache_clear()
    wandb.teardown()  # its service holds the run's id
    way_out = "FORCE=1 makes it a new run there" if DELETED in text else "sends it later"
    _log.warning("W&B does not take the run (%s); keeping it offline (`make wandb-sync` %s)", text, way_out)
    return wandb.init(mode="offline", **arguments)


def _send_relative_paths(run: "Run") -> None:
    """Make a run name the files of its artifacts by paths relative to the working directory.

    The client sends the server the local path of every file of an artifact, including files that it makes of
    tables. Its service process was started in our working directory, so it can resolve relative paths.
    """
    log_artifact, here = run.log_artifact, Path.cwd()

    def log(artifact: "Artifact", *args: Any, **kwargs: Any) -> "Artifact":
        for entry in artifact.manifest.entries.values():
            if entry.local_path:
                entry.local_path = os.path.relpath(entry.local_path, here)
        return log_artifact(artifact, *args, **kwargs)

    run.log_artifact = log  # type: ignore[method-assign, assignment]


def _identity(folder: Path, runtime: RuntimeConfig) -> dict[str, str]:
    """Id, project and entity of the folder's run; a new folder gets a random id.

    Entity "" is the account's own; None would let the environment decide.

    A run stays where it was begun, whatever the environment says later; runtime.project moves it.
    """
    path, entity = folder / _ID_FILE, client_settings().entity or ""
    new = "\n".join([secrets.token_hex(6), project_of(runtime), entity]) + "\n"
    create_text(path, new)
    if not run_id(folder):  # damaged
        write_text(path, new)
    lines = path.read_text(errors="replace").splitlines()
    given = [PROJECT, entity]  # where a file of an earlier version, which holds the id alone, belongs
    name, project, entity = [*lines[:3], *given[len(lines) - 1 :]]
    if runtime.project and runtime.project != project:
        project = runtime.project
        write_text(path, "\n".join([name, project, entity]) + "\n")
    return {"id": name, "project": project, "entity": entity}


def forget_run(folder: Path) -> None:
    """Make the next run in a folder a new one on W&B."""
    (folder / _ID_FILE).unlink(missing_ok=True)


def run_id(folder: Path) -> str:
    """The id of the folder's run; "" if it has none yet."""
    return _first_line(folder / _ID_FILE)


def rename_run(folder: Path, old: str) -> str:
    """Replace a run's id, in its project; returns the new one."""
    path, new = folder / _ID_FILE, secrets.token_hex(6)
    if run_id(folder) == old:  # the folder may hold another run by now
        place = path.read_text().splitlines()[1:]
        write_text(path, "\n".join([new, *place]) + "\n")
    return new


def refuse_run(folder: Path, name: str) -> None:
    """Note that W&B refuses a run's id for good."""
    write_text(folder / _REFUSED, name + "\n")


def is_refused(folder: Path, name: str = "") -> bool:
    """Whether W&B refuses a run of this folder for good, by default its present one."""
    refused = _first_line(folder / _REFUSED)
    return bool(refused) and refused == (name or run_id(folder))


def _first_line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""
