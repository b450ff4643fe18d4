"""A trained network on disk: model.safetensors, with its config's hash, classes and data in the metadata."""

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from distracted.errors import WeightsError, first_line
from distracted.files import atomic_path
from distracted.models.network import Network, build_network
from distracted.models.weights import TRAINED_ON, StateDict, Weights
from distracted.schema import RunConfig


def save_network(path: Path, network: Network, config: RunConfig, classes: Sequence[str]) -> None:
    """Write all tensors of a network, heads included.

    Args:
        config: Resolved; its hash goes into the metadata.
        classes: In the order of the network's outputs.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        write_tensors(temporary, state, _metadata(config.hash, config, classes))


def write_tensors(path: Path, tensors: StateDict, metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: disk full or not writable; the library's own SafetensorError is converted.
    """
    try:
        path.touch()
        mode = path.stat().st_mode  # follows the umask; the library would restrict the file to its owner
        save_file(tensors, path, metadata=metadata)
        _sort_metadata(path)
        with suppress(OSError):  # some mounts have no modes
            path.chmod(mode)
    except SafetensorError as error:
        if (match := re.search(r"os error (\d+)", str(error))) is None:
            raise
        number = int(match[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file in place: the library writes it in another order each time.

    The header is its length, as 8 bytes, and JSON, padded with spaces.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


def load_network(path: Path, config: RunConfig, *, config_hash: str, classes: Sequence[str]) -> Network:
    """Build a network from its config and load its tensors; no pretrained weights are needed.

    Args:
        config: Resolved, as the network was trained.
        config_hash: Expected hash, from the run's manifest. A config of an older schema, completed with
            today's defaults, may hash differently.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        WeightsError: the file is missing, unreadable, or belongs to another config, other classes or other
            data, or its tensors do not fit.
        OSError, MemoryError: it cannot be read now; it may be whole.
    """
    again = "FORCE=1 trains the fold again"
    if not path.is_file():
        raise WeightsError(f"{path}: no such file: the trained network is gone; restore it, or {again}")
    path.open("rb").close()  # the reader says of whatever it cannot open that it does not exist
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        state = load_file(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # on damaged files the reader raises many types
        raise WeightsError(f"{path}: not a readable network ({first_line(error)}); {again}") from error
    for key, value in _metadata(config_hash, config, classes).items():
        if metadata.get(key) != value:
            problem = f"its {key} is {metadata.get(key)}, expected {value}"
            raise WeightsError(f"{path}: not this fold's network: {problem}; {again}")
    network = build_network(config.model, Weights("none"), num_classes=len(classes))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise WeightsError(f"{path}: its tensors do not fit {config.model.backbone} ({problem})") from error
    return network.eval()


def _metadata(config_hash: str, config: RunConfig, classes: Sequence[str]) -> dict[str, str]:
    names = json.dumps(list(classes))
    return {"config_hash": config_hash, "classes": names, TRAINED_ON: config.data.name}
