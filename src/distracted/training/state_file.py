"""A state as a file: a tree of dicts, lists, values and tensors, with what it belongs to.

A safetensors file: the tensors are its own, all else is JSON in its header, beside a digest of everything.
Nothing in it is ever executed, whoever wrote it.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from distracted.errors import CheckpointError, first_line
from distracted.models.saved import write_tensors

#: What is written grows with the code; another number is another layout, which is not read.
_VERSION = 1

State = dict[str, Any]


def write_state(path: Path, made_for: Mapping[str, Any], state: State) -> None:
    """Write a state: a tree of dicts, lists, JSON values and tensors."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_pack(state, tensors))
    belongs = json.dumps(made_for)
    metadata = {
        "version": str(_VERSION),
        "made_for": belongs,
        "tree": tree,
        "sha256": _digest(tensors, belongs, tree),
    }
    write_tensors(path, tensors, metadata)


def read_state(path: Path) -> tuple[dict[str, Any], State]:
    """Read what a state was made for, and the state.

    Raises:
        CheckpointError: not readable, of another layout, or not the bytes that were written.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata["version"] != str(_VERSION):
                raise CheckpointError(f"its layout is {metadata['version']}, expected {_VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if _digest(tensors, metadata["made_for"], metadata["tree"]) != metadata["sha256"]:
            raise CheckpointError("its bytes are not those that were written")
        made_for, tree = json.loads(metadata["made_for"]), json.loads(metadata["tree"])
        state = _unpack(tree, tensors)
    except FileNotFoundError:
        raise
    except Exception as error:  # garbage makes the reader fail in a dozen ways
        raise CheckpointError(f"{path}: damaged ({first_line(error)})") from error
    if not isinstance(made_for, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path}: damaged (not a state)")
    return made_for, state


def _digest(tensors: Mapping[str, torch.Tensor], *texts: str) -> str:
    digest = sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """A tree as JSON: a tensor becomes its number among `tensors`; keys of mappings may be numbers, too."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _pack(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(inner, tensors) for inner in value]
    return value


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(inner, tensors) for key, inner in value["items"]}
    if isinstance(value, list):
        return [_unpack(inner, tensors) for inner in value]
    return value
