"""Predictions a second on a CPU: ours against eager PyTorch, and both against the peak.

    PYTHONPATH=scripts python bench/speed_predict.py --out cache/bench/predict.json

Every contender sees the same uint8 images and gives log-probabilities, which are compared. Eager PyTorch runs
in a process of its own, as it comes: inference mode, contiguous. Weights are random, BatchNorm's statistics
are those of the images. The peak is what two large matrices multiply at.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

import console
from distracted.config import load_config
from distracted.inference.device import keep_freed_memory
from distracted.inference.forward import Forward
from distracted.models.backbone import find_backbone
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights
from distracted.training.resolve import with_input
from harness import Apart, Timing, save, say_rates, size_setting, take_turns
from markdown_table import say_header, say_row

MODELS = ("efficientnet_lite0", "inception_v3", "resnet50", "vgg16")
BATCH, NUM_CLASSES = 32, 10
EAGER, KEPT, CHANNELS_LAST = "eager PyTorch", "eager, freed memory kept", "eager, that and channels-last"
OURS = "ours, BatchNorm folded"
CPU = torch.device("cpu")


def main(
    models: Annotated[str, typer.Option(help="Names in configs/models.")] = " ".join(MODELS),
    batches: Annotated[int, typer.Option(help="Of 32 images in a round.")] = 2,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 7,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Print a table for each network, and how far from the peak each is."""
    keep_freed_memory()
    peak = measure_peak()
    figures: dict[str, Any] = {"peak_gflops": peak / 1e9}
    rows = []
    for model in models.split():
        ways = [(False, False), (True, False), (True, True)]
        apart = [Apart(make_eager, model, batches, *way) for way in ways]
        timings = take_turns(
            model,
            {
                EAGER: apart[0],
                KEPT: apart[1],
                CHANNELS_LAST: apart[2],
                OURS: make_ours(model, batches),
            },
            repeats=repeats,
        )
        for process in apart:
            process.close()
        off = compare(model)
        flops = count_flops(model)
        say_rates(f"{model}: prediction", timings, unit="images", compared_with=[EAGER])
        best = max(timings, key=lambda timing: timing.rate)
        rows.append([model, f"{flops / 1e9:.2f}", share_of_peak(timings[0], flops, peak), best.name])
        rows[-1] += [share_of_peak(best, flops, peak), f"{off:.1g}"]
        figures[model] = {"timings": timings, "flops": flops, "off": off}
    console.say(f"\npeak: {peak / 1e9:.0f} GFLOP/s\n")
    say_header(["network", "GFLOP an image", "eager of the peak", "fastest", "of the peak", "furthest off"])
    for row in rows:
        say_row(row)
    save(out, figures)


def share_of_peak(timing: Timing, flops: float, peak: float) -> str:
    return f"{timing.rate * flops / peak:.0%}"


def measure_peak() -> float:
    """Floating-point operations a second in a product of large matrices."""
    one, other = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        _ = one @ other
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def make_network(model: str) -> tuple[Network, torch.Tensor]:
    """A network of random weights that predicts something, and a batch of images for it."""
    config = load_config(model=model, data="sample", overrides=[size_setting(model)]).model
    resolved = with_input(config, find_backbone(config.backbone))
    torch.manual_seed(0)
    network = build_network(resolved, Weights("none"), num_classes=NUM_CLASSES)
    size = resolved.image_size
    images = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8)  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.no_grad():
        network.train()(images)
    nn.init.normal_(network.head.classifier.weight, std=0.1)
    return network.eval(), images


def make_eager(model: str, batches: int, keep: bool, channels_last: bool) -> Callable[[], int]:
    """A plain loop over a network, as a user writes it: floats in, softmax out."""
    if keep:
        keep_freed_memory()
    network, images = make_network(model)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)

    def predict() -> int:
        with torch.inference_mode():
            for _ in range(batches):
                inputs = images.permute(0, 3, 1, 2).float().sub(network.mean).div(network.std)
                features = network.trunk(inputs.contiguous(memory_format=layout)).flatten(1)
                network.head(features).log_softmax(1)
        return batches * len(images)

    return predict


def make_ours(model: str, batches: int) -> Callable[[], int]:
    network, images = make_network(model)
    forward = Forward(network, "logits", num_images=10_000, precision="fp32")

    def predict() -> int:
        with torch.no_grad():
            for _ in range(batches):
                forward(images).log_softmax(1)
        return batches * len(images)

    return predict


def compare(model: str) -> float:
    """How far a log-probability is off the network's own."""
    network, images = make_network(model)
    forward = Forward(network, "logits", num_images=10_000, precision="fp32")
    with torch.no_grad():
        ours, expected = forward(images).log_softmax(1), network(images).log_softmax(1)
    return float(np.abs(ours.numpy() - expected.numpy()).max())


def count_flops(model: str) -> float:
    """Floating-point operations of one image."""
    network, images = make_network(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images[:1])
    return float(counter.get_total_flops())


if __name__ == "__main__":
    console.run(main)
