"""Measures what a config costs on this machine: an image of training, and one of prediction."""

import time
from itertools import islice

import torch

from distracted.inference.device import prefetch
from distracted.inference.memory import naming_exhausted_memory, release_memory
from distracted.schema import TrainPhase
from distracted.training.context import FoldContext
from distracted.training.loop import FoldTraining
from distracted.training.phase_training import PhaseTraining

_STEPS = 2  # that are timed, after one that is not
_PREDICTED = 64  # images


@naming_exhausted_memory()
def time_training(context: FoldContext) -> float:
    """Seconds for each image of the config's last phase of gradient descent: loading, augmenting, the step.

    Nothing is written but the cache of decoded pictures, which the training itself will read.

    Args:
        context: Without checkpoints.

    Raises:
        ImageError, TrainingError: as the training itself.
    """
    training = FoldTraining(context)
    training.resume_or_start()
    name, phase = [(n, p) for n, p in context.config.phases.items() if isinstance(p, TrainPhase)][-1]
    run = PhaseTraining(training, name, phase)
    run.set_modes()
    batches, num_images, start = run.loader.epoch(0), 0, 0.0
    for number, batch in enumerate(prefetch(islice(batches, 1 + _STEPS), context.device)):
        run.step(batch)
        if number == 0:
            start = _now(context.device)
        else:
            num_images += len(batch.images)
    seconds = _now(context.device) - start
    release_memory(context.device)
    return seconds / max(1, num_images)


@naming_exhausted_memory()
def time_prediction(context: FoldContext) -> float:
    """Seconds for each image of a prediction, once its picture is in the cache."""
    training = FoldTraining(context)
    training.resume_or_start()
    images, label = context.train_images, "timing predictions"
    rows = images.rows[:_PREDICTED]
    training.feed.log_probs(training.network, images, rows, label)  # its pictures are decoded here
    start = _now(context.device)
    training.feed.log_probs(training.network, images, rows, label)
    return (_now(context.device) - start) / len(rows)


def _now(device: torch.device) -> float:
    """The time once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
