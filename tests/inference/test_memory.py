"""When a device's memory runs out, the failed try is let go and the work goes on in smaller parts."""

import gc
import logging
import re
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import model_config
from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.errors import TrainingError
from distracted.inference.device import keep_freed_memory
from distracted.inference.features import cached_features
from distracted.inference.forward import Forward
from distracted.inference.memory import Attempt, is_out_of_memory, naming_exhausted_memory, release_memory
from distracted.inference.predict import predict_log_probs
from distracted.models.network import Network, build_network
from distracted.models.weights import Weights
from networks_with_statistics import pictures

EXHAUSTED = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    torch.OutOfMemoryError("HIP out of memory"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.18 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]
OTHERS = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. Out of shared memory."),
    TrainingError("the device's memory does not hold one image (CUDA out of memory)"),
    KeyboardInterrupt("out of memory"),
]
if hasattr(torch, "AcceleratorError"):  # torch 2.8
    EXHAUSTED.append(torch.AcceleratorError("CUDA error: out of memory"))


@pytest.mark.skipif(sys.platform != "linux", reason="only there is freed memory kept")
def test_freed_memory_goes_back_to_the_system() -> None:
    keep_freed_memory()
    pieces = [torch.ones(2**22) for _ in range(16)]
    pieces = pieces[-1:]  # at the end of the others
    kept = anonymous_megabytes()
    release_memory(torch.device("cpu"))
    assert kept - anonymous_megabytes() > 200
    assert pieces[0].sum() == 2**22


def anonymous_megabytes() -> float:
    """Memory of this process that no file backs."""
    [line] = re.findall(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1000


def test_exhausted_memory_is_recognised_in_all_its_forms() -> None:
    assert all(map(is_out_of_memory, EXHAUSTED))
    assert not any(map(is_out_of_memory, OTHERS))
    for error in EXHAUSTED:
        with pytest.raises(TrainingError, match="the device's memory ran out"), naming_exhausted_memory():
            raise error
    for other in OTHERS:
        with pytest.raises(type(other)), naming_exhausted_memory(), Attempt():
            raise other


@pytest.mark.parametrize("free", [0.0, 0.5])
def test_cudnn_without_an_algorithm_lacks_memory_only_on_a_full_card(
    monkeypatch: pytest.MonkeyPatch, free: float
) -> None:
    """Elsewhere the card cannot compute such a convolution, and smaller parts would not help."""
    error = RuntimeError("GET was unable to find an engine to execute this computation")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * 15e9), int(15e9)))
    assert is_out_of_memory(error) == (free == 0)


def test_the_error_of_a_real_allocation_is_recognised() -> None:
    with Attempt() as attempt:
        torch.empty(2**60, dtype=torch.uint8)
    assert attempt.failure


@pytest.fixture
def network_with_taps() -> Network:
    """A network whose auxiliary heads need the outputs of blocks half-way."""
    config = model_config("googlenet", 64, auxiliary=0.3)
    network = build_network(config, Weights("none"), num_classes=3).train()
    network.freeze_first(0)
    return network


@pytest.mark.parametrize("fails", ["trunk", "head"])
def test_the_graph_of_a_failed_pass_is_freed(network_with_taps: Network, fails: str) -> None:
    network, graph = network_with_taps, list[weakref.ref[torch.Tensor]]()

    def watch(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        assert output.requires_grad
        graph.append(weakref.ref(output))

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    taps = [next(b.output for b in network.blocks if b.name == h.block) for h in network.auxiliary_heads()]
    for tap in taps:
        network.trunk.get_submodule(tap).register_forward_hook(watch)
    last = network.head if fails == "head" else network.trunk.get_submodule(network.blocks[-1].output)
    last.register_forward_pre_hook(fail)
    gc.disable()  # freed at once, not at the next collection
    try:
        with Attempt() as attempt:
            network.weighted_logits(pictures(2, 64, 64, 3))
        assert attempt.failure and len(graph) == 2 and not any(output() is not None for output in graph)
    finally:
        gc.enable()


def test_features_leave_no_outputs_behind(network_with_taps: Network) -> None:
    network_with_taps.features(pictures(2, 64, 64, 3))
    assert not network_with_taps._outputs


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Limits how many images fit on the device; the list that it returns records the sizes tried."""

    def limit(number: int) -> list[int]:
        tried: list[int] = []
        whole = Network._trunk_features

        def limited(self: Network, images: torch.Tensor) -> torch.Tensor:
            tried.append(len(images))
            if len(images) > number:
                raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
            return whole(self, images)

        monkeypatch.setattr(Network, "_trunk_features", limited)
        return tried

    return limit


@pytest.fixture
def loader(competition: Competition) -> Loader:
    plain = Augmenter((), size=32, crop=1.0, seed=0)
    return Loader(Files(competition.train_paths()), np.arange(33), plain, batch_size=11, num_workers=0)


def test_prediction_goes_on_with_the_size_that_fitted(
    network: Network, loader: Loader, most: Callable[[int], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    expected = predict_log_probs(network, loader, precision="fp32")
    tried = most(3)
    with caplog.at_level(logging.WARNING):
        log_probs = predict_log_probs(network, loader, precision="fp32")
    assert tried == [11, 5, *[2, 2, 2, 2, 2, 1] * 3]
    assert len(caplog.records) == 2 and "from now on 2 images at a time" in caplog.text
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)


def test_features_are_computed_with_the_size_that_fits(
    network: Network, loader: Loader, most: Callable[[int], list[int]], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"contents": ["a"] * 33, "size": 32, "crop": 1.0, "precision": "fp32"}
    expected = cached_features(network, lambda: loader, folder=tmp_path / "whole", **settings)
    tried = most(6)
    features = cached_features(network, lambda: loader, folder=tmp_path / "parts", **settings)
    assert tried == [11, *[5, 5, 1] * 3]
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_a_device_that_holds_no_image_is_an_error(network: Network, most: Callable[[int], list[int]]) -> None:
    most(0)
    forward = Forward(network, "logits", num_images=10, precision="fp32")
    with pytest.raises(TrainingError, match=r"does not hold one image \(cuDNN error.*model.image_size"):
        forward(pictures(2, 32, 32, 3))
