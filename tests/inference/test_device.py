"""The device, precision and loader processes that `auto` becomes, and the messages about unused cards.

No test here has a card: torch's answers are those of its documentation and source.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distracted.cores import usable_cores
from distracted.errors import ConfigError
from distracted.inference import device as device_module
from distracted.inference.cards import describe, explain, has_card
from distracted.inference.device import (
    fast_precision,
    find_device,
    find_precision,
    find_workers,
    workers_that_fit,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
NO_KERNEL = (
    "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be"
)
P100 = SimpleNamespace(name="Tesla P100-PCIE-16GB", major=6, minor=0, total_memory=17_059_545_088)

Cards = Callable[..., list[object]]


@pytest.fixture(autouse=True)
def forget_the_best_device() -> Iterator[None]:
    device_module._best_device.cache_clear()
    yield
    device_module._best_device.cache_clear()


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Cards:
    """A function that gives torch some cards, whose first kernel or set-up may fail; returns the calls."""

    def pretend(count: int, *, kernel: str = "", init: str = "") -> list[object]:
        calls: list[object] = []
        ones = torch.ones

        def is_available() -> bool:
            if init:  # as torch does with an old driver
                warnings.warn(f"CUDA initialization: {init}", stacklevel=1)
            return count > 0

        def start() -> None:
            if init:
                raise RuntimeError(init)

        def on_cpu(*shape: int, device: torch.device) -> torch.Tensor:
            calls.append(device)
            if kernel and device.type == "cuda":
                raise RuntimeError(kernel)
            return ones(*shape)

        monkeypatch.setattr(torch.cuda, "is_available", is_available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "init", start)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: P100)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("current", device)))
        monkeypatch.setattr(torch, "ones", on_cpu)
        return calls

    return pretend


def test_a_card_that_computes_is_used(cards: Cards, caplog: pytest.LogCaptureFixture) -> None:
    calls = cards(2)
    assert find_device("auto") == CUDA and find_device("cuda") == CUDA
    assert calls == [CUDA, CUDA] and not caplog.records
    assert describe(CUDA) == "cuda:0 (Tesla P100-PCIE-16GB, 16 GB)"


def test_a_named_card_is_made_the_current_one_before_anything_is_allocated(cards: Cards) -> None:
    calls = cards(2)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    assert calls == [("current", torch.device("cuda", 1)), torch.device("cuda", 1)]
    assert describe(torch.device("cuda", 1)).startswith("cuda:1 (")


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "is 1; expected cuda:0"), (2, "is 2; expected cuda:0 to cuda:1")]
)
def test_a_card_that_does_not_exist_is_an_error_with_their_number(
    cards: Cards, count: int, expected: str
) -> None:
    calls = cards(count)
    with pytest.raises(ConfigError, match=rf"runtime\.device=cuda:{count}: .* {expected}$"):
        find_device(f"cuda:{count}")
    assert calls == []


def test_a_card_without_kernels_is_an_error_or_with_auto_a_warning(
    cards: Cards, caplog: pytest.LogCaptureFixture
) -> None:
    cards(1, kernel=NO_KERNEL)
    why = r"Tesla P100-PCIE-16GB \(compute capability 6\.0\): torch \S+ has no kernels for it; .*CUDA 12\.6"
    with pytest.raises(ConfigError, match=rf"runtime\.device=cuda: {why}"):
        find_device("cuda")
    assert find_device("auto") == CPU and find_device("auto") == CPU
    [warning] = caplog.records  # once in a process
    assert warning.levelno == logging.WARNING
    assert "has no kernels for it" in warning.getMessage() and "The CPU is used" in warning.getMessage()
    assert "\n" not in warning.getMessage()
    caplog.clear()
    assert find_device("cpu") == CPU and not caplog.records


@pytest.mark.parametrize(
    ("init", "reason", "remedy"),
    [
        (TOO_OLD, "driver is too old for torch", "update the driver"),
        (
            "Found no NVIDIA driver on your system. Please check",
            "finds no NVIDIA driver",
            "docker run --gpus all",
        ),
        ("No CUDA GPUs are available", "shows this process no GPU", "CUDA_VISIBLE_DEVICES hides them"),
        ("Torch not compiled with CUDA enabled", "is a build without CUDA", "a build of torch for CUDA"),
        (
            "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
            "Error 802",
            "nvidia-smi",
        ),
    ],
)
def test_an_idle_card_is_said_with_the_reason_and_the_remedy(
    cards: Cards,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    init: str,
    reason: str,
    remedy: str,
) -> None:
    cards(0, init=init)
    monkeypatch.setattr(device_module, "has_card", lambda: True)
    assert find_device("cpu") == CPU and not caplog.records  # the user wants the CPU
    assert find_device("auto") == CPU
    [warning] = caplog.records
    message = warning.getMessage()
    assert warning.levelno == logging.WARNING and "an NVIDIA card is idle" in message
    assert reason in message and remedy in message
    with pytest.raises(ConfigError, match=r"runtime\.device=cuda:0: "):
        find_device("cuda:0")


def test_a_machine_without_a_card_is_told_nothing(
    cards: Cards, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cards(0, init="Found no NVIDIA driver on your system.")
    monkeypatch.setattr(device_module, "has_card", lambda: False)
    assert find_device("auto") == CPU and not caplog.records


def test_a_mac_whose_gpu_fails_trains_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a virtual machine. Here torch has no MPS, which is the failure."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == CPU
    assert "the GPU is not used" in caplog.text


@pytest.mark.parametrize("name", ["nonsense", "cuda:-1", "", "meta", "xpu"])
def test_a_device_that_cannot_compute_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"runtime\.device={name}: .*expected auto, cpu, cuda"):
        find_device(name)


def test_the_first_kernels_error_in_other_words_keeps_its_first_line() -> None:
    said = explain(RuntimeError("CUDA error: unspecified launch failure\nFor debugging consider"))
    assert said == "CUDA error: unspecified launch failure; nvidia-smi shows whether the driver works"
    assert "its memory is full" in explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    busy = "CUDA error: all CUDA-capable devices are busy or unavailable"
    assert "another process has it to itself" in explain(RuntimeError(busy))


def test_the_systems_cards(tmp_path: Path) -> None:
    def listing() -> str:
        return "GPU 0: NVIDIA GeForce RTX 3090 (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)\n"

    (tmp_path / "dev").mkdir()
    assert not has_card(tmp_path, listing)
    (tmp_path / "dev/nvidiactl").touch()  # the driver alone
    (tmp_path / "proc/driver/nvidia/gpus").mkdir(parents=True)
    assert not has_card(tmp_path, listing)
    (tmp_path / "dev/nvidia3").touch()
    assert has_card(tmp_path)
    (tmp_path / "dev/nvidia3").unlink()
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir()
    assert has_card(tmp_path)
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").rmdir()
    (tmp_path / "dev/dxg").touch()  # WSL
    assert has_card(tmp_path, listing) and not has_card(tmp_path, lambda: "")


@pytest.mark.parametrize(
    ("card", "capability", "precision"),
    [
        ("GTX 970", (5, 2), "fp32"),
        ("P100", (6, 0), "fp16"),
        ("GTX 1080, P40", (6, 1), "fp32"),
        ("V100", (7, 0), "fp16"),
        ("T4", (7, 5), "fp16"),
        ("A100", (8, 0), "bf16"),
        ("RTX 4090, L4", (8, 9), "bf16"),
        ("H100", (9, 0), "bf16"),
        ("RTX 5090", (12, 0), "bf16"),
    ],
)
def test_auto_precision_follows_the_card(
    monkeypatch: pytest.MonkeyPatch, card: str, capability: tuple[int, int], precision: str
) -> None:
    assert fast_precision(capability) == precision
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert find_precision("auto", CUDA, "resnet50") == precision


@pytest.mark.parametrize("capability", [(7, 5), (7, 0), (6, 0)])
def test_bf16_is_refused_where_torch_would_emulate_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    """Without cuDNN's convolutions, so that it would be very slow."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(
        ConfigError, match=r"precision=bf16: this card \(compute capability \d\.\d\) has no bf16"
    ):
        find_precision("bf16", CUDA, "resnet50")


@pytest.mark.parametrize(
    "backbone", ["vit_base_patch16_dinov3.lvd1689m", "convnext_tiny.dinov3_lvd1689m", "vit_7b_patch16_dinov3"]
)
def test_dinov3_never_runs_in_fp16(monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    for capability, precision in [((7, 5), "fp32"), ((6, 0), "fp32"), ((8, 0), "bf16")]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        assert find_precision("auto", CUDA, backbone) == precision
    with pytest.raises(ConfigError, match=rf"training\.precision=fp16: the activations of {backbone} exceed"):
        find_precision("fp16", CUDA, backbone)
    assert find_precision("bf16", CUDA, backbone) == "bf16"
    assert find_precision("fp16", CUDA, "vit_small_patch14_dinov2.lvd142m") == "fp16"


def test_precision_on_a_cpu() -> None:
    assert find_precision("auto", CPU, "resnet50") == "fp32"
    assert find_precision("bf16", CPU, "resnet50") == "bf16"
    with pytest.raises(ConfigError, match=r"training\.precision=fp16: not supported on a CPU"):
        find_precision("fp16", CPU, "resnet50")


def test_loader_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are one in tests, and do not matter."""
    assert find_workers("auto", CPU) == 0 and find_workers(3, CPU) == 3
    assert find_workers("auto", CUDA) == min(16, usable_cores())
    monkeypatch.setattr(device_module, "usable_cores", lambda: 12)
    assert [find_workers("auto", CUDA, num_processes=size) for size in (1, 2, 5, 20)] == [12, 6, 2, 1]
    assert find_workers(0, CUDA, num_processes=2) == 0


@pytest.mark.parametrize(
    ("asked", "batch", "free", "expected"),
    [
        (16, 5_000_000, 32e9, 16),
        (16, 5_000_000, float("inf"), 16),
        (0, 5_000_000, 1e6, 0),
        (16, 200_000_000, 16e9, 7),  # a GB each, and 8 GB for them
        (16, 200_000_000, 3e9, 1),
        (16, 200_000_000, 1e9, 0),
        (2, 200_000_000, 0.0, 0),
    ],
)
def test_loader_processes_need_at_most_half_of_the_free_memory(
    asked: int, batch: int, free: float, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert workers_that_fit(asked, batch, free) == expected
    if expected == asked:
        assert not caplog.records
    else:
        [record] = caplog.records
        assert record.getMessage().startswith(f"{expected} processes load images instead of {asked}: each ")
