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
from distracted.reach import answers
from distracted.schema import RuntimeConfig

if TYPE_CHECKING:  # slow to import: wandb is imported once a run is really tracked
    from wandb import Artifact, Run, Settings

_log = logging.getLogger(__name__)

_FINISH_SECONDS = 60.0  # to send the rest when a run ends; what is not sent stays on disk
_INIT_SECONDS = 30.0
#: Marks the folder of an online run that is not completely sent; `make wandb-sync` sends the rest.
UNSENT = "unsent"
#: In the folder of an unfinished run: the process that writes it.
OPEN = "open.json"
_ID_FILE = "wandb_id.txt"
#: The x axis of all metrics: steps of gradient descent. (W&B's own step can only increase, but a resumed fold
#: repeats steps.)
STEP = "train/step"

JobType = Literal["train", "summary", "derived", "ensemble", "submission", "sweep"]


class WandbRun:
    """A run on W&B, or a null object where W&B is off; use it as a context manager.

    W&B's first error is logged once, and further calls do nothing.

    Attributes:
        error: W&B's error, or "".

    Args:
        folder: W&B's files go into `wandb` in this folder, and the run's id into a file there, so that a
            later run in the same folder continues it.
        group: Group that W&B shows the run in.
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
    ) -> None:
        self._run: Run | None = None
        self.error = ""
        if runtime.tracking == "none" or os.environ.get("WANDB_MODE") == "disabled":
            return
        try:
            import wandb

            if wandb.setup().settings.mode == "disabled":  # by a settings file
                return
            self._run = wandb.init(
                project=runtime.project,
                group=group,
                name=name,
                job_type=job_type,
                tags=[tag[:64] for tag in tags],  # W&B's limit
                config=dict(config),
                id=_run_id(folder),
                resume="allow",
                dir=folder,
                mode=find_wandb_mode(),
                settings=quiet_settings(),
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
        folder = _run_folder(run)
        try:
            run.finish(exit_code=int(failed))
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
        answers.cache_clear()  # the next run checks again whether the server answers
        _log.warning("W&B failed (%s); going on without it", self.error)


def _run_folder(run: "Run") -> Path:
    """The folder that the client records a run in."""
    return Path(run.settings.sync_dir)


def quiet_settings() -> "Settings":
    """Settings under which the client prints nothing and sends nothing about this machine."""
    import wandb

    return wandb.Settings(
        reinit="create_new",  # otherwise a fold would continue a run that W&B failed to finish
        silent=True,
        host="",
        program="distracted",  # otherwise the script's path
        console="off",
        disable_git=True,
        save_code=False,
        init_timeout=_INIT_SECONDS,
        finish_timeout=_FINISH_SECONDS,
        finish_timeout_raises=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
    )


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


def _run_id(folder: Path) -> str:
    """The id of the folder's run; a new folder gets a random one."""
    path = folder / _ID_FILE
    create_text(path, secrets.token_hex(6))
    return path.read_text().strip()


def forget_run(folder: Path) -> None:
    """Make the next run in a folder a new one on W&B."""
    (folder / _ID_FILE).unlink(missing_ok=True)


def find_wandb_mode() -> Literal["online", "offline"]:
    """Online unless WANDB_MODE=offline, no API key is configured or the server does not answer."""
    import wandb
    from requests.utils import get_netrc_auth

    settings = wandb.setup().settings
    if settings.mode == "offline" or not (settings.api_key or get_netrc_auth(settings.base_url)):
        return "offline"
    if not answers(settings.base_url):
        text = "W&B's server does not answer; keeping the run offline"
        _log.warning("%s (`make wandb-sync` sends it later)", text)
        return "offline"
    return "online"


def require_server(reason: str) -> None:
    """Raise TrackingError, with the reason why the server is needed, unless W&B is online."""
    if find_wandb_mode() != "online":
        raise TrackingError(
            "W&B is unavailable: no key (`wandb login`), WANDB_MODE=offline, or its server does not answer; "
            + reason
        )
