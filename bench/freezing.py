"""Every freezing policy on three different backbones: which tensors change, memory and time of a step.

    PYTHONPATH=scripts python bench/freezing.py [--models "resnet50 convnextv2_tiny eva02_small"] [--batch 32]

For each policy, one training step from random weights on random images: which parameters changed against the
policy, whether a BatchNorm statistic moved, the bytes that autograd keeps for the backward pass, the peak of
the process's memory above its level before the step (Linux), and the step's time. Policies take turns.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

import console
from backbones import build_smallest, take_step
from distracted.config import load_config
from distracted.models.blocks import count_layers, frozen_layers
from distracted.models.network import Network
from distracted.schema import TrainPhase
from markdown_table import say_header, say_row

_REPEATS = 7
#: glibc gives freed memory back at once, so that one step's peak is not hidden in another's leftovers.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def main(
    models: Annotated[
        str, typer.Option(help="Names in configs/models.")
    ] = "resnet50 convnextv2_tiny eva02_small",
    size: Annotated[int, typer.Option(help="Side of the images; the next that fits is taken.")] = 96,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 32,
) -> None:
    """Print a table for each model."""
    if not set(_GIVE_BACK.items()) <= set(os.environ.items()):
        subprocess.run([sys.executable, *sys.argv], env=os.environ | _GIVE_BACK, check=True)
        return
    columns = [
        "model",
        "policy",
        "frozen layers",
        "parameters that learn",
        "others changed",
        "statistics moved",
    ]
    columns += ["stored for the backward pass", "peak memory", "step", "of all layers"]
    say_header(columns)
    for model in models.split():
        _table(model, size, batch)


def _policies(network: Network) -> dict[str, TrainPhase]:
    middle = network.blocks[len(network.blocks) // 2].name
    policies: dict[str, dict[str, object]] = {
        "unfreeze: all": {"unfreeze": "all"},
        "freeze: {layers: 10}": {"freeze": {"layers": 10}},
        f"unfreeze: {{from: {middle}}}": {"unfreeze": {"from": middle}},
        "unfreeze: {layers: 20}": {"unfreeze": {"layers": 20}},
        "unfreeze: {blocks: 2}": {"unfreeze": {"blocks": 2}},
        "unfreeze: gradual, at first": {"unfreeze": "gradual"},
        "unfreeze: head": {"unfreeze": "head"},
    }
    return {
        name: TrainPhase.model_validate({"kind": "train", "epochs": 1, "lr": 1e-3, **settings})
        for name, settings in policies.items()
    }


def _table(model: str, size: int, batch: int) -> None:
    network, size = build_smallest(load_config(model=model, data="sample").model, size)
    torch.manual_seed(0)
    with torch.no_grad():  # some norms start at zero: layers before them get no gradient
        for parameter in network.trunk.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    labels = torch.arange(batch) % 10
    policies = _policies(network)
    frozen = {name: frozen_layers(network.blocks, phase) for name, phase in policies.items()}
    took: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(_REPEATS):
        for name in policies:
            took[name].append(_timed(network, frozen[name], images, labels))
    medians = {name: statistics.median(values) for name, values in took.items()}
    for name in policies:
        wrong, moved, learning = _changes(network, frozen[name], images, labels)
        stored, peak = _memory(network, frozen[name], images, labels)
        cells = [
            f"`{model}`",
            f"`{name}`",
            f"{frozen[name]} of {count_layers(network.blocks)}",
            f"{learning / 1e6:.2f} M",
            str(wrong),
            str(moved),
            f"{stored / 2**20:.0f} MiB",
            f"{peak / 2**20:.0f} MiB",
            f"{medians[name]:.2f} s",
            f"{medians[name] / medians['unfreeze: all']:.0%}",
        ]
        say_row(cells)


def _prepare(
    network: Network, num_frozen: int, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
) -> torch.optim.Optimizer:
    network.zero_grad(set_to_none=True)
    network.freeze_first(num_frozen)
    network.train_learning(batchnorm=False)
    return optimizer([p for p in network.parameters() if p.requires_grad], {"lr": 1e-3})


def _timed(network: Network, num_frozen: int, images: torch.Tensor, labels: torch.Tensor) -> float:
    optimizer = _prepare(network, num_frozen)
    start = time.perf_counter()
    take_step(network, images, labels, optimizer)
    return time.perf_counter() - start


def _changes(
    network: Network, num_frozen: int, images: torch.Tensor, labels: torch.Tensor
) -> tuple[int, int, int]:
    """Number of parameters that changed although frozen or did not although learning, number of statistics
    that moved, and number of learning weights."""
    optimizer = _prepare(network, num_frozen, torch.optim.Adam)  # moves each weight that has a gradient
    before = {name: tensor.clone() for name, tensor in network.trunk.state_dict().items()}
    take_step(network, images, labels, optimizer)
    layers = [layer for block in network.blocks for layer in block.layers]
    learning = {name for layer in layers[num_frozen:] for name in layer}
    changed = {name for name, tensor in network.trunk.state_dict().items() if not tensor.equal(before[name])}
    parameters = dict(network.trunk.named_parameters())
    wrong = (changed & set(parameters)) ^ learning
    size = sum(parameters[name].numel() for name in learning)
    size += sum(p.numel() for p in network.head.parameters())
    return len(wrong), len(changed - set(parameters)), size


def _memory(network: Network, num_frozen: int, images: torch.Tensor, labels: torch.Tensor) -> tuple[int, int]:
    """Bytes that autograd keeps of a forward pass, without weights, and the step's peak above its start."""
    optimizer = _prepare(network, num_frozen)
    known = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(network(images), labels)
    stored = sum(kept.values())
    del loss
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    take_step(network, images, labels, optimizer)
    return stored, _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    console.run(main)
