"""Typed sections from plain values; pydantic's errors as messages that name the key as a user types it."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from distracted.errors import ConfigError
from distracted.schema import FeaturesPhase, HeadPhase, RunConfig, Section, TrainPhase

_S = TypeVar("_S", bound=Section)

_KINDS: dict[str, type[Section]] = {"features": FeaturesPhase, "head": HeadPhase, "train": TrainPhase}


def parse_section(kind: type[_S], content: Mapping[str, Any], where: str, prefix: str = "") -> _S:
    """Check plain values against a section.

    Args:
        where: The files that the values come from, for the message.
        prefix: The section's key, with a dot, where it is not the whole config.

    Raises:
        ConfigError: all that is wrong, in one line.
    """
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
        return f"unknown key {key}; {f'nearest: {near[0]}' if near else 'docs/config.md lists the keys'}"
    if kind == "union_tag_not_found":
        phases = [name for name, at in content["phases"].items() if isinstance(at, dict) and "kind" in at]
        hint = "(a new one says its kind: features, head or train)"
        return f"unknown phase {key}; there are {', '.join(phases)} {hint}"
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
