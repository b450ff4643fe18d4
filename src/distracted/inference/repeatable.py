"""Makes a GPU repeat itself: the same command gives the same bytes, also after a stop.

That holds on one model of card with one version of torch. A few operations have no deterministic
implementation on CUDA; a network that needs one says so when it is first trained.
"""

import logging
import warnings
from collections.abc import Callable
from copy import deepcopy

import torch

from distracted.inference.memory import Attempt, release_memory
from distracted.models.network import Network

_log = logging.getLogger(__name__)

_ERROR = 2  # torch's debug mode in which such an operation is an error


def repeat_exactly(device: torch.device) -> None:
    """On CUDA, use deterministic algorithms only, and full precision where fp32 is asked for."""
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = False  # else the choice of an algorithm depends on its speed today
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if hasattr(torch.backends.cudnn, "conv"):  # torch 2.9; it warns of the older names
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"
    else:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False


def allow_unrepeatable(network: Network, loss: Callable[[Network], torch.Tensor]) -> None:
    """Allow operations without a deterministic implementation if the network or its loss needs one.

    Such an operation fails, perhaps in the backward pass only, and a step on several devices cannot be tried
    again. So both passes are tried before the first step, on a copy all of whose layers learn. The network
    and the random generators stay as they are.

    Args:
        loss: The loss of a few images, as the step computes it.
    """
    if torch.get_deterministic_debug_mode() != _ERROR:
        return
    device = network.mean.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), Attempt() as attempt:
        _try_passes(network, loss)
    if attempt.failure:  # the step itself may need less: its micro-batches get smaller
        release_memory(device)
        _log.warning(
            "too little memory to look for operations without a deterministic implementation (%s); the "
            "training stops with an error if it meets one",
            attempt.failure,
        )


def _try_passes(network: Network, loss: Callable[[Network], torch.Tensor]) -> None:
    copied = deepcopy(network).requires_grad_(True)
    while True:
        try:
            loss(copied).backward()  # type: ignore[no-untyped-call]
            return
        except RuntimeError as error:
            if not _give_up_repeating(error):
                raise


def _give_up_repeating(error: RuntimeError) -> bool:
    """Allow operations without a deterministic implementation from now on, if the error is about one."""
    text = str(error)
    if "deterministic" not in text or torch.get_deterministic_debug_mode() != _ERROR:
        return False
    operation = text.split()[0]
    _log.warning(
        "%s has no deterministic implementation on CUDA: another run of this network may differ in rounding",
        operation,
    )
    warnings.filterwarnings("ignore", message=".*deterministic")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return True
