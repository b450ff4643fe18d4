"""Where two configs differ, in words."""

import json
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

_ORDERED = "phases"  # a part of a config whose order counts
_MOST = 5  # differences that a list names
_LONGEST = 40  # characters of a value that is shown whole
_PART = 37  # characters of a longer one


def list_differences(was: Any, now: Any) -> str:
    """Where two trees of JSON values differ, in one line: "training.seed 0, now 1"; "" if they are equal."""
    changed = _differences(was, now)
    more = f" and {len(changed) - _MOST} more" if len(changed) > _MOST else ""
    return f"{'; '.join(changed[:_MOST])}{more}"


def _differences(was: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        keys = [*was, *(name for name in now if name not in was)]
        inner = [_differences(was.get(name), now.get(name), f"{key}.{name}".lstrip(".")) for name in keys]
        changed = [text for texts in inner for text in texts]
        if not changed and list(was) != list(now) and key.rpartition(".")[2] == _ORDERED:
            return [f"{key} {', '.join(was)}, now {', '.join(now)}"]
        return changed
    if was == now:
        return []
    texts = [json.dumps(value, ensure_ascii=False) for value in (was, now)]
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
    return [f"{key} {', now '.join(_brief(text, same) for text in texts)}"]


def _brief(text: str, same: int) -> str:
    """Shorten a text to the part around the place where it differs from another."""
    if len(text) <= _LONGEST:
        return text
    start = max(0, min(same - _PART // 2, len(text) - _PART))
    end = start + _PART
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"
