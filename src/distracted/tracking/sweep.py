"""`make sweep`: W&B proposes settings, each trial is trained over all folds, and its pooled score is logged.

A trial is one run of the sweep on W&B, and its folds are separate runs outside of the sweep. In a single run
the folds would overwrite each other's metrics, and the sweep would use the score of the last fold.
"""

import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from distracted.errors import ConfigError, DistractedError, TrackingError, first_line
from distracted.schema import RuntimeConfig
from distracted.tracking.online import project_of, quiet_settings, require_server

OBJECTIVE = "oof/log_loss"
#: Methods whose proposals do not depend on earlier scores.
METHODS = ("random", "grid")


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


def read_sweep(path: Path) -> dict[str, Any]:
    """Read a sweep's configuration in W&B's format, without the metric, which is `OBJECTIVE`.

    Raises:
        ConfigError: not YAML, or a key is missing, invalid or reserved.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not readable YAML: {first_line(error)}") from error
    if not isinstance(content, dict) or not {"method", "parameters"} <= set(content):
        raise ConfigError(f"{path}: expected method and parameters, in the format of W&B's sweeps")
    if reserved := {"metric", "program", "command"} & set(content):
        key = sorted(reserved)[0]
        raise ConfigError(f"{path}: remove {key}: the objective is always {OBJECTIVE}, pooled over all folds")
    parameters = content["parameters"]
    specs = list(parameters.values()) if isinstance(parameters, dict) else []
    if not specs or any(isinstance(spec, dict) and "parameters" in spec for spec in specs):  # nested
        raise ConfigError(f"{path}: expected parameters by dotted names such as phases.finetune.lr")
    if content["method"] not in METHODS:
        raise ConfigError(
            f"{path}: method {content['method']} adapts to the scores of all folds, after which no choice "
            f"among the trials is honest; expected {' or '.join(METHODS)}"
        )
    return {str(key): value for key, value in content.items()}


def listed_settings(sweep: Mapping[str, Any]) -> list[str]:
    """Dotted settings to validate before the sweep starts: all listed values, and one value of each range."""
    settings = []
    for key, parameter in sweep["parameters"].items():
        spec = parameter if isinstance(parameter, dict) else {"value": parameter}
        values = spec.get("values", [spec["value"]] if "value" in spec else [])
        if not values and "min" in spec:
            values = [math.exp(spec["min"]) if spec.get("distribution") == "log_uniform" else spec["min"]]
        elif not values and "mu" in spec:
            is_log = str(spec.get("distribution", "")).startswith(("log_normal", "q_log_normal"))
            values = [math.exp(spec["mu"]) if is_log else spec["mu"]]
        settings += [as_setting(key, value) for value in values]
    return settings


def as_setting(key: str, value: Any) -> str:
    """Format a dotted setting for SET=."""
    return f"{key}={'null' if value is None else value}"


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
        config: Result of `read_sweep`.
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
