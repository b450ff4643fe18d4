"""The device and precision that networks run in, and moving batches to the device."""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch

from distracted.data.loading import Batch
from distracted.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]

_MAX_WORKERS = 8
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's options, from malloc.h


def find_device(name: str) -> torch.device:
    """Resolve `runtime.device`; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: the device is not available on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"runtime.device={name}: not available on this machine; expected auto, cpu, cuda or mps"
        ) from error
    return device


def find_precision(name: str, device: torch.device) -> Precision:
    """Resolve `training.precision`; "auto" is bf16 on CUDA where supported, else fp16; fp32 off CUDA.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("training.precision=fp16: not supported on a CPU; expected auto, fp32 or bf16")
    return name  # type: ignore[return-value]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context manager for forward passes in a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


@cache
def keep_freed_memory() -> None:
    """Make glibc's allocator reuse large freed blocks instead of returning them to the system.

    A network on a CPU allocates the same large blocks in every step. By default glibc unmaps them when they
    are freed, and the kernel has to zero new pages each time. Measured with that default, a training step of
    EfficientNet-Lite0 at 128 pixels takes 1.4 times as long, one of ResNet50 at 224 pixels 1.1 times.
    """
    if not sys.platform.startswith("linux"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, 2**30)
        set_option(_TRIM_THRESHOLD, 2**31 - 1)


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to the device; on CUDA asynchronously if the loader pins memory.

    On MPS an asynchronous copy may read memory that has already been freed (pytorch issue 139550).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Iterate over batches with their images on the device.

    On CUDA the next batch is copied in a separate stream while the current one is processed. An error in
    loading a batch is therefore raised one batch early.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch._replace(images=move(batch.images, device))
        return
    copy_stream, ahead = torch.cuda.Stream(device), None  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copy_stream):
            copied = batch._replace(images=move(batch.images, device)), copy_stream.record_event()
        if ahead is not None:
            yield _wait_for_copy(*ahead)
        ahead = copied
    if ahead is not None:
        yield _wait_for_copy(*ahead)


def _wait_for_copy(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Make the current stream wait for the copy, and tell the allocator that it uses the memory."""
    stream = torch.cuda.current_stream(batch.images.device)
    stream.wait_event(copied)
    batch.images.record_stream(stream)
    return batch


def find_workers(num_workers: int | Literal["auto"], device: torch.device) -> int:
    """Resolve `runtime.num_workers`, the number of loader processes.

    "auto" is 0 on a CPU, where decoding would compete with the network. On other devices it is torch's thread
    count, which is this process's share of the cores in a grid or team, less one for the process itself; at
    least 1 and at most 8.
    """
    if num_workers != "auto":
        return num_workers
    return 0 if device.type == "cpu" else min(_MAX_WORKERS, max(1, torch.get_num_threads() - 1))
