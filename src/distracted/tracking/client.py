"""One W&B run: opened where W&B is on, told what it is told, and left alone from its first error on."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import wandb
from requests.utils import get_netrc_auth

from distracted.errors import DistractedError, first_line
from distracted.files import create_text, write_json, write_text
from distracted.locks import this_process
from distracted.reach import answers
from distracted.schema import RuntimeConfig

_log = logging.getLogger(__name__)

_FINISH_SECONDS = 60.0  # for what is not sent yet when a run ends; it stays on disk
_INIT_SECONDS = 30.0
#: Beside the recording of a run that was begun with a server and has not told it all: `make wandb-sync` will.
UNSENT = "unsent"
#: Beside a recording that is not finished: whose it is.
OPEN = "open.json"
_ID_FILE = "wandb_id.txt"
#: What a metric is drawn over: steps of gradient descent. (W&B's own step may only grow, and a fold that
#: was interrupted may begin again.)
STEP = "train/step"

JobType = Literal["train", "summary", "derived", "ensemble", "submission", "sweep"]


class WandbRun:
    """A run on W&B, or nothing where W&B is off; used as a context.

    An error of W&B's is said once, and what follows goes nowhere: no work stops because of it.

    Attributes:
        error: What W&B failed with, or "".

    Args:
        folder: Where W&B's files go, in a folder `wandb` there, and the run's id: where one is there, that
            run goes on.
        group: What W&B shows together.
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
        self._run: wandb.Run | None = None
        self.error = ""
        if runtime.tracking == "none":
            return
        try:
            if wandb.setup().settings.mode == "disabled":
                return
            self._run = wandb.init(
                project=runtime.project,
                group=group,
                name=name,
                job_type=job_type,
                tags=[tag[:64] for tag in tags],  # W&B takes no longer ones
                config=dict(config),
                id=_run_id(folder),
                resume="allow",
                dir=folder,
                mode=find_wandb_mode(),
                settings=quiet_settings(),
            )
            _send_relative_paths(self._run)
            here = _recording(self._run)
            write_json(here / OPEN, asdict(this_process()))
            if not self.is_offline:
                write_text(here / UNSENT, "")
            for metrics in ("train/*", "valid/*", "holdout/*"):
                self._run.define_metric(metrics, step_metric=STEP)
        except Exception as error:  # whatever it is: work goes on
            self._fail(error)

    @property
    def is_on(self) -> bool:
        return self._run is not None

    @property
    def is_offline(self) -> bool:
        return self._run is not None and bool(self._run.settings._offline)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Metrics, at this moment of the run."""
        self._try(lambda run: run.log(dict(metrics)))

    def show(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Charts and tables, made only where W&B is on; those that cannot be made are left out."""
        if self._run is None:
            return
        try:
            made = dict(make())
        except DistractedError as error:
            _log.warning("W&B: a chart or table is left out (%s)", first_line(error))
            return
        self._try(lambda run: run.log(made))

    def summarise(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """What the run is listed with."""
        self._try(lambda run: run.summary.update(dict(make())))

    def log_artifact(self, make: Callable[[], wandb.Artifact], aliases: Sequence[str]) -> None:
        """Files that the run made."""
        self._try(lambda run: run.log_artifact(make(), aliases=["latest", *aliases]))

    def use_artifact(self, name: str) -> None:
        """Files that the run took; offline this cannot be recorded, and `make wandb-sync` makes up for it."""
        if not self.is_offline:
            self._try(lambda run: run.use_artifact(name))

    def finish(self, *, failed: bool = False) -> None:
        self._try(lambda run: self._close(run, failed=failed))
        self._run = None

    def _close(self, run: wandb.Run, *, failed: bool) -> None:
        here = _recording(run)
        try:
            run.finish(exit_code=int(failed))
            (here / UNSENT).unlink(missing_ok=True)
        finally:
            (here / OPEN).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(failed=kind is not None)

    def _try(self, tell: Callable[[wandb.Run], object]) -> None:
        if self._run is None:
            return
        try:
            tell(self._run)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._run is not None:
            (_recording(self._run) / OPEN).unlink(missing_ok=True)  # nothing more will come
        self._run = None
        self.error = first_line(error)
        if isinstance(error, ConnectionError):  # to its own process, which is gone: the next run gets another
            with suppress(Exception):
                wandb.teardown()
        answers.cache_clear()  # the next run asks again whether there is a server, and goes offline if not
        _log.warning("W&B failed (%s); going on without it", self.error)


def _recording(run: wandb.Run) -> Path:
    """The folder of the client's own files."""
    return Path(run.settings.sync_dir)


def quiet_settings() -> wandb.Settings:
    """The client's settings: nothing printed, and nothing of this machine sent but what is told."""
    return wandb.Settings(
        reinit="create_new",  # else a fold goes on in a run that W&B failed to finish
        silent=True,
        host="",
        program="distracted",  # not the path of the script
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


def _send_relative_paths(run: wandb.Run) -> None:
    """Have the run name an artifact's files by where they lie, seen from the working directory.

    The client sends the server where each file of an artifact lies on this machine, also of those that it
    makes of tables. Its service resolves relative paths from the directory that it was started in, ours.
    """
    log_artifact, here = run.log_artifact, Path.cwd()

    def log(artifact: wandb.Artifact, *args: Any, **kwargs: Any) -> wandb.Artifact:
        for entry in artifact.manifest.entries.values():
            if entry.local_path:
                entry.local_path = os.path.relpath(entry.local_path, here)
        return log_artifact(artifact, *args, **kwargs)

    run.log_artifact = log  # type: ignore[method-assign, assignment]


def _run_id(folder: Path) -> str:
    """The id of the run whose files lie in a folder, random at first."""
    path = folder / _ID_FILE
    create_text(path, secrets.token_hex(6))
    return path.read_text().strip()


def forget_run(folder: Path) -> None:
    """What comes next in a folder is a new run on W&B."""
    (folder / _ID_FILE).unlink(missing_ok=True)


def find_wandb_mode() -> Literal["online", "offline"]:
    """Online where W&B was not told otherwise, a key is configured and its server answers."""
    settings = wandb.setup().settings
    if settings.mode == "offline" or not (settings.api_key or get_netrc_auth(settings.base_url)):
        return "offline"
    if not answers(settings.base_url):
        _log.warning(
            "W&B's server does not answer; keeping the run offline (`make wandb-sync` sends it later)"
        )
        return "offline"
    return "online"
