"""Part `syncs`: how often training waits for the device, and where.

On CUDA, torch reports each wait (`set_sync_debug_mode`). Elsewhere the operations are counted that would make
a GPU wait: a tensor's value read by Python, and results whose size depends on values.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distracted.paths import CONFIGS
from distracted.training.phase_training import PhaseTraining
from gpu_parts.devices import tiny
from gpu_parts.place import Place
from gpu_parts.rows import Row, judged

#: Mixing in each batch, by name.
MIXING = {
    "plain": [],
    "stitch": ["mixing.stitch.prob=1"],
    "mixup": ["mixing.mixup.prob=1"],
    "cutmix": ["mixing.cutmix.prob=1"],
    "EMA, smoothed labels": ["training.ema=0.9", "training.label_smoothing=0.1"],
}
#: Operations after which Python waits for a GPU.
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal")
_ROOT = CONFIGS.parent


def check_syncs(place: Place) -> Iterator[Row]:
    """One epoch of steps with each kind of mixing, in each precision: with fp16 a scaler looks, too."""
    for precision in place.precisions()[:1] if place.is_short else place.precisions():
        for name, mixing in MIXING.items():
            run = place.phase("resnet50", *tiny(place), f"training.precision={precision}", *mixing)
            run.run_epoch(_advance)  # allocations, and the choice of kernels
            _begin_again(run)
            with counting(is_cuda=place.is_cuda) as places:
                run.run_epoch(_advance)
            yield _row(f"{name}, {precision}", places, run, precision)


def _advance(count: int = 1, /, **fields: float) -> None:
    pass


def _begin_again(run: PhaseTraining) -> None:
    run.batch, run.loss_sum, run.loss_count = 0, 0.0, 0


def _row(what: str, places: Counter[str], run: PhaseTraining, precision: str) -> Row:
    """A look every ten steps reads losses and norms; fp16's scaler looks in each step for overflows."""
    steps, due = len(run.loader), 0
    elsewhere = Counter[str]()
    for place, count in places.items():
        if _is_due(place):
            due += count
        else:
            elsewhere[place] += count
    text = "".join(f", {place} {count}" for place, count in elsewhere.most_common())
    expected = f"only the look at the losses{' and the scaler' if precision == 'fp16' else ''}"
    value = f"in {steps} steps: {expected.removeprefix('only ')} {due}{text}"
    return judged(what, value, expected, not elsewhere, steps=steps, waits=dict(places))


def _is_due(place: str) -> bool:
    return "_read_losses" in place or "grad_scaler.py" in place


@contextmanager
def counting(*, is_cuda: bool) -> Iterator[Counter[str]]:
    """Counts the waits in the block by place: file, line and function."""
    places: Counter[str] = Counter()
    if not is_cuda:
        with _Reads(places):
            yield places
        return
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: _note(places, str(message))
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _note(places: Counter[str], message: str) -> None:
    if "synchroniz" in message:
        places[caller()] += 1


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that would make a GPU wait."""

    def __init__(self, places: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = places

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _waits(function.overloadpacket.__name__, args) and not _is_loading():
            self._places[caller()] += 1
        return function(*args, **(kwargs or {}))


def _waits(operation: str, args: Sequence[Any]) -> bool:
    """Whether Python waits for a GPU after an operation; indexing does so with a mask."""
    if operation in ("index", "index_put", "index_put_"):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return operation in _WAITING


def _is_loading() -> bool:
    return any("/data/loading.py" in file for file, _, _ in _frames())


def caller() -> str:
    """The innermost line of this project's code, or of torch's scaler, that is running."""
    for file, line, function in _frames():
        if file.endswith("grad_scaler.py"):
            return f"grad_scaler.py:{line}"
        if Path(file).is_relative_to(_ROOT / "src"):
            return f"{Path(file).name}:{line} ({function})"
    return "elsewhere"


def _frames() -> Iterator[tuple[str, int, str]]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]
