"""`make sweep`: W&B proposes settings, each trial is trained over all folds, and its pooled score is logged.

A trial is one run of the sweep on W&B, and its folds are separate runs outside of the sweep. In a single run
the folds would overwrite each other's metrics, and the sweep would use the score of the last fold.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from distracted.config.search_space import OBJECTIVE, as_setting
from distracted.errors import DistractedError, TrackingError, first_line
from distracted.schema import RuntimeConfig
from distracted.tracking.online import project_of, quiet_settings, require_server


@dataclass(frozen=True)
class Trial:
    """One proposal of a sweep.

    Attributes:
        id: Id of the trial's run on W&B.
        sweep: Id of its sweep.
        overrides: Dotted settings such as "training.ema=0.99".
    """

    id: str
    sweep: str
    overrides: tuple[str, ...]


def run_sweep(
    config: Mapping[str, Any],
    runtime: RuntimeConfig,
    *,
    name: str,
    trials: int,
    train: Callable[[Trial], Mapping[str, float]],
    sweep: str = "",
) -> tuple[str, list[Trial]]:
    """Start or join a sweep and run some trials.

    Args:
        config: Result of `read_space`.
        name: Name of the sweep on W&B.
        train: Trains a trial over all folds and returns its scores, including `OBJECTIVE`.
        sweep: Id of a sweep to join, or entity/project/id; other machines may also work on it.

    Returns:
        The sweep's id and the trials that were completed here.

    Raises:
        TrackingError: W&B is unavailable or rejects the sweep.
    """
    require_server(runtime, "a sweep lives on its server")
    import wandb

    project = project_of(runtime)
    done: list[Trial] = []

    def run_trial() -> None:
        with wandb.init(project=project, job_type="sweep", settings=quiet_settings()) as run:
            settings = tuple(as_setting(key, value) for key, value in dict(run.config).items())
            trial = Trial(run.id, str(run.sweep_id), settings)
            scores = train(trial)
            run.log(dict(scores))
            done.append(trial)

    try:
        with _no_host_name():
            if not sweep:
                metric = {"name": OBJECTIVE, "goal": "minimize"}
                sweep = wandb.sweep({**config, "name": name, "metric": metric}, project=project)
            wandb.agent(sweep, function=run_trial, project=project, count=trials)
    except DistractedError:
        raise
    except Exception as error:  # the client raises many types
        raise TrackingError(f"W&B: the sweep failed: {first_line(error)}") from error
    return sweep.rpartition("/")[2], done


@contextmanager
def _no_host_name() -> Iterator[None]:
    """Hide this machine's name, which W&B's agent would send to the server."""
    gethostname = socket.gethostname
    socket.gethostname = lambda: "agent"
    try:
        yield
    finally:
        socket.gethostname = gethostname
