"""make docs: writes docs/config.md, every key of the config, from the schema and configs/train.yaml."""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from omegaconf import OmegaConf
from pydantic.fields import FieldInfo

import console
from distracted.files import write_text
from distracted.paths import CONFIGS
from distracted.schema import BlockRange, FeaturesPhase, HeadPhase, RunConfig, Section, TrainPhase

PAGE = CONFIGS.parent / "docs/config.md"
_INTRO = """# Config

Every key, its meaning, its values and its default. `make docs` writes this page from
`src/distracted/schema/` and `configs/train.yaml`; a test keeps it true.

A run's config is merged from `configs/train.yaml`, the recipe, `configs/models/<model>.yaml` and
`configs/data/<data>.yaml`; then come the settings of the command:
`SET="training.seed=1 model.image_size=128"`. The later wins. An unknown key is an error that names the
nearest one. All keys enter the run's hash, except those of `runtime` and those marked below: change one,
and it is another run.
"""
_PHASES: dict[str, type[Section]] = {"features": FeaturesPhase, "head": HeadPhase, "train": TrainPhase}
_PHASES_INTRO = """
## phases

Phases by name, in the order in which they run: `SET="phases.finetune.epochs=3"`. A recipe
(`configs/recipes/`) adds phases, null removes one, and a new one says its kind.
[transfer.md](transfer.md) shows the recipes.
"""


def main(out: Annotated[Path, typer.Option(help="The page.")] = PAGE) -> None:
    """Write docs/config.md."""
    write_text(out, page())
    console.say(f"{out}: written")


def page() -> str:
    """The page as Markdown."""
    defaults = OmegaConf.to_container(OmegaConf.load(CONFIGS / "train.yaml"))
    assert isinstance(defaults, dict)
    parts = [_INTRO, *_section(RunConfig, defaults, "")]  # type: ignore[arg-type]
    parts.append(_PHASES_INTRO)
    for kind, section in _PHASES.items():
        parts += [f"\n### kind: {kind}\n\n{section.__doc__}\n", _table(section, {}, "")]
    parts += [f"\n### Parts of a backbone\n\n{BlockRange.__doc__}\n", _table(BlockRange, {}, "")]
    return "\n".join(line.rstrip() for line in "".join(parts).splitlines()) + "\n"


def _section(section: type[Section], defaults: dict[str, Any], prefix: str) -> Iterator[str]:
    if prefix:
        yield f"\n## {prefix.rstrip('.')}\n\n{section.__doc__}\n"
    yield _table(section, defaults, prefix)
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _section(inner, defaults.get(name) or {}, f"{prefix}{name}.")


def _table(section: type[Section], defaults: dict[str, Any], prefix: str) -> str:
    rows = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if (isinstance(inner, type) and issubclass(inner, Section)) or name in ("kind", "phases"):
            continue
        key = field.alias or name
        meaning = " ".join((field.description or "").split())
        rows.append(f"| `{prefix}{key}` | {meaning} | {_values(field)} | {_default(field, defaults, name)} |")
    if not rows:
        return ""
    return "\n".join(["", "| key | meaning | values | default |", "| --- | --- | --- | --- |", *rows, ""])


def _default(field: FieldInfo, defaults: dict[str, Any], name: str) -> str:
    if name in defaults:
        return _show(defaults[name])
    return "" if field.is_required() else _show(field.default)


def _show(value: Any) -> str:
    if isinstance(value, dict) and value:
        return "see `configs/train.yaml`"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _values(field: FieldInfo) -> str:
    return "".join([_type(field.annotation), *_bounds(field.metadata)]).replace("|", "\\|")


def _type(annotation: Any) -> str:
    """A type in a reader's words: `head`, `all`; a number; a list of names."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is Annotated:
        return _type(inner[0]) + "".join(_bounds(inner[1:]))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_type, inner)))
    if origin in (tuple, list):
        noun, _, bounds = _type(inner[0]).partition(" ")
        return f"list of {'name' if inner[0] is str else noun}s {bounds}".strip()
    if origin is dict:
        return "mapping by name"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "{blocks: n}, {layers: n} or {from: name}"
    names = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", type(None): "`null`"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _bounds(metadata: Any) -> Iterator[str]:
    for item in metadata:
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            if (bound := getattr(item, name, None)) is not None:
                yield f" {sign} {bound:g}"
        yield from _bounds(getattr(item, "metadata", ()))


if __name__ == "__main__":
    console.run(main)
