"""Part `memory`: when the device's memory runs out, the work goes on in smaller parts, and nothing leaks.

On CUDA the process gets less memory than a batch needs, so the failure is real. Elsewhere the head fails for
more images than a limit, after the trunk has built its graph.
"""

import gc
import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from distracted.data.loading import Batch
from distracted.inference.forward import Forward
from distracted.models.network import Head
from distracted.training.phase_training import PhaseTraining
from gpu_parts.devices import tiny
from gpu_parts.place import Place, fresh, logged
from gpu_parts.rows import Row, judged

_SHARE = 0.7  # of a batch's memory: holds half of the batch
_MB = 2**20


def check_memory(place: Place) -> Iterator[Row]:
    """A batch that does not fit: in training, and in prediction."""
    yield from _training(place)
    yield from _prediction(place)


def _training(place: Place) -> Iterator[Row]:
    network = tiny(place) if place.is_short else ["model.image_size=224", "training.precision=fp32"]
    batch_size = 8 if place.is_short else 64
    settings = [*network, f"training.batch_size={batch_size}", "phases.scratch.epochs=2"]
    fresh(place.folder / "memory")
    need = _batch_memory(place, settings) if place.is_cuda else 0
    place.train("memory", "resnet50", *settings, run="whole")
    with _too_little(need, limit=batch_size // 2), _watched() as leaks, logged():
        halved, lines = place.train("memory", "resnet50", *settings, run="halved")
    warned = next((line for line in lines if "micro-batches" in line), "no warning")
    parts = int(halved.details.get("micro_batches", 1))
    yield judged("a batch that does not fit", warned, "micro-batches from then on", parts > 1, parts=parts)
    steps = [_steps(place, run) for run in ("whole", "halved")]
    text = f"{steps[1]} steps, {steps[0]} undisturbed"
    yield judged("optimiser steps", text, "as many as undisturbed", steps[0] == steps[1] > 0)
    leaked = max(leaks) if leaks else -1.0
    unit = "MB more than before" if place.is_cuda else "outputs of the failed pass alive"
    yield judged(
        "memory after the failed try", f"{leaked:.1f} {unit}", "0", bool(leaks) and leaked < 0.1, leaks=leaks
    )


def _steps(place: Place, run: str) -> int:
    """Optimiser steps that a finished training logged last."""
    store = place.store("memory")
    lines = store.workspace.metrics(store.competition.name, run, 0).read_text().splitlines()
    return max(int(line.get("step", 0)) for line in map(json.loads, lines))


def _batch_memory(place: Place, settings: list[str]) -> int:
    """Bytes that this process may use, so that a batch does not fit and half of it does."""
    run = place.phase("resnet50", *settings)
    size = run.context.config.model.image_size
    assert isinstance(size, int)
    batch_size = run.loader.num_before(1)  # the largest: batches are made of nearly equal size
    images = torch.zeros(batch_size, size, size, 3, dtype=torch.uint8, device=run.device)
    batch = Batch(images, torch.arange(batch_size))
    run.step(batch)
    run.optimizer.zero_grad(set_to_none=True)
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run.step(batch)
    return held + int(_SHARE * (torch.cuda.max_memory_allocated() - held))


@contextmanager
def _too_little(need: int, *, limit: int) -> Iterator[None]:
    """On CUDA (need > 0) limit this process's memory; elsewhere the head fails above `limit` images."""
    if need:
        gc.collect()  # trainings that are over, which refer to each other
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, need / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    whole: Callable[[Head, torch.Tensor], torch.Tensor] = Head.forward

    def limited(self: Head, features: torch.Tensor) -> torch.Tensor:
        if len(features) > limit:
            _GRAPH.append(weakref.ref(features))
            raise torch.OutOfMemoryError("out of memory (simulated)")
        return whole(self, features)

    Head.forward = limited  # type: ignore[method-assign]
    try:
        yield
    finally:
        Head.forward = whole  # type: ignore[method-assign, assignment]


_GRAPH: list[weakref.ref[torch.Tensor]] = []  # the trunk's outputs in simulated failures


@contextmanager
def _watched() -> Iterator[list[float]]:
    """Collects, after each failed try, what it left: MB on CUDA, elsewhere the number of live outputs."""
    leaks: list[float] = []
    before = 0
    attempt, halve = PhaseTraining._gradients, PhaseTraining._halve_micro_batches

    def watched_attempt(self: PhaseTraining, *inputs: Any) -> torch.Tensor | None:
        nonlocal before
        before = torch.cuda.memory_allocated() if self.device.type == "cuda" else 0
        return attempt(self, *inputs)

    def watched_halve(self: PhaseTraining, *counts: int) -> None:
        halve(self, *counts)
        if self.device.type == "cuda":
            leaks.append(max(0.0, (torch.cuda.memory_allocated() - before) / _MB))
        else:
            leaks.append(float(sum(output() is not None for output in _GRAPH)))

    PhaseTraining._gradients = watched_attempt  # type: ignore[method-assign, assignment]
    PhaseTraining._halve_micro_batches = watched_halve  # type: ignore[method-assign, assignment]
    try:
        yield leaks
    finally:
        PhaseTraining._gradients = attempt  # type: ignore[method-assign]
        PhaseTraining._halve_micro_batches = halve  # type: ignore[method-assign]


@torch.no_grad()
def _prediction(place: Place) -> Iterator[Row]:
    network_settings = tiny(place) if place.is_short else ["model.image_size=224", "training.precision=fp32"]
    run, batch_size = place.phase("resnet50", *network_settings), 8 if place.is_short else 256
    network, size = run.network.eval(), run.context.config.model.image_size
    assert isinstance(size, int)
    images = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8).to(run.device)
    if place.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if place.is_cuda else 0
    expected, need = Forward(network, "logits", num_images=1, precision="fp32")(images), 0
    if place.is_cuda:
        need = held + int(_SHARE * (torch.cuda.max_memory_allocated() - held))
    with _too_little(need, limit=batch_size // 2), logged() as lines:
        logits = Forward(network, "logits", num_images=1, precision="fp32")(images)
    said = next((line for line in lines if "images at a time" in line), "no warning")
    yield judged("prediction of such a batch", said, "smaller parts from then on", "from now on" in said)
    off = float((logits.log_softmax(1) - expected.log_softmax(1)).abs().max())
    yield judged("its log-probabilities", f"{off:.1g} off", "at most 1e-4", off <= 1e-4, off=off)
