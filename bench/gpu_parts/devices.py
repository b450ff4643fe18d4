"""Part `device`: which device is found, what is said of it, and which precision is chosen."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from distracted.cores import usable_cores
from distracted.errors import ConfigError
from distracted.inference.cards import describe, has_card, sees_cuda
from distracted.inference.device import DTYPES, find_device, find_precision
from distracted.predictions.provenance import package_versions
from gpu_parts.apart import Apart
from gpu_parts.clock import rate
from gpu_parts.place import Place, fresh, logged
from gpu_parts.rows import Row, judged, measured, skipped

_DINOV3 = "vit_base_patch16_dinov3.lvd1689m"
_SIDE = 4096  # of the matrices whose product is timed
_NEARLY = 0.8  # of the fastest precision's rate: what the chosen one must reach


def describe_machine() -> Iterator[dict[str, Any]]:
    """The device that `auto` finds, the cards, and versions; for a process of its own: it uses the cards."""
    cards: list[dict[str, Any]] = []
    if sees_cuda():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            memory, capability = round(card.total_memory / 2**30, 1), f"{card.major}.{card.minor}"
            cards.append({"name": card.name, "memory_gb": memory, "capability": capability})
    with logged() as lines:
        device = find_device("auto").type
    yield {
        "device": device,
        "warnings": lines,
        "cards": cards,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **package_versions(),
    }


def _driver() -> str:
    """The NVIDIA driver's version; "" without one."""
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return ""


def check_device(place: Place) -> Iterator[Row]:
    """The device, its messages, and the precision of the card and the model."""
    device = find_device(place.device)
    yield _found(os.environ.get("CUDA_VISIBLE_DEVICES"))
    yield _training_line(place)
    yield from _wrong_names(device)
    yield from _idle_card(place)
    yield from _precision(device)


def _found(visible: str | None) -> Row:
    """The device that `auto` finds: a card, if there is one that is not hidden on purpose."""
    with logged() as lines:
        device = find_device("auto")
    seen = "; ".join([describe(device), *lines])
    if has_card() and device.type != "cuda" and visible in ("", "-1"):
        return skipped("runtime.device=auto", f"CUDA_VISIBLE_DEVICES={visible} hides the card; {seen}")
    expected = "an NVIDIA card is used" if has_card() else "there is no NVIDIA card"
    return judged("runtime.device=auto", seen, expected, device.type == "cuda" or not has_card())


def _training_line(place: Place) -> Row:
    fresh(place.folder / "line")
    _, lines = place.train("line", "resnet50", *tiny(place), "phases.scratch.epochs=1")
    said = next((line for line in lines if " on " in line and "batches of" in line), "nothing")
    parts = [describe(find_device(place.device)), "loader worker", "batches of"]
    expected = "device, precision, workers and batch size"
    return judged("the line of a training", said, expected, all(part in said for part in parts))


def tiny(place: Place) -> list[str]:
    """Overrides for the smallest network, where only the code around it is checked."""
    return ["model.backbone=test_resnet", f"model.image_size={32 if place.is_short else 64}"]


def _wrong_names(device: torch.device) -> Iterator[Row]:
    """A device that this machine lacks is an error with the remedy."""
    names = {"cuda:99": "the number of GPUs here is"} if device.type == "cuda" else {"cuda": "; "}
    for name, remedy in names.items():
        try:
            said = f"{find_device(name)} is used"
        except ConfigError as error:
            said = str(error)
        yield judged(f"runtime.device={name}", said, "an error with the remedy", remedy in said)


def _idle_card(place: Place) -> Iterator[Row]:
    what = "a card that CUDA hides"
    if not has_card():
        yield skipped(what, "needs an NVIDIA card; tests/inference/test_device.py has it simulated")
        return
    [(device, lines)] = Apart(_find_hidden).results(60.0)
    right = device == "cpu" and any("an NVIDIA card is idle" in line for line in lines)
    yield judged(what, f"{device}; {'; '.join(lines)}", "a warning that the card is idle, and the CPU", right)


def _find_hidden() -> Iterator[tuple[str, list[str]]]:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with logged() as lines:
        yield find_device("auto").type, lines


def _precision(device: torch.device) -> Iterator[Row]:
    chosen = find_precision("auto", device, "resnet50")
    if device.type == "cuda":
        speeds = {name: _product_rate(name, device) for name in DTYPES}
        text = ", ".join(f"{name} {speed:.3g}" for name, speed in speeds.items())
        right = speeds[chosen] >= _NEARLY * max(speeds.values())
        value = f"{chosen} (TFLOP/s of a matrix product: {text})"
        yield judged("training.precision=auto", value, "the fastest, or nearly", right, tflops=speeds)
    else:
        yield judged("training.precision=auto", chosen, "fp32 off CUDA", chosen == "fp32")
    dinov3 = find_precision("auto", device, _DINOV3)
    yield judged("the same for DINOv3", dinov3, "bf16 or fp32, never fp16", dinov3 != "fp16")
    try:
        said = f"{find_precision('fp16', device, _DINOV3)} is used"
    except ConfigError as error:
        said = str(error)
    yield judged("training.precision=fp16 for DINOv3", said, "an error", "expected auto" in said)
    if device.type == "cuda":
        yield measured("TF32 in products", str(torch.backends.cuda.matmul.allow_tf32))


def _product_rate(name: str, device: torch.device) -> float:
    """TFLOP/s of a product of matrices in a precision."""
    matrix = torch.randn(_SIDE, _SIDE, device=device).to(DTYPES[name])  # type: ignore[index]

    def multiply() -> int:
        _ = matrix @ matrix
        return 2 * _SIDE**3

    return rate(multiply, device.type, seconds=0.2) / 1e12
