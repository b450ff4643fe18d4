"""Layers of the config: YAML files and dotted overrides as OmegaConf mappings, and merging them."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from distracted.errors import ConfigError, first_line
from distracted.paths import CONFIGS, Workspace
from distracted.schema import NAME, safe_name

_FREEZING = ("freeze", "unfreeze")  # keys of a phase that are one choice


@dataclass(frozen=True)
class DataFolder:
    """A folder in the competition's layout, and the name of its store in oof/."""

    path: Path
    name: str

    @classmethod
    def at(cls, data: str) -> "DataFolder":
        """The folder of DATA=<folder>; its name is made from the folder's.

        Kaggle mounts a competition under the name that `kaggle:` in configs/data states: that file's name.
        """
        path = Path(data).expanduser().absolute()
        name = path.resolve().name if path.name == ".." else path.name
        return cls(path, _of_competition(name) or safe_name(name))


def read_layer(folder: Path, name: str, what: str) -> DictConfig:
    """Read a YAML file by its name; `what` it is goes into the error."""
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


def read_recipe(configs: Path, name: str) -> DictConfig:
    """A recipe, merged over the recipes that it extends."""
    recipe = read_layer(configs / "recipes", name, "recipe")
    path = configs / "recipes" / f"{name}.yaml"
    names = [name]
    while (below := recipe.pop("extends", None)) is not None:
        if below in names:
            raise ConfigError(f"{path}: extends itself ({' > '.join([*names, str(below)])})")
        names.append(str(below))
        recipe = merge([read_layer(configs / "recipes", str(below), "recipe"), recipe])
    if not mapping(recipe, "phases"):
        raise ConfigError(f"{path}: expected at least one phase under `phases`")
    return recipe


def recipe_name(layers: Sequence[DictConfig]) -> str:
    """Name of the recipe in the last layer that has one."""
    try:
        names = (OmegaConf.select(layer, "recipe") for layer in reversed(layers))
        recipe = next((name for name in names if name is not None), None)
    except OmegaConfBaseException as error:
        raise ConfigError(f"recipe: {_one_line(error)}") from error
    if recipe is None:
        raise ConfigError("recipe: none is named; configs/train.yaml names the default")
    return str(recipe)


def data_layer(configs: Path, data: str | DataFolder, root: Path) -> DictConfig:
    """The data section of DATA=.

    Args:
        data: A file in configs/data, a store in oof/ without such a file, or, with a slash in it, a folder in
            the competition's layout.
        root: The workspace.
    """
    if isinstance(data, DataFolder):
        return _folder_layer(configs, data)
    if "/" in data:
        folder = DataFolder.at(data)
        if folder.name == _of_competition(folder.path.name):
            return _folder_layer(configs, folder)
        return OmegaConf.create({"data": {"name": folder.name, "folder": str(folder.path)}})
    defaults = {"data": {"name": data, "folder": f"input/{data}"}}
    if not (configs / "data" / f"{data}.yaml").is_file() and _is_store(data, root):
        return OmegaConf.create(defaults)
    return OmegaConf.merge(defaults, read_layer(configs / "data", data, "data"))  # type: ignore[return-value]


def _folder_layer(configs: Path, folder: DataFolder) -> DictConfig:
    """The section of a folder: with the settings of the store's own file in configs/data, if there is one."""
    has_file = (configs / "data" / f"{folder.name}.yaml").is_file()
    layer = read_layer(configs / "data", folder.name, "data") if has_file else OmegaConf.create({})
    place = {"data": {"folder": str(folder.path)}}
    return OmegaConf.merge({"data": {"name": folder.name}}, layer, place)  # type: ignore[return-value]


def _of_competition(name: str) -> str:
    """The only file in configs/data whose competition on Kaggle has this name; "" if there is none."""
    found = []
    for path in sorted((CONFIGS / "data").glob("*.yaml")):
        with suppress(ConfigError):  # the command that names a damaged file says it
            if mapping(read_layer(path.parent, path.stem, "data"), "data").get("kaggle") == name:
                found.append(path.stem)
    return found[0] if len(found) == 1 else ""


def _is_store(name: str, root: Path) -> bool:
    return NAME.fullmatch(name) is not None and Workspace(root).data_binding(name).is_file()


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """Dotted settings such as "training.seed=1" as a layer; they may not touch the data."""
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


def merge(layers: Sequence[DictConfig]) -> DictConfig:
    """Merge layers, the later over the earlier; the phases of `layers` are changed in place."""
    try:
        _drop_overruled(layers)
        return OmegaConf.merge(*layers)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"the config cannot be merged: {_one_line(error)}") from error
    except TypeError as error:
        raise ConfigError(f"{_clash(layers)}: a list here, a mapping there; expected one of them") from error


def mapping(layer: DictConfig, key: str) -> DictConfig:
    """The mapping under a key; empty if there is none, or something else, which the schema refuses later."""
    value = layer.get(key)
    return value if isinstance(value, DictConfig) else OmegaConf.create({})


def to_plain(merged: DictConfig) -> dict[str, Any]:
    """Plain values, with ${...} references resolved."""
    try:
        content = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the config cannot be resolved: {_one_line(error)}") from error
    assert isinstance(content, dict)
    return content  # type: ignore[return-value]


def _drop_overruled(layers: Sequence[DictConfig]) -> None:
    """Remove a phase's `freeze` and `unfreeze` below the last layer that sets one.

    Else {blocks: 2} and {from: x} would be merged into one mapping.
    """
    chosen = set()
    for layer in reversed(layers):
        for name, phase in mapping(layer, "phases").items():
            if not isinstance(phase, DictConfig):
                continue
            if name in chosen:
                for key in _FREEZING:
                    phase.pop(key, None)
            elif any(phase.get(key) is not None for key in _FREEZING):
                chosen.add(name)


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


def _one_line(error: Exception) -> str:
    """An error's message in one line; OmegaConf and YAML add lines of their own."""
    if isinstance(error, OmegaConfBaseException):
        return first_line(error)
    return " ".join(map(str.strip, str(error).splitlines()))
