"""A trained network on disk: model.safetensors, which says what it was trained by and on."""

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
        config: Resolved; its hash is kept beside the tensors.
        classes: In the order of the network's outputs.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        write_tensors(temporary, state, _metadata(config.hash, config, classes))


def write_tensors(path: Path, tensors: StateDict, metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: no room, or no right to write; the library raises an error of its own.
    """
    try:
        path.touch()
        mode = path.stat().st_mode  # what other files get: the library leaves its own to its owner alone
        save_file(tensors, path, metadata=metadata)
        with suppress(OSError):  # on a mount that knows no modes
            path.chmod(mode)
    except SafetensorError as error:
        if (found := re.search(r"os error (\d+)", str(error))) is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def load_network(path: Path, config: RunConfig, *, config_hash: str, classes: Sequence[str]) -> Network:
    """Build a network from its config and fill it from the file: nothing pretrained is looked for.

    Args:
        config: Resolved, as it was trained.
        config_hash: What the run's manifest says that it is; a config of an older schema, completed with
            today's defaults, may hash otherwise.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        WeightsError: no file, not readable, of another config, other classes or other data, or its tensors
            do not fit.
    """
    again = "FORCE=1 trains the fold again"
    if not path.is_file():
        raise WeightsError(f"{path}: no such file: the trained network is gone; restore it, or {again}")
    try:
        with safe_open(path, "pt") as file:
            found: dict[str, str] = file.metadata() or {}
        state = load_file(path)
    except Exception as error:  # garbage makes the reader fail in a dozen ways
        raise WeightsError(f"{path}: not a readable network ({first_line(error)}); {again}") from error
    for key, value in _metadata(config_hash, config, classes).items():
        if found.get(key) != value:
            raise WeightsError(
                f"{path}: not this fold's network: its {key} is {found.get(key)}, expected {value}; {again}"
            )
    network = build_network(config.model, Weights("none"), num_classes=len(classes))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise WeightsError(f"{path}: its tensors do not fit {config.model.backbone} ({problem})") from error
    return network.eval()


def _metadata(config_hash: str, config: RunConfig, classes: Sequence[str]) -> dict[str, str]:
    return {
        "config_hash": config_hash,
        "classes": json.dumps(list(classes)),
        TRAINED_ON: config.data.name,
    }
