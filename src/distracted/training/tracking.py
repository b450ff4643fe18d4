"""Where metrics go: metrics.jsonl, and W&B behind the same interface. A failing tracker stops nothing."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import wandb
from requests.utils import get_netrc_auth

from distracted.errors import first_line
from distracted.paths import METRICS
from distracted.reach import answers

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes metrics as they come and a summary at the end; used as a context."""

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None: ...

    def summarise(self, values: Mapping[str, Any]) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FileTracker:
    """The local truth: one JSON object a line in metrics.jsonl, begun anew with each run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / METRICS).open("w")

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def summarise(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"summary": dict(values)}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class WandbTracker:
    """A file tracker that also tells W&B; the first error of W&B is said, and it is left alone from then on.

    Args:
        folder: Where metrics.jsonl and W&B's own files go.
        group: The model run; W&B shows its folds together.
        job_type: The stage, such as train.
        config: The resolved config.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: str,
        group: str,
        name: str,
        job_type: str,
        config: Mapping[str, Any],
    ) -> None:
        self._files = FileTracker(folder)
        self._run: wandb.Run | None = None
        try:
            self._run = wandb.init(
                project=project,
                group=group,
                name=name,
                job_type=job_type,
                config=dict(config),
                dir=folder,
                mode=find_wandb_mode(),
                settings=wandb.Settings(
                    silent=True,
                    host="",
                    console="off",
                    disable_git=True,
                    save_code=False,
                    x_disable_meta=True,
                    x_disable_machine_info=True,
                    x_disable_stats=True,
                ),
            )
        except Exception as error:  # whatever it is: training goes on
            self._fail(error)

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None:
        self._files.log(metrics, step=step)
        if self._run is not None:
            try:
                self._run.log(dict(metrics), step=step)
            except Exception as error:
                self._fail(error)

    def summarise(self, values: Mapping[str, Any]) -> None:
        self._files.summarise(values)
        if self._run is not None:
            try:
                self._run.summary.update(dict(values))
            except Exception as error:
                self._fail(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)
        if self._run is not None:
            try:
                self._run.finish(exit_code=0 if kind is None else 1)
            except Exception as failure:
                self._fail(failure)

    def _fail(self, error: Exception) -> None:
        self._run = None
        _say_failure(error)


def open_tracker(
    tracking: str,
    folder: Path,
    *,
    project: str,
    group: str,
    name: str,
    job_type: str,
    config: Mapping[str, Any],
) -> Tracker:
    """The tracker that the config asks for; WANDB_MODE=disabled turns W&B off."""
    if tracking == "none" or not _wandb_is_on():
        return FileTracker(folder)
    return WandbTracker(folder, project=project, group=group, name=name, job_type=job_type, config=config)


def _wandb_is_on() -> bool:
    try:
        return wandb.setup().settings.mode != "disabled"
    except Exception as error:  # a WANDB_ variable that the client refuses
        _say_failure(error)
        return False


def _say_failure(error: Exception) -> None:
    _log.warning("W&B failed (%s); going on with metrics.jsonl alone", first_line(error))


def find_wandb_mode() -> Literal["online", "offline"]:
    """Online where W&B was not told otherwise, a key is configured and its server answers."""
    settings = wandb.setup().settings
    if settings.mode == "offline" or not (settings.api_key or get_netrc_auth(settings.base_url)):
        return "offline"
    if not answers(settings.base_url):
        _log.warning("W&B's server does not answer; keeping the run offline (`wandb sync` sends it later)")
        return "offline"
    return "online"
