"""Makes a GPU repeat itself: the same command gives the same bytes, also after a stop.

That holds on one model of card with one version of torch. A few operations have no deterministic
implementation on CUDA; a network that needs one says so when it is first trained.
"""

import logging
import warnings

import torch

_log = logging.getLogger(__name__)


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


def give_up_repeating(error: RuntimeError) -> bool:
    """Allow operations without a deterministic implementation from now on, if the error is about one.

    Returns:
        Whether it was, so that the same work can be tried again.
    """
    text = str(error)
    if "deterministic" not in text or not torch.are_deterministic_algorithms_enabled():
        return False
    operation = text.split()[0]
    _log.warning(
        "%s has no deterministic implementation on CUDA: another run of this network may differ in rounding",
        operation,
    )
    warnings.filterwarnings("ignore", message=".*deterministic")
    torch.use_deterministic_algorithms(True, warn_only=True)
    return True
