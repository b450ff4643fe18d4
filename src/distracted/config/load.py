"""The config of a run, of the data alone, or of the runtime alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distracted.config.layers import (
    DataFolder,
    data_layer,
    mapping,
    merge,
    parse_overrides,
    read_layer,
    read_recipe,
    recipe_name,
    to_plain,
)
from distracted.config.messages import parse_section
from distracted.config.rules import check_rules
from distracted.errors import ConfigError
from distracted.files import sha256_file
from distracted.paths import CONFIGS
from distracted.schema import DataConfig, RunConfig, RuntimeConfig


def load_config(
    *,
    model: str,
    data: str | DataFolder,
    overrides: Sequence[str] = (),
    leaky: bool = False,
    configs: Path = CONFIGS,
    root: Path = Path(),
) -> RunConfig:
    """Merge and check the config of a run.

    Args:
        model: A file in configs/models, without its ending.
        data: As in `data_layer`.
        overrides: Dotted settings such as "training.seed=1".
        leaky: Phases watch the fold that is scored; no config key sets it.
        configs: The folder of YAML files.
        root: The workspace, which a relative `data.folder` refers to.

    Raises:
        ConfigError: a name, key or value does not exist or is invalid; says which, and what is valid.
    """
    model_layer = read_layer(configs / "models", model, "model")
    defaults = read_layer(configs, "train", "defaults")
    layers = [defaults, model_layer, data_layer(configs, data, root), parse_overrides(overrides)]
    recipe = recipe_name(layers)
    layers.insert(1, read_recipe(configs, recipe))
    known_phases = {name for layer in layers[:2] for name in mapping(layer, "phases")}
    for name in set(mapping(model_layer, "phases")) - known_phases:
        del model_layer.phases[name]  # a model tunes the phases of several recipes; this one may lack some
    if any("leaky" in mapping(layer, "training") for layer in layers):
        raise ConfigError("training.leaky: only LEAKY=1 lets phases watch the fold that is scored")
    word = OmegaConf.create({"training": {"leaky": leaky}})  # below the others: one of them may be wrong
    return _build(merge([word, *layers]), configs, root, f"model {model}, recipe {recipe}, {_where(data)}")


def load_data_config(data: str | DataFolder, *, configs: Path = CONFIGS, root: Path = Path()) -> DataConfig:
    """The data section alone, for stages that train nothing; arguments as in `load_config`."""
    merged = to_plain(merge([read_layer(configs, "train", "defaults"), data_layer(configs, data, root)]))
    placed = _place_data(merged, configs, root)
    return parse_section(DataConfig, placed["data"], _where(data), prefix="data.")


def load_runtime_config(overrides: Sequence[str] = (), *, configs: Path = CONFIGS) -> RuntimeConfig:
    """The runtime section alone, for stages that take everything else from a stored run.

    Raises:
        ConfigError: an override of another key, which the stored run fixes, or an invalid value.
    """
    dotted = parse_overrides(overrides)
    if others := [str(key) for key in dotted if key != "runtime"]:
        raise ConfigError(
            f"SET: {others[0]} is as the run was trained; here only runtime.* can be set, such as "
            "runtime.device=cpu"
        )
    merged = to_plain(merge([read_layer(configs, "train", "defaults"), dotted]))
    return parse_section(RuntimeConfig, merged["runtime"], "runtime", prefix="runtime.")


def _where(data: str | DataFolder) -> str:
    return f"data {data.name if isinstance(data, DataFolder) else data}"


def _place_data(content: dict[str, Any], configs: Path, root: Path) -> dict[str, Any]:
    """Fill in the data's folder and its drop list."""
    data = content.get("data")
    if not isinstance(data, dict):
        return content
    if isinstance(data.get("folder"), str):
        data["folder"] = str(root / data["folder"])
    if {"drop_list", "drops"} & set(data):
        raise ConfigError(
            "data.drop_list: it is configs/data/<data>_drop.csv if that file exists; leave the key out"
        )
    path = configs / "data" / f"{data.get('name')}_drop.csv"
    if path.is_file():
        data |= {"drop_list": str(path), "drops": sha256_file(path)}
    return content


def _build(merged: DictConfig, configs: Path, root: Path, where: str) -> RunConfig:
    content = _place_data(to_plain(merged), configs, root)
    phases = content.get("phases")
    if isinstance(phases, dict):
        content["phases"] = {name: phase for name, phase in phases.items() if phase is not None}
    config = parse_section(RunConfig, content, where)
    check_rules(config, where)
    return config
