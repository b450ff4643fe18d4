"""The GPUs of this machine by the names that CUDA_VISIBLE_DEVICES takes, and which of them work.

A job sees its own GPU only: CUDA shows a process one MIG slice at most, and a job that sees one card
cannot allocate on another.
"""

import logging
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile

import torch

from distracted.errors import ConfigError
from distracted.inference.cards import list_gpus, sees_cuda
from distracted.inference.device import check_index, find_device, find_precision
from distracted.schema import RunConfig

_log = logging.getLogger(__name__)

_AT_ONCE = 8  # processes that try a card; each imports torch
_SECONDS = 300.0  # importing torch from a network's file system can take minutes
_TRY = """
import sys
from distracted.errors import DistractedError
from distracted.inference.device import find_device
try:
    find_device("cuda")
except DistractedError as error:
    sys.exit(str(error))
"""


def find_cards(visible: str | None) -> list[str]:
    """The names of the GPUs that this machine gives to this process, working or not.

    Args:
        visible: CUDA_VISIBLE_DEVICES, or None if it is not set.
    """
    num_seen = torch.cuda.device_count() if sees_cuda() else 0
    return card_names(visible, num_seen=num_seen, listing=list_gpus() if visible is None else "")


def card_names(visible: str | None, *, num_seen: int, listing: str) -> list[str]:
    """The names of GPUs: indices, or UUIDs of GPUs or of MIG slices.

    Args:
        visible: As for `find_cards`; CUDA ignores its first invalid entry and all that follow.
        num_seen: Number of GPUs that CUDA shows this process; of MIG slices it shows one.
        listing: What `nvidia-smi -L` prints.
    """
    if visible is not None:
        entries = [entry.strip() for entry in visible.split(",")]
        if entries[0].startswith("MIG-"):
            return list(dict.fromkeys(takewhile(lambda entry: entry.startswith("MIG-"), entries)))
        return entries[:num_seen]
    found: list[str] = []
    for line in listing.splitlines():
        if match := re.search(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)", line):
            if line.startswith(" ") and found and found[-1].startswith("GPU-"):
                found.pop()  # the GPU that is cut into the slices below it
            found.append(match[1])
    if any(name.startswith("MIG-") for name in found):
        return found
    return [str(index) for index in range(num_seen)]


def try_cards(names: Sequence[str], *, python: Sequence[str] = (sys.executable, "-P")) -> dict[str, str]:
    """Run a kernel on each GPU, in a process of its own; returns why it failed by name, "" where it did not.

    A kernel leaves a context of some 300 MB on its GPU until the process ends, so not in this one.
    """

    def why(name: str) -> str:
        command = ["env", f"CUDA_VISIBLE_DEVICES={name}", *python, "-c", _TRY]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            return f"it does not answer within {_SECONDS:.0f} seconds"
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return said[-1].removeprefix("runtime.device=cuda: ") if done.returncode else ""

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(names, pool.map(why, names), strict=True))


def grid_cards(visible: str | None, configs: Collection[RunConfig]) -> dict[str, int]:
    """The GPUs that work, for a grid's jobs; with each its index among those that this process sees.

    If all runs on a GPU name one (`runtime.device=cuda:1`), only those named.

    Raises:
        ConfigError: there is no such GPU.
    """
    asked = {config.runtime.device for config in configs if config.runtime.device not in ("cpu", "mps")}
    names = find_cards(visible)
    if not asked or not names:
        return {}
    chosen = names
    for device in asked - {"auto", "cuda"}:
        if not re.fullmatch(r"cuda:\d+", device):
            find_device(device)  # says what is expected
        check_index(int(device.removeprefix("cuda:")), len(names))
    if not asked & {"auto", "cuda"}:
        chosen = [name for index, name in enumerate(names) if f"cuda:{index}" in asked]
    num_seen = torch.cuda.device_count()  # one, of any number of MIG slices
    return {name: min(names.index(name), num_seen - 1) for name in working(try_cards(chosen))}


def job_device(config: RunConfig, cards: Mapping[str, int]) -> torch.device | None:
    """The device of a run's jobs in a grid on this machine, for this process; None: as `runtime.device` says.

    Args:
        cards: What `grid_cards` returns.

    Raises:
        ConfigError: `auto` would give the run's folds different precisions.
    """
    if not cards:
        return None
    if config.runtime.device in ("cpu", "mps") or config.runtime.num_gpus == 0:
        return torch.device("cpu")
    devices = [torch.device("cuda", index) for index in cards.values()]
    asked, backbone = config.training.precision, config.model.backbone
    precisions = sorted({find_precision(asked, device, backbone) for device in devices})
    if len(precisions) > 1:
        raise ConfigError(
            f"training.precision=auto: it differs between the GPUs here ({' and '.join(precisions)}), and a "
            "run has one; name it (SET='training.precision=fp32'), or choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    return devices[0]


def team_cards(size: int, device: str, visible: str | None) -> list[str]:
    """The GPUs of a fold that several processes train together, one each; none where they share the CPU.

    Args:
        device: `runtime.device`.
        visible: As for `find_cards`.

    Raises:
        ConfigError: there are too few.
    """
    if device in ("cpu", "mps"):
        return []
    if device not in ("auto", "cuda"):
        raise ConfigError(f"GPUS={size} with runtime.device={device}: expected auto, cuda or cpu")
    names = find_cards(visible)[: torch.cuda.device_count()]  # NCCL takes no MIG slices
    tried = try_cards(names)
    if all(tried.values()):
        find_device(device)  # says why none works: an error, or with auto a warning
    return choose_team(size, device, tried)


def choose_team(size: int, device: str, tried: Mapping[str, str]) -> list[str]:
    """As `team_cards`, of GPUs that were tried."""
    names = [name for name, why in tried.items() if not why]
    if len(names) >= size:
        return working(tried)[:size]
    if not names and device == "auto":
        return []
    reasons = "".join(f"; GPU {name}: {why}" for name, why in tried.items() if why)
    raise ConfigError(
        f"GPUS={size}: the number of usable GPUs here is {len(names)}{reasons}; expected at most that, or "
        f"SET='runtime.device=cpu' for {size} processes that share the CPU"
    )


def working(tried: Mapping[str, str]) -> list[str]:
    """The GPUs that work, of those that were tried; warns of the others."""
    names = [name for name, why in tried.items() if not why]
    if names:  # else `find_device` says it
        for name, why in tried.items():
            if why:
                _log.warning("GPU %s is not used: %s", name, why)
    return names
