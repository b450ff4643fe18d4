"""Merges YAML files and overrides into the typed config of schema/.

`train.yaml` <- `recipes/<recipe>.yaml` <- `models/<model>.yaml` <- `data/<data>.yaml` <- dotted overrides.
The later
wins: mappings merge key by key, lists are replaced, null removes a phase. `freeze` and `unfreeze` are one
choice: a later one replaces an earlier one whole. The recipe is resolved first, from the same files and
overrides; a recipe that `extends` another is merged over it.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from distracted.errors import ConfigError, first_line
from distracted.files import sha256_file
from distracted.paths import CONFIGS
from distracted.schema import (
    NAME,
    DataConfig,
    FeaturesPhase,
    HeadPhase,
    RunConfig,
    RuntimeConfig,
    Section,
    TrainPhase,
    check_name,
)

_S = TypeVar("_S", bound=Section)

_FREEZING = ("freeze", "unfreeze")  # keys of a phase that are one choice
_KINDS: dict[str, type[Section]] = {"features": FeaturesPhase, "head": HeadPhase, "train": TrainPhase}


def load_config(
    *,
    model: str,
    data: str,
    overrides: Sequence[str] = (),
    leaky: bool = False,
    configs: Path = CONFIGS,
    root: Path = Path(),
) -> RunConfig:
    """Merge and check the config of a run.

    Args:
        model: A file in configs/models, without its ending.
        data: A file in configs/data, or, with a slash in it, a folder in the competition's layout.
        overrides: Dotted settings such as "training.seed=1".
        leaky: Phases watch the fold that is scored; no config key sets it.
        configs: The folder of YAML files.
        root: The workspace, which a relative `data.folder` refers to.

    Raises:
        ConfigError: a name, key or value does not exist or is invalid; says which, and what is valid.
    """
    named = _read(configs / "models", model, "model")
    of_data = _data_layer(configs, data)
    dotted = _dotted(overrides)
    base = _read(configs, "train", "defaults")
    chosen = _read_recipe(configs, recipe := _recipe([base, named, of_data, dotted]))
    known = {*_mapping(base, "phases"), *_mapping(chosen, "phases")}
    for name in set(_mapping(named, "phases")) - known:
        del named.phases[name]  # it tunes the phases of the recipes that it knows; this one may lack some
    layers = [base, chosen, named, of_data, dotted]
    if any("leaky" in _mapping(layer, "training") for layer in layers):
        raise ConfigError("training.leaky: only LEAKY=1 lets phases watch the fold that is scored")
    word = OmegaConf.create({"training": {"leaky": leaky}})
    return _check(_merge([word, *layers]), configs, root, f"model {model}, recipe {recipe}, data {data}")


def load_data_config(data: str, *, configs: Path = CONFIGS, root: Path = Path()) -> DataConfig:
    """The data section alone, for stages that train nothing; arguments as in `load_config`."""
    merged = _plain(_merge([_read(configs, "train", "defaults"), _data_layer(configs, data)]))
    placed = _place_data(merged, configs, root)
    return _parse(DataConfig, placed["data"], f"data {data}", prefix="data.")


def load_runtime_config(overrides: Sequence[str] = (), *, configs: Path = CONFIGS) -> RuntimeConfig:
    """The runtime section alone, for stages that take everything else from a stored run.

    Raises:
        ConfigError: an override of another key, which the stored run fixes, or an invalid value.
    """
    dotted = _dotted(overrides)
    if others := [str(key) for key in dotted if key != "runtime"]:
        raise ConfigError(
            f"SET: {others[0]} is as the run was trained; here only runtime.* can be set, such as "
            "runtime.device=cpu"
        )
    merged = _plain(_merge([_read(configs, "train", "defaults"), dotted]))
    return _parse(RuntimeConfig, merged["runtime"], "runtime", prefix="runtime.")


def _read(folder: Path, name: str, what: str) -> DictConfig:
    path = folder / f"{name}.yaml"
    if not NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        hint = "; any timm network: MODEL=<one of these> SET='model.backbone=<timm name>' NAME=<run>"
        raise ConfigError(
            f"unknown {what} {name!r}; configs/{folder.name}/ holds: {known}{hint * (what == 'model')}"
        )
    try:
        content = OmegaConf.load(path)
    except Exception as error:  # garbage makes the readers fail in a dozen ways
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path}: expected a mapping of keys")
    return content


def _read_recipe(configs: Path, name: str) -> DictConfig:
    """A recipe, merged over the recipes that it extends."""
    recipe = _read(configs / "recipes", name, "recipe")
    path = configs / "recipes" / f"{name}.yaml"
    names = [name]
    while (below := recipe.pop("extends", None)) is not None:
        if below in names:
            raise ConfigError(f"{path}: extends itself ({' > '.join([*names, str(below)])})")
        names.append(str(below))
        recipe = _merge([_read(configs / "recipes", str(below), "recipe"), recipe])
    if not _mapping(recipe, "phases"):
        raise ConfigError(f"{path}: expected at least one phase under `phases`")
    return recipe


def _recipe(layers: Sequence[DictConfig]) -> str:
    """Name of the recipe in the last layer that has one."""
    try:
        names = (OmegaConf.select(layer, "recipe") for layer in reversed(layers))
        recipe = next((name for name in names if name is not None), None)
    except OmegaConfBaseException as error:
        raise ConfigError(f"recipe: {_one_line(error)}") from error
    if recipe is None:
        raise ConfigError("recipe: none is named; configs/train.yaml names the default")
    return str(recipe)


def _data_layer(configs: Path, data: str) -> DictConfig:
    if "/" not in data:
        layer = _read(configs / "data", data, "data")
        return OmegaConf.merge({"data": {"name": data, "folder": f"input/{data}"}}, layer)  # type: ignore[return-value]
    folder = Path(data).expanduser().absolute()
    try:
        name = check_name(folder.name, f"DATA={data!r}: the folder's name")
    except ConfigError as error:
        raise ConfigError(
            f"{error}; link to it under such a name (ln -s), or give it one in configs/data/"
        ) from error
    return OmegaConf.create({"data": {"name": name, "folder": str(folder)}})


def _dotted(overrides: Sequence[str]) -> DictConfig:
    for item in overrides:
        if "=" not in item or item.startswith("="):
            raise ConfigError(f"SET: expected key=value such as training.seed=1, got {item!r}")
    try:
        dotted = OmegaConf.from_dotlist(list(overrides))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"SET={' '.join(overrides)!r}: {_one_line(error)}") from error
    if "data" in dotted:
        raise ConfigError(
            "SET: data cannot be set for one command, since every stage has to know what it is: write "
            "configs/data/<name>.yaml and use DATA=<name>"
        )
    return dotted


def _merge(layers: Sequence[DictConfig]) -> DictConfig:
    try:
        _drop_overruled(layers)
        return OmegaConf.merge(*layers)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"the config cannot be merged: {_one_line(error)}") from error
    except TypeError as error:
        raise ConfigError(f"{_clash(layers)}: a list here, a mapping there; expected one of them") from error


def _clash(layers: Sequence[DictConfig]) -> str:
    """The first key that is a list in one layer and a mapping in another."""
    kinds: dict[str, type] = {}
    for layer in layers:
        for key, kind in _containers(OmegaConf.to_container(layer, resolve=False)):
            if kinds.setdefault(key, kind) is not kind:
                return key
    return "the config cannot be merged"


def _containers(tree: Any, before: str = "") -> Iterator[tuple[str, type]]:
    for name, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, dict | list):
            yield f"{before}{name}", type(value)
        yield from _containers(value, f"{before}{name}.")


def _drop_overruled(layers: Sequence[DictConfig]) -> None:
    """Remove a phase's `freeze` and `unfreeze` below the last layer that sets one.

    Else {blocks: 2} and {from: x} would be merged into one mapping.
    """
    chosen = set()
    for layer in reversed(layers):
        for name, phase in _mapping(layer, "phases").items():
            if not isinstance(phase, DictConfig):
                continue
            if name in chosen:
                for key in _FREEZING:
                    phase.pop(key, None)
            elif any(phase.get(key) is not None for key in _FREEZING):
                chosen.add(name)


def _mapping(layer: DictConfig, key: str) -> DictConfig:
    """The mapping under a key; empty if there is none, or something else, which the schema refuses later."""
    value = layer.get(key)
    return value if isinstance(value, DictConfig) else OmegaConf.create({})


def _plain(merged: DictConfig) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the config cannot be resolved: {_one_line(error)}") from error
    assert isinstance(content, dict)
    return content  # type: ignore[return-value]


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


def _check(merged: DictConfig, configs: Path, root: Path, where: str) -> RunConfig:
    content = _place_data(_plain(merged), configs, root)
    phases = content.get("phases")
    if isinstance(phases, dict):
        content["phases"] = {name: phase for name, phase in phases.items() if phase is not None}
    config = _parse(RunConfig, content, where)
    if not config.phases:
        raise ConfigError(f"phases: all of them are null ({where}); expected at least one")
    trained = {name: phase for name, phase in config.phases.items() if isinstance(phase, TrainPhase)}
    if config.training.leaky and not any(phase.watches for phase in trained.values()):
        raise ConfigError(
            f"LEAKY=1: no phase watches a score ({where}); leave it out, or ask for patience, keep=best or "
            "schedule=plateau"
        )
    if config.mixing.on and config.training.batch_size < 2:
        raise ConfigError(
            f"mixing: an image is mixed with another of its batch, and training.batch_size is "
            f"{config.training.batch_size}; expected 2 or more"
        )
    if config.mixing.stitch.prob and config.model.regions:
        raise ConfigError(
            "mixing.stitch: the left part of a region is not that of the picture; expected prob=0 or "
            f"model.regions=[], got [{', '.join(config.model.regions)}]"
        )
    if config.pseudo.predictions:
        raise ConfigError("pseudo.predictions: filled in from the teachers' files; leave the key out")
    if config.pseudo.teachers and config.mixing.on:
        raise ConfigError("pseudo.teachers and mixing do not go together; expected one of them")
    used = {"augment.policy": config.augment.policy}
    for name, phase in trained.items():
        if phase.watches and not (config.training.holdout or config.training.leaky):
            raise ConfigError(
                f"phases.{name}: patience, keep=best and schedule=plateau watch subjects that are held "
                "out of the training side: SET='training.holdout=0.1' holds out a tenth of them"
            )
        if phase.augment:
            used[f"phases.{name}.augment"] = phase.augment
    for key, policy in used.items():
        if policy not in config.augment.policies:
            known = ", ".join(config.augment.policies)
            raise ConfigError(f"{key}: unknown policy {policy!r}; augment.policies holds: {known}")
    for region in config.model.regions:
        if region not in config.data.regions:
            known = ", ".join(config.data.regions)
            raise ConfigError(
                f"model.regions: unknown region {region!r}; data.regions holds: {known or 'none'} "
                "(configs/data/<name>.yaml may add some)"
            )
    return config


def _parse(kind: type[_S], content: Mapping[str, Any], where: str, prefix: str = "") -> _S:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = [_problem(item, content, prefix) for item in error.errors()]
        raise ConfigError(f"config ({where}): " + "; ".join(problems)) from error


def _problem(item: ErrorDetails, content: Mapping[str, Any], prefix: str) -> str:
    key, kind = prefix + _key(item, content), item["type"]
    message = item["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    if kind == "extra_forbidden":
        known = _known_keys(RunConfig)
        if key.startswith("phases."):
            phase = _KINDS[str(item["loc"][2])]  # the union's tag
            known = _known_keys(phase, ".".join(key.split(".")[:2]) + ".")
        near = get_close_matches(key, known, n=1)
        return f"unknown key {key}; {f'nearest: {near[0]}' if near else 'configs/train.yaml shows the keys'}"
    if kind == "union_tag_not_found":
        known_phases = content["phases"].items()
        phases = ", ".join(
            name for name, phase in known_phases if isinstance(phase, dict) and "kind" in phase
        )
        return f"unknown phase {key}; there are {phases} (a new one says its kind: features, head or train)"
    return f"{key}: {message}" if kind == "missing" else f"{key}: {message}, got {item['input']!r}"


def _known_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + (field.alias or name)
        for inner in _sections(field.annotation):
            yield from _known_keys(inner, f"{prefix}{name}.")


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections that a field may hold, without those in a mapping by name."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) is not dict:
        for part in get_args(annotation):
            yield from _sections(part)


def _key(item: ErrorDetails, content: Any) -> str:
    """The key of an error as a user would write it: pydantic adds the names of a union's members."""
    parts = []
    for part in item["loc"]:
        try:
            content = content[part]
        except (KeyError, TypeError):
            continue
        parts.append(str(part))
    return ".".join([*parts, str(item["loc"][-1])] if item["type"] == "missing" else parts)


def _one_line(error: Exception) -> str:
    """An error's message in one line; OmegaConf and YAML add lines of their own."""
    if isinstance(error, OmegaConfBaseException):
        return first_line(error)
    return " ".join(map(str.strip, str(error).splitlines()))
