"""Every listed backbone: does the original weights file fit, does it learn, is it exported, how fast is it
(docs/backbones.md).

    PYTHONPATH=scripts python bench/backbones.py --out <folder> [--models "vgg16 resnet50"] [--size 96]

Each model runs in its own process and leaves a JSON file; models with a file are skipped. Weights are random
numbers in the format of their origin: torchvision's network if torchvision has it, else timm's. Networks of
more than 200 million parameters take batches of 2 and few steps.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import timm
import torch
import torchvision
import typer
from safetensors.torch import save_file
from torch import nn

import console
from distracted.config import load_config
from distracted.errors import ConfigError
from distracted.files import write_json
from distracted.models.backbone import find_backbone
from distracted.models.blocks import count_layers
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights, find_weights
from distracted.paths import CONFIGS
from distracted.postprocess.export import run_onnx, to_onnx
from distracted.schema import ModelConfig
from markdown_table import say_header, say_row

#: timm's names of networks that torchvision has under another name.
_TORCHVISION = {"mobilenetv2_100": "mobilenet_v2"}
_MEAN, _STD = (
    torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
_BATCH, _STEPS, _REPEATS = 16, 36, 5
_LARGE, _LARGE_BATCH, _LARGE_STEPS = 200e6, 2, 6  # parameters, and what such a network takes


def main(
    out: Annotated[Path, typer.Option(help="A folder for the figures.")],
    models: Annotated[str, typer.Option(help="Names in configs/models; by default all.")] = "",
    size: Annotated[int, typer.Option(help="Side of the images; the next that fits is taken.")] = 96,
    speed: Annotated[bool, typer.Option(help="Measure speed, too: on an idle machine.")] = True,
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure each model in a process of its own and print the table."""
    if one:
        write_json(out / f"{one}.json", _measure(one, size, speed=speed))
        return
    names = models.split() or sorted(path.stem for path in (CONFIGS / "models").glob("*.yaml"))
    for name in names:
        if not (out / f"{name}.json").is_file():
            command = [sys.executable, __file__, "--out", str(out), "--one", name, "--size", str(size)]
            command += [] if speed else ["--no-speed"]
            subprocess.run(command, check=True)
            console.say(f"{name}: done")
    _show([json.loads((out / f"{name}.json").read_text()) for name in names])


def _measure(name: str, size: int, *, speed: bool) -> dict[str, Any]:
    model = load_config(model=name, data="sample").model
    backbone = find_backbone(model.backbone)
    with torch.device("meta"):  # shapes without numbers
        whole, _ = build_smallest(model, backbone.image_size)
    parameters = sum(parameter.numel() for parameter in whole.trunk.parameters())
    batch, steps = (_LARGE_BATCH, _LARGE_STEPS) if parameters > _LARGE else (_BATCH, _STEPS)
    network, size = build_smallest(model, min(size, backbone.image_size))
    torch.manual_seed(0)
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    labels = torch.arange(batch) % 10
    row: dict[str, Any] = {
        "model": name,
        "backbone": model.backbone,
        "own_size": backbone.image_size,
        "size": size,
        "parameters": parameters,
        "batch": batch,
        "blocks": [block.name for block in network.blocks],
        "layers": count_layers(network.blocks),
    }
    if backbone.source:
        row |= _origin(model, size)
    row["exported_difference"] = _export(network, images)
    row |= _learn(network, images, labels, steps)
    return row | (_speed(network, images, labels) if speed else {})


def build_smallest(model: ModelConfig, size: int) -> tuple[Network, int]:
    """Build the network at this image size or the next one that it takes."""
    for at in range(size, 2 * size, 2):
        try:
            sized = model.model_copy(update={"image_size": at})
            return build_network(sized, Weights("none"), num_classes=10), at
        except ConfigError:
            continue
    raise AssertionError(model.backbone)


@torch.no_grad()
def _origin(model: ModelConfig, size: int) -> dict[str, Any]:
    """Load a file in the origin's format and compare features with the origin's network."""
    theirs = _TORCHVISION.get(model.backbone, model.backbone)
    torch.manual_seed(1)
    in_torchvision = theirs in torchvision.models.list_models()
    reference = _torchvision(theirs) if in_torchvision else _timm(model.backbone, size)
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.2, 0.6)
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("weights.pth" if in_torchvision else "weights.safetensors")
        state = {name: tensor.contiguous() for name, tensor in reference.state_dict().items()}
        torch.save(state, path) if in_torchvision else save_file(state, path)
        weights = find_weights(model.backbone, str(path), source=None)
        network = build_network(model.model_copy(update={"image_size": size}), weights, num_classes=10).eval()
    images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    if not in_torchvision:
        x = (images.permute(0, 3, 1, 2) - network.mean) / network.std
        expected = reference.forward_head(reference.forward_features(x), pre_logits=True)
    elif theirs.startswith("vgg"):
        expected = reference.features((pixels - _MEAN) / _STD).mean((2, 3))
    else:
        setattr(reference, "fc" if hasattr(reference, "fc") else "classifier", nn.Identity())
        expected = reference((pixels - _MEAN) / _STD)
    difference = float((network.features(images) - expected).abs().max())
    return {
        "origin": "torchvision" if in_torchvision else "timm",
        "difference": difference,
        "largest": float(expected.abs().max()),
    }


def _torchvision(name: str) -> Any:
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: Any = torchvision.models.get_model(name, weights=None, **extra)
    if extra:
        network.transform_input = True  # as torchvision sets it with its ImageNet weights
    return network.eval()


def _timm(name: str, size: int) -> Any:
    extra = {"img_size": size} if find_backbone(name).fixed_size else {}
    return timm.create_model(name, **extra).eval()


@torch.no_grad()
def _export(network: Network, images: torch.Tensor) -> float:
    """Largest difference of a log-probability between ONNX Runtime and torch, from random weights."""
    expected = network.eval()(images).log_softmax(1)
    return float((run_onnx(to_onnx(network, images[:2]))(images).log_softmax(1) - expected).abs().max())


def _learn(network: Network, images: torch.Tensor, labels: torch.Tensor, steps: int) -> dict[str, Any]:
    """Take some steps on one batch, from random weights, with all layers learning."""
    network.freeze_first(0)
    network.train_learning(batchnorm=True)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-4)
    losses = []
    for _ in range(steps):
        losses.append(float(take_step(network, images, labels, optimizer)))
    return {"steps": steps, "first_loss": losses[0], "last_loss": min(losses[-5:])}


def take_step(
    network: Network, images: torch.Tensor, labels: torch.Tensor, optimizer: torch.optim.Optimizer
) -> torch.Tensor:
    optimizer.zero_grad(set_to_none=True)
    weighted = network.weighted_logits(images)
    losses = [nn.functional.cross_entropy(logits, labels) for _, logits in weighted]
    total = torch.stack([weight * loss for (weight, _), loss in zip(weighted, losses, strict=True)]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return losses[0].detach()


def _speed(network: Network, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Images per second of a forward pass, a step with a frozen base and a step of all layers, in turns."""

    @torch.no_grad()
    def forward() -> None:
        network.eval()(images)

    def training(frozen: int) -> Callable[[], None]:
        def step() -> None:
            network.freeze_first(frozen)
            network.train_learning(batchnorm=False)
            learning = [p for p in network.parameters() if p.requires_grad]
            take_step(network, images, labels, torch.optim.SGD(learning, lr=0.0))

        return step

    turns = {"forward": forward, "frozen": training(count_layers(network.blocks)), "all": training(0)}
    took: dict[str, list[float]] = {name: [] for name in turns}
    for repeat in range(_REPEATS + 1):
        for name, turn in turns.items():
            start = time.perf_counter()
            turn()
            if repeat:  # the first round warms up
                took[name].append(time.perf_counter() - start)
    return {f"{name}_per_second": len(images) / statistics.median(values) for name, values in took.items()}


def _show(rows: list[dict[str, Any]]) -> None:
    columns = ["model", "backbone", "parameters", "own pixels", "blocks", "layers"]
    columns += ["origin's file: features differ by", "ONNX differs by", "loss", "measured at"]
    columns += ["forward img/s", "base frozen img/s", "all layers img/s"]
    say_header(columns)
    for row in rows:
        origin = f"{row['origin']}: {row['difference']:.0e}" if "origin" in row else "none"
        cells = [
            f"`{row['model']}`",
            f"`{row['backbone']}`",
            f"{row['parameters'] / 1e6:.1f} M",
            str(row["own_size"]),
            str(len(row["blocks"])),
            str(row["layers"]),
            origin,
            f"{row['exported_difference']:.0e}",
            f"{row['first_loss']:.2f} to {row['last_loss']:.2f} in {row['steps']} steps",
            f"{row['batch']} of {row['size']} pixels",
            *(_rate(row, key) for key in ("forward", "frozen", "all")),
        ]
        say_row(cells)


def _rate(row: dict[str, Any], key: str) -> str:
    rate = row.get(f"{key}_per_second")
    return "" if rate is None else f"{rate:.0f}"


if __name__ == "__main__":
    console.run(main)
