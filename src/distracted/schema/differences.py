"""Where two configs differ, in words."""

import json
from collections.abc import Mapping
from typing import Any

_MOST = 5  # differences that a list names


def list_differences(was: Any, now: Any) -> str:
    """Where two trees of JSON values differ, in one line: "training.seed 0, now 1"; "" if they are equal."""
    changed = differences(was, now)
    more = f" and {len(changed) - _MOST} more" if len(changed) > _MOST else ""
    return f"{'; '.join(changed[:_MOST])}{more}"


def differences(was: Any, now: Any, key: str = "") -> list[str]:
    """Where two trees of JSON values differ, a text a leaf: `training.seed 0, now 1`."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        keys = [*was, *(name for name in now if name not in was)]
        inner = [differences(was.get(name), now.get(name), f"{key}.{name}".lstrip(".")) for name in keys]
        changed = [text for texts in inner for text in texts]
        if not changed and list(was) != list(now):  # the order of phases is part of a config
            return [f"{key} {', '.join(was)}, now {', '.join(now)}"]
        return changed
    return [] if was == now else [f"{key} {_brief(was)}, now {_brief(now)}"]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
