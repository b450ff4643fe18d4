"""The device and precision that networks run in, and moving batches to the device."""

import ctypes
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch

from distracted.cores import usable_cores, workers_for
from distracted.data.loading import Batch
from distracted.data.worker_process import AHEAD
from distracted.errors import ConfigError
from distracted.inference.cards import has_card, sees_cuda, why_unusable

_log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_NATIVE_BF16 = (8, 0)  # compute capability of Ampere
_PROCESS_BYTES = 64 * 2**20  # of a loader process, without its batches
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's options, from malloc.h


def find_device(name: str) -> torch.device:
    """Resolve `runtime.device` and try it; "auto" is CUDA, else MPS, else the CPU.

    With "auto", a card that cannot be used is a logged warning. A named card, such as "cuda:1", becomes the
    process's current one, so that nothing is allocated on another.

    Raises:
        ConfigError: the device cannot be used; says why, and the remedy.
    """
    if name == "auto":
        return _best_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"runtime.device={name}: expected auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and device.index is not None and sees_cuda():
        check_index(device.index, torch.cuda.device_count())
    if why := why_unusable(device):
        raise ConfigError(f"runtime.device={name}: {why}")
    return device


@cache
def _best_device() -> torch.device:
    """The device for "auto"; cached, so that a process warns of an unused card once."""
    if sees_cuda() or torch.backends.mps.is_available():
        device = torch.device("cuda" if sees_cuda() else "mps")
        if not (why := why_unusable(device)):
            return device
        _log.warning("the GPU is not used: %s. The CPU is used instead (runtime.device=cpu asks for it)", why)
    elif has_card():
        why = why_unusable(torch.device("cuda"))
        _log.warning("an NVIDIA card is idle: %s. The CPU is used (runtime.device=cpu asks for it)", why)
    return torch.device("cpu")


def check_index(index: int, num_cards: int) -> None:
    """Refuse `runtime.device=cuda:<index>` where there are fewer GPUs.

    Raises:
        ConfigError: says how many there are.
    """
    if index >= num_cards:
        raise ConfigError(
            f"runtime.device=cuda:{index}: the number of GPUs here is {num_cards}; expected "
            f"{'cuda:0' if num_cards == 1 else f'cuda:0 to cuda:{num_cards - 1}'}"
        )


def find_precision(name: str, device: torch.device, backbone: str) -> Precision:
    """Resolve `training.precision`; "auto" is what the card computes fast and the backbone bears.

    Off CUDA that is fp32.

    Args:
        backbone: Its name in timm.

    Raises:
        ConfigError: fp16 on a CPU, or with a backbone that overflows in it; bf16 on a card without it.
    """
    overflows = "dinov3" in backbone.lower()  # its authors: no fp16 (facebookresearch/dinov3, issue 181)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if name == "auto":
        fast = fast_precision(capability) if capability else "fp32"
        return "fp32" if overflows and fast == "fp16" else fast
    if name == "bf16" and capability and capability < _NATIVE_BF16:
        major, minor = capability  # torch would emulate it, without cuDNN's convolutions
        raise ConfigError(
            f"training.precision=bf16: this card (compute capability {major}.{minor}) has no bf16 (8.0 "
            "and above have); expected auto, fp16 or fp32"
        )
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("training.precision=fp16: not supported on a CPU; expected auto, fp32 or bf16")
    if name == "fp16" and overflows:
        raise ConfigError(
            f"training.precision=fp16: the activations of {backbone} exceed what fp16 can hold; expected "
            "auto, bf16 or fp32"
        )
    return name  # type: ignore[return-value]


def fast_precision(capability: tuple[int, int]) -> Precision:
    """The precision that cards of a compute capability train fastest in.

    bf16 is native from 8.0 (Ampere) on. Tensor cores for fp16 begin at 7.0 (Volta). Before that, only 6.0
    (P100) multiplies fp16 at twice fp32's rate; 6.1 (GTX 10, P4, P40) does at a 64th of it (CUDA C++
    Programming Guide, "Arithmetic Instructions"), so fp16 would only add its overflows there.
    """
    if capability >= _NATIVE_BF16:
        return "bf16"
    return "fp16" if capability >= (7, 0) or capability == (6, 0) else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context manager for forward passes in a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


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
    copy_stream, ahead = _copy_stream(device), None
    for batch in batches:
        with torch.cuda.stream(copy_stream):
            copied = batch._replace(images=move(batch.images, device)), copy_stream.record_event()
        if ahead is not None:
            yield _wait_for_copy(*ahead)
        ahead = copied
    if ahead is not None:
        yield _wait_for_copy(*ahead)


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The process's stream for copies: the allocator keeps the free memory of each stream apart."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _wait_for_copy(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Make the current stream wait for the copy, and tell the allocator that it uses the memory."""
    stream = torch.cuda.current_stream(batch.images.device)
    stream.wait_event(copied)
    batch.images.record_stream(stream)
    return batch


def find_workers(num_workers: int | Literal["auto"], device: torch.device, *, num_processes: int = 1) -> int:
    """Resolve `runtime.num_workers`, the number of loader processes.

    "auto" is 0 on a CPU, where decoding would compete with the network. On other devices it is the number of
    usable cores, at most 16: the process itself mostly waits for the device.

    Args:
        num_processes: Processes that train together on this machine; each gets its part of the cores.
    """
    if num_workers != "auto":
        return num_workers
    return 0 if device.type == "cpu" else workers_for(usable_cores() // num_processes)


def workers_that_fit(num_workers: int, batch_bytes: int, free: float) -> int:
    """As many of these loader processes as need at most half of the free memory; a warning names fewer ones.

    Args:
        batch_bytes: Size of a batch. For each process there is one in the making and up to two ready, and
            those that were received out of turn.
        free: Bytes.
    """
    need = (1 + 2 * AHEAD) * batch_bytes + _PROCESS_BYTES
    most = max(0, int(min(free / 2 / need, num_workers)))
    if most < num_workers:
        _log.warning(
            f"{most} processes load images instead of {num_workers}: each needs up to {need / 1e6:.0f} MB, "
            f"and {free / 1e6:.0f} MB of memory are free, half of it for other purposes; smaller batches "
            "(training.batch_size, runtime.prediction_batch_size) or a larger container allow more"
        )
    return most
