"""Finds the state_dict in a weights file, whatever it is wrapped in, and the prefix of its names."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from distracted.errors import WeightsError, first_line
from distracted.models.inert import Inert
from distracted.models.torch_files import Stored, as_mapping, as_tensor
from distracted.models.weight_files import read_tree, refusal

StateDict = dict[str, torch.Tensor]

_DEEPEST = 4  # levels of wrapping that are searched
_NEARLY = 0.9  # of the largest state_dict's tensors: as good a candidate
_WORTH_NAMING = 0.1  # of them: named beside the chosen one
#: Words in the name of averaged weights, which their trainers evaluate; preferred to the last ones.
_AVERAGED = {"ema", "averaged", "swa", "teacher"}
#: What wrappers of PyTorch put into the names of tensors.
_WRAPPERS = re.compile(
    r"^(?:module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
#: Where trainers write the name of the network.
_ARCHITECTURE = ("arch", "architecture", "model_name", "backbone", "model")
_TOP = "top"
_PLAIN = {_TOP, "state_dict", "model", "state_dict.model"}  # taken since the first version; not in the origin
_SAVE = "torch.save(network.state_dict(), <file>) saves one that is"
_NUM_SHOWN = 8  # names that an error shows


@dataclass(frozen=True)
class StateFile:
    """The state_dict of a weights file.

    Attributes:
        path: The file.
        tensors: By name, without what wrappers add.
        chosen: Where in the file they lie ("state_dict_ema"), "top" if in no mapping.
        others: Where further state_dicts of the file lie.
        networks: Names of timm's networks in the file and in the options that trainers save in it.
        hints: Whole networks in it, by their class.
    """

    path: Path
    tensors: Mapping[str, Stored]
    chosen: str
    others: tuple[str, ...]
    networks: tuple[str, ...]
    hints: tuple[str, ...]

    @property
    def origin(self) -> str:
        """The file's name, and which of its state_dicts was taken where that is not the usual one."""
        name = self.path.name.encode(errors="backslashreplace").decode()  # configs are UTF-8
        return f"{name}{'' if self.chosen in _PLAIN else f'[{self.chosen}]'}"

    def read(self) -> StateDict:
        """The tensors' values.

        Raises:
            WeightsError: damaged, or a tensor that holds no plain values.
        """
        state = {}
        for name, tensor in self.tensors.items():
            try:
                value = tensor.read()
                has_8_bits = value.is_floating_point() and value.dtype.itemsize == 1
                state[name] = value.float() if has_8_bits else value  # few operations take 8 bits
            except Exception as error:  # on damaged files the readers raise many types
                raise refusal(self.path, f"{name} {first_line(error)}") from error
        return state


def open_state_dict(path: Path, *, part: str = "") -> StateFile:
    """Find a file's state_dict by its structure; values are not read yet.

    A file may hold several. The largest counts, and of those of about that size an average of weights (EMA).

    Args:
        part: Where it lies in the file ("state_dict"), in place of that choice.

    Raises:
        WeightsError: unreadable, or without a mapping of names to tensors; says what the file holds.
    """
    try:
        return _open(path, part)
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle may hold anything
        raise refusal(path, f"damaged ({type(error).__name__}: {first_line(error)})") from error


def _open(path: Path, part: str) -> StateFile:
    tree = read_tree(path)
    found: dict[str, dict[str, Stored]] = {}
    averages: dict[str, str] = {}  # places of averaged weights, by that of the state_dict with the last ones
    for where, tensors in _state_dicts(tree, "", _DEEPEST, set()):
        found[where or _TOP] = names = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
        if group := _averaged_group(names):
            averages[where or _TOP] = average = f"{where}.{group}".strip(".")
            found[average] = {
                name.removeprefix(group): names[name] for name in names if name.startswith(group)
            }
    if not found:
        raise refusal(path, f"{_describe(tree)}; {_SAVE}")
    if part and part not in found:
        raise WeightsError(f"{path}: it holds no state_dict {part!r}; there are: {', '.join(found)}")
    most = max(len(tensors) for tensors in found.values())
    large = [where for where, tensors in found.items() if len(tensors) >= _NEARLY * most]
    usual = next(filter(_is_averaged, large), large[0])
    chosen = part or averages.get(usual, usual)
    others = [w for w, tensors in found.items() if w != chosen and len(tensors) >= _WORTH_NAMING * most]
    networks, hints = (tuple(dict.fromkeys(texts)) for texts in (_networks(tree), _hints(tree)))
    return StateFile(path, found[chosen], chosen, tuple(others), networks, hints)


def _state_dicts(
    value: Any, where: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, dict[str, Stored]]]:
    """All mappings of names to tensors, with their place; an optimizer's state may have the same names."""
    mapping = as_mapping(value)
    if mapping is None or depth < 0 or id(value) in seen:
        return
    seen.add(id(value))
    tensors, inner = {}, {}
    for key, item in mapping.items():
        if isinstance(key, str) and not key.lower().startswith("optim"):
            tensor = as_tensor(item)
            if tensor is None:
                inner[key] = item
            else:
                tensors[key] = tensor
    if tensors:
        yield where, tensors
    for key, item in inner.items():
        yield from _state_dicts(item, f"{where}.{key}".lstrip("."), depth - 1, seen)


def _is_averaged(name: str) -> bool:
    return bool(_AVERAGED & set(re.split(r"[^a-z]+", name.lower())))


def _averaged_group(names: Collection[str]) -> str:
    """The prefix of averaged weights within a state_dict that also holds the last ones, or ""."""
    groups: dict[str, set[str]] = {}
    for name in names:
        first, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(first, set()).add(rest)
    for first in filter(_is_averaged, groups):
        own = groups[first]
        for other, names_in in groups.items():
            if other != first and len(own & names_in) >= _NEARLY * max(len(own), len(names_in)):
                return f"{first}."
    return ""


def prefixes(names: Collection[str], expected: Collection[str]) -> list[str]:
    """Prefixes under which a network's tensors may lie in a state_dict, the likeliest first.

    Args:
        expected: The names of the network's tensors.
    """
    known, counts = set(expected), Counter[str]()
    for name in names:
        parts = name.split(".")
        counts.update(".".join(parts[:n]) + "." for n in range(1, len(parts)) if ".".join(parts[n:]) in known)
    likely = ["", *(prefix for prefix, _ in counts.most_common(2))]
    prefix, inside = "", list(names)
    while inside:  # what most names begin with: their own scheme of names may need a conversion
        first, count = Counter(name.partition(".")[0] for name in inside).most_common(1)[0]
        prefix += f"{first}."
        inside = [name.removeprefix(f"{first}.") for name in inside if name.startswith(f"{first}.")]
        if 2 * count <= len(names) or not inside:
            break
        likely.append(prefix)
    return list(dict.fromkeys(likely))


def _describe(tree: Any) -> str:
    """What a file without a state_dict holds."""
    mapping = as_mapping(tree)
    if mapping is None:
        return f"it holds {_kind(tree)}"
    keys = [f"{key} ({_kind(value)})" for key, value in list(mapping.items())[:_NUM_SHOWN]]
    return f"it holds no tensors under names, but {', '.join(keys) or 'nothing'}"


def _kind(value: Any) -> str:
    if as_tensor(value) is not None:
        return "a tensor"
    if as_mapping(value) is not None:
        return "dict"
    kind = value if isinstance(value, type) else type(value)
    return f"an object of {kind.name}: code in it is never run" if issubclass(kind, Inert) else kind.__name__


def _networks(tree: Any) -> Iterator[str]:
    """Names of networks in the file and in the options that trainers save in it."""
    for holder in (tree, *(as_mapping(tree) or {}).values()):
        options = as_mapping(holder) or (holder.state if isinstance(holder, Inert) else None)
        if isinstance(options, Mapping):
            for key in _ARCHITECTURE:
                if isinstance(text := options.get(key), str) and timm.is_model(text):
                    yield text


def _hints(tree: Any) -> Iterator[str]:
    """The whole networks in a file, in words."""
    for value in (as_mapping(tree) or {}).values():
        if isinstance(value, Inert) and isinstance(value.state, Mapping) and "_modules" in value.state:
            yield f"it holds a whole network, of {value.name}, whose code is never run"
