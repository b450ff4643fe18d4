"""Which cards there are, whether torch can use them, and if not, why, with the remedy."""

import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from distracted.errors import first_line

_WSL = "/usr/lib/wsl/lib/nvidia-smi"  # not always on the PATH there
_SECONDS = 20.0  # nvidia-smi takes seconds where no process keeps the driver loaded

#: Text of an error, what it means, and the remedy. `{torch}` is the installed version, `{cuda}` its CUDA's.
_CAUSES = (
    (
        "no kernel image",
        "torch {torch} has no kernels for it",
        "install a build of torch that has: for an old card one for CUDA 12.6, for a new card the newest",
    ),
    (
        "driver on your system is too old",
        "the NVIDIA driver is too old for torch {torch} (CUDA {cuda})",
        "update the driver, or install a build of torch for an older CUDA",
    ),
    (
        "found no nvidia driver",
        "torch finds no NVIDIA driver",
        "install the driver; a container needs the GPUs passed in (docker run --gpus all)",
    ),
    (
        "no cuda gpus are available",
        "CUDA shows this process no GPU",
        "CUDA_VISIBLE_DEVICES hides them, or the job or container was given none",
    ),
    (
        "not compiled with cuda",
        "torch {torch} is a build without CUDA",
        "install a build of torch for CUDA",
    ),
    ("out of memory", "its memory is full", "end the processes that use it; nvidia-smi lists them"),
    ("busy or unavailable", "another process has it to itself", "end that process; nvidia-smi lists it"),
)
_OTHER = "nvidia-smi shows whether the driver works"


def explain(error: RuntimeError | AssertionError | NotImplementedError) -> str:
    """Why torch cannot use a card, and the remedy, in one line, from torch's error."""
    for text, reason, remedy in _CAUSES:
        if text in str(error).lower():
            reason = reason.format(torch=torch.__version__, cuda=torch.version.cuda or "none")
            return f"{reason}; {remedy}"
    return f"{first_line(error)}; {_OTHER}"


def list_gpus() -> str:
    """What `nvidia-smi -L` prints: a line for each GPU and each MIG slice; "" where it does not run."""
    program = shutil.which("nvidia-smi") or _WSL
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def has_card(root: Path = Path("/"), listing: Callable[[], str] = list_gpus) -> bool:
    """Whether the system shows an NVIDIA card, whatever torch makes of it.

    In Windows' Linux (WSL) a card of any maker is /dev/dxg, and only nvidia-smi knows NVIDIA's.

    Args:
        root: The file system's root.
        listing: As `list_gpus`.
    """
    driver = root / "proc/driver/nvidia/gpus"
    if (driver.is_dir() and any(driver.iterdir())) or any((root / "dev").glob("nvidia[0-9]*")):
        return True
    return (root / "dev/dxg").exists() and listing().startswith("GPU ")


def sees_cuda() -> bool:
    """Whether torch sees a CUDA card, usable or not."""
    with warnings.catch_warnings():  # of an old driver; `explain` has it
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def why_unusable(device: torch.device) -> str:
    """Run two small kernels on the device; returns why it cannot, and the remedy, or "".

    A card may be visible and have no kernels in the installed torch.
    """
    card = ""
    try:
        with warnings.catch_warnings():  # of old cards and drivers; `explain` has them
            warnings.simplefilter("ignore")
            if device.type == "cuda":
                torch.cuda.init()  # type: ignore[no-untyped-call]
                card = f"{_card(device)}: "
                if device.index is not None:
                    torch.cuda.set_device(device)
            ones = torch.ones(8, 8, device=device)
            (ones @ ones + 1).sum().item()  # waits for the device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if device.type == "cuda":
            return f"{card}{explain(error)}"
        reason = first_line(error).partition(". ")[0]  # MPS goes on with a list of all backends
        return f"not available on this machine ({reason}); expected auto, cpu, cuda or mps"
    return ""


def _card(device: torch.device) -> str:
    card = torch.cuda.get_device_properties(device)
    return f"{card.name} (compute capability {card.major}.{card.minor})"


def describe(device: torch.device) -> str:
    """The device for readers, such as "cuda:0 (Tesla T4, 15 GB)"."""
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        index = torch.cuda.current_device() if device.index is None else device.index
        return f"cuda:{index} ({card.name}, {card.total_memory / 2**30:.0f} GB)"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"the CPU ({threads} {'thread' if threads == 1 else 'threads'})"
    return str(device)
