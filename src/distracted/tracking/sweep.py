"""`make sweep`: W&B proposes settings, each trial is a run over all folds, its pooled score is the objective.

The trial's run on W&B belongs to the sweep; its folds are runs of their own, trained by processes that know
nothing of the sweep. (In one run folds would write over each other, and a sweep would follow the last fold.)
"""

import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from distracted.errors import ConfigError, DistractedError, TrackingError, first_line
from distracted.schema import RuntimeConfig
from distracted.tracking.client import find_wandb_mode, quiet_settings

OBJECTIVE = "oof/log_loss"
#: Those that propose trials whatever the earlier ones scored.
METHODS = ("random", "grid")


@dataclass(frozen=True)
class Trial:
    """Settings that the sweep proposes, and where they go.

    Attributes:
        id: Of the trial's run on W&B; sweep: that it belongs to; overrides: dotted settings such as
            "training.ema=0.99".
    """

    id: str
    sweep: str
    overrides: tuple[str, ...]


def read_sweep(path: Path) -> dict[str, Any]:
    """Read a sweep's file: W&B's `method`, `parameters` and what else it knows; the objective is given.

    Raises:
        ConfigError: not YAML, or a key is missing or not to be set.
    """
    try:
        told = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not readable YAML: {first_line(error)}") from error
    if not isinstance(told, dict) or not {"method", "parameters"} <= set(told):
        raise ConfigError(f"{path}: expected method and parameters, in the format of W&B's sweeps")
    if given := {"metric", "program", "command"} & set(told):
        raise ConfigError(
            f"{path}: {sorted(given)[0]} is given: the objective is {OBJECTIVE}, pooled over all folds; "
            "leave it out"
        )
    parameters = told["parameters"]
    if (
        not isinstance(parameters, dict)
        or not parameters
        or any(isinstance(how, dict) and "parameters" in how for how in parameters.values())
    ):
        raise ConfigError(f"{path}: expected parameters by dotted names such as phases.finetune.lr")
    if told["method"] not in METHODS:
        raise ConfigError(
            f"{path}: method {told['method']} looks at the scores of all folds, and no choice among "
            f"them is honest; expected {' or '.join(METHODS)}"
        )
    found: dict[str, Any] = {str(key): value for key, value in told.items()}
    return found


def listed_settings(told: Mapping[str, Any]) -> list[str]:
    """Dotted settings that trials may get, to see whether each fits before the night: all values that are
    listed, of ranges the lower end."""
    found = []
    for key, how in told["parameters"].items():
        given = how if isinstance(how, dict) else {"value": how}
        values = given.get("values", [given["value"]] if "value" in given else [])
        if not values and "min" in given:
            values = [math.exp(given["min"]) if given.get("distribution") == "log_uniform" else given["min"]]
        elif not values and "mu" in given:
            is_log = str(given.get("distribution", "")).startswith(("log_normal", "q_log_normal"))
            values = [math.exp(given["mu"]) if is_log else given["mu"]]
        found += [as_setting(key, value) for value in values]
    return found


def as_setting(key: str, value: Any) -> str:
    """A dotted setting as SET= takes it."""
    return f"{key}={'null' if value is None else value}"


def run_sweep(
    told: Mapping[str, Any],
    runtime: RuntimeConfig,
    *,
    name: str,
    trials: int,
    train: Callable[[Trial], Mapping[str, float]],
    sweep: str = "",
) -> tuple[str, list[Trial]]:
    """Start a sweep, or join one, and run some trials.

    Args:
        told: As `read_sweep`.
        name: What W&B shows for it.
        train: Trains a trial over all folds; returns its scores, the objective among them.
        sweep: The id of one that exists; another machine may work on it, too.

    Returns:
        The sweep's id, and the trials that were trained to their end here.

    Raises:
        TrackingError: no server, or it refuses.
    """
    if find_wandb_mode() != "online":
        raise TrackingError(
            "W&B is not to be had: a sweep lives on its server, and there is no key (`wandb login`), "
            "WANDB_MODE=offline, or no answer"
        )
    done: list[Trial] = []

    def run_trial() -> None:
        with wandb.init(project=runtime.project, job_type="sweep", settings=quiet_settings()) as run:
            settings = tuple(as_setting(key, value) for key, value in dict(run.config).items())
            trial = Trial(run.id, str(run.sweep_id), settings)
            scores = train(trial)
            run.log(dict(scores))
            done.append(trial)

    try:
        with _no_host_name():
            if not sweep:
                metric = {"name": OBJECTIVE, "goal": "minimize"}
                sweep = wandb.sweep({**told, "name": name, "metric": metric}, project=runtime.project)
            wandb.agent(sweep, function=run_trial, project=runtime.project, count=trials)
    except DistractedError:
        raise
    except Exception as error:  # the client has many kinds
        raise TrackingError(f"W&B: the sweep failed: {first_line(error)}") from error
    return sweep, done


@contextmanager
def _no_host_name() -> Iterator[None]:
    """Within, this machine has no name: the client's agent would tell it to the server."""
    name = socket.gethostname
    socket.gethostname = lambda: "agent"
    try:
        yield
    finally:
        socket.gethostname = name
