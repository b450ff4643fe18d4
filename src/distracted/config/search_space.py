"""The settings that a search varies: a file in the format of W&B's sweeps."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from distracted.errors import ConfigError, first_line

OBJECTIVE = "oof/log_loss"
#: Methods whose proposals do not depend on earlier scores.
METHODS = ("random", "grid")


def read_space(path: Path) -> dict[str, Any]:
    """Read a file in W&B's format, without the metric, which is `OBJECTIVE`.

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


def listed_settings(space: Mapping[str, Any]) -> list[str]:
    """Dotted settings to validate before a search starts: all listed values, and one value of each range."""
    settings = []
    for key, parameter in space["parameters"].items():
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
