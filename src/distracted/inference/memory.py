"""Recognises that a device's memory ran out, so that the work can go on in smaller parts."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch

from distracted.errors import TrainingError, first_line

#: cuDNN tried all its algorithms: each lacked memory, or none computes such a convolution.
_NO_ALGORITHM = "unable to find an engine to execute this computation"
_FULL = 0.1  # a smaller share of a card's memory is free

#: How errors other than torch.OutOfMemoryError say it: CUDA's runtime, cuBLAS, cuDNN 8 and 9, MPS, the CPU.
_MESSAGES = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # no memory for the library's handle
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",  # no memory for the library's handle
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "can't allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory, or the machine's, ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if _NO_ALGORITHM in str(error):
        free, total = torch.cuda.mem_get_info()
        return free < _FULL * total
    return any(text in str(error) for text in _MESSAGES)


class Attempt:
    """A context that swallows the error of exhausted memory, and lets go of all that the failed try held.

    Attributes:
        failure: The error's message; "" if there was enough memory.
    """

    failure = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not is_out_of_memory(error):
            return False
        self.failure = first_line(error)
        return True


def release_memory(device: torch.device) -> None:
    """Return what allocators keep of freed memory, to the device and to the system.

    Larger pieces can then be had, and other processes have it: see `keep_freed_memory`.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


@contextmanager
def naming_exhausted_memory() -> Iterator[None]:
    """Turn exhausted memory into an error with a remedy, where smaller parts would not help.

    Such a place is the optimiser's first step, which allocates its state.

    Raises:
        TrainingError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"the device's memory ran out ({first_line(error)}); a smaller model.image_size, "
            "training.precision=auto or optimizer: sgd need less, and so does a device without other "
            "processes; the same command goes on with what was done"
        ) from error
