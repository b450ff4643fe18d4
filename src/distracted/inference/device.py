"""Where networks run and in which precision."""

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
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's numbers for them, in malloc.h


def find_device(name: str) -> torch.device:
    """The device by its name; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: no such device on this machine.
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
            f"runtime.device={name}: not to be had here; expected auto, cpu, cuda or mps"
        ) from error
    return device


def find_precision(name: str, device: torch.device) -> Precision:
    """The precision by its name; "auto": bf16 on a CUDA device that has it, else fp16; fp32 elsewhere."""
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("training.precision=fp16: a CPU takes fp32 or bf16")
    return name  # type: ignore[return-value]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which forward passes run."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what is freed for what is asked for next, where it is glibc.

    As it comes it gives large blocks back to the system at once, and a network on a CPU asks for the same
    ones in every step: the kernel hands out zeroed pages again and again. Measured, a step of
    EfficientNet-Lite0 at 128 pixels takes 1.4 times as long that way, one of ResNet50 at 224 1.1 times.
    """
    if not sys.platform.startswith("linux"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, 2**30)
        set_option(_TRIM_THRESHOLD, 2**31 - 1)


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; the copy overlaps with other work only where the loader pins memory.

    On MPS a copy that nobody waits for can read memory that was given back (pytorch issue 139550).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, their images on the device.

    On CUDA the next one is copied in a stream of its own while a batch is worked on; an error in getting it
    then comes one batch early.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch._replace(images=move(batch.images, device))
        return
    copying, ahead = torch.cuda.Stream(device), None  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copying):
            coming = batch._replace(images=move(batch.images, device)), copying.record_event()
        if ahead is not None:
            yield _arrived(*ahead)
        ahead = coming
    if ahead is not None:
        yield _arrived(*ahead)


def _arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """The batch for the stream that works: it waits for the copy, and keeps the memory until it is done."""
    working = torch.cuda.current_stream(batch.images.device)
    working.wait_event(copied)
    batch.images.record_stream(working)
    return batch


def find_workers(num_workers: int | Literal["auto"], device: torch.device) -> int:
    """Loader processes; "auto": this process's share of the cores, where the network runs elsewhere.

    Torch's threads are that share: a grid and a team give each of their processes its own. One is left to the
    process itself.
    """
    if num_workers != "auto":
        return num_workers
    return 0 if device.type == "cpu" else min(_MAX_WORKERS, max(1, torch.get_num_threads() - 1))
