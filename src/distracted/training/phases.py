"""One phase of gradient descent: what learns, on which batches, for how long."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from distracted.data.loading import Loader
from distracted.errors import TrainingError
from distracted.inference.device import Precision, autocast, move
from distracted.models.blocks import frozen_layers
from distracted.models.network import Network
from distracted.models.weights import StateDict
from distracted.progress import Progress, Step
from distracted.schema import TrainingConfig, TrainPhase
from distracted.training.averaging import Ema, average, copy_state
from distracted.training.mixing import Mixer
from distracted.training.optim import make_optimizer, make_scheduler
from distracted.training.tracking import Tracker
from distracted.training.watch import Watch

_log = logging.getLogger(__name__)

_CHECK_EVERY = 10  # steps between looks at loss and gradients: each look waits for the device


@dataclass
class Clock:
    """Where a run stands over all its phases.

    Attributes:
        epoch: Epochs begun before this one, over all phases; augmentation and shuffling derive from it.
        step: Optimiser steps taken; images, seconds: trained on, and the time it took.
    """

    epoch: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0


def run_phase(
    network: Network,
    name: str,
    phase: TrainPhase,
    *,
    loader: Loader,
    targets: torch.Tensor,
    training: TrainingConfig,
    device: torch.device,
    precision: Precision,
    clock: Clock,
    tracker: Tracker,
    progress: Progress,
    label: str,
    after_epoch: Callable[[Network], dict[str, float]],
    watched: str = "",
    weights: torch.Tensor | None = None,
    mixer: Mixer | None = None,
) -> Network:
    """Train a network in place through one phase.

    Every few steps `train/epoch` (those behind it), `train/loss`, `train/lr`, `train/grad_norm` (before
    clipping) and `train/images_per_second` are tracked, after each epoch `train/epoch_loss`, its mean, and
    what `after_epoch` finds. The losses are what is minimised, on mixed images and smoothed targets where
    those are asked for: they do not compare with those of a run without.

    Args:
        loader: The training side, augmented.
        targets: Class id of each of the loader's paths, or its probability of each class, on the device.
        after_epoch: Called with the network that would predict now; returns metrics to track.
        watched: The metric that patience, keep and plateau look at.
        weights: Of the loss of each of the loader's paths, on the device; None: all the same.
        mixer: Mixes each batch.

    Returns:
        The network that predicts: its moving average where `training.ema` is on, else `network` itself; the
        mean over the ends of its last epochs where `phase.soup` asks for it.

    Raises:
        TrainingError: the loss is not finite; says step and learning rate.
    """
    network.zero_grad(set_to_none=True)  # of what an earlier phase trained
    optimizer = make_optimizer(network, phase)
    num_steps = phase.epochs * len(loader)
    watch = Watch(phase)
    scheduler = make_scheduler(optimizer, phase, num_steps=num_steps, share=lambda: watch.share)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    ema = Ema(network, training.ema) if training.ema > 0 else None
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    predicts = ema.network if ema is not None else network
    earlier: deque[StateDict] = deque(maxlen=phase.soup - 1)  # what predicted after the last epochs but one
    first_step = clock.step

    def frozen_now() -> int:
        return frozen_layers(network.blocks, phase, done=(clock.step - first_step) / num_steps)

    def prepare() -> None:
        network.freeze_first(frozen_now())
        network.train_learning(batchnorm=phase.batchnorm == "train")

    def loss_of(logits: torch.Tensor, aims: torch.Tensor, weighted: torch.Tensor | None) -> torch.Tensor:
        smoothing = training.label_smoothing
        if weighted is None:
            return nn.functional.cross_entropy(logits, aims, label_smoothing=smoothing)
        losses = nn.functional.cross_entropy(logits, aims, label_smoothing=smoothing, reduction="none")
        return (losses * weighted).mean()

    def take_step(images: torch.Tensor, aims: torch.Tensor, weighted: torch.Tensor | None) -> torch.Tensor:
        if frozen_now() != network.num_frozen:
            prepare()
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            losses = [
                share * loss_of(logits, aims, weighted) for share, logits in network.weighted_logits(images)
            ]
            loss = torch.stack(losses).sum()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if training.grad_clip > 0:
            nn.utils.clip_grads_with_norm_(parameters, training.grad_clip, norm)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        if ema is not None:
            ema.update(network)
        return torch.stack([loss.detach(), norm])

    if phase.watches:  # no epoch may be better than what the phase began with
        watch.look(after_epoch(predicts)[watched], predicts)
    with progress(label, total=phase.epochs * loader.num_images, unit="img") as step:
        for number in range(phase.epochs):
            if number and phase.soup > 1:
                earlier.append(copy_state(predicts))
            prepare()  # looking at a score has left it in eval mode
            start = time.perf_counter()
            loss = _run_epoch(
                loader,
                targets,
                weights,
                take_step,
                lambda: phase.lr * _factor(scheduler),
                clock,
                step,
                mixer,
                lambda share, found: tracker.log(
                    {"phase": name, "train/epoch": clock.epoch + share, **found}, step=clock.step
                ),
            )
            clock.seconds += time.perf_counter() - start
            clock.epoch += 1
            metrics: dict[str, float | str] = {
                "phase": name,
                "epoch": clock.epoch,
                "train/epoch_loss": loss,
                **after_epoch(predicts),
            }
            tracker.log(metrics, step=clock.step)
            if phase.watches:
                warming_up = clock.step - first_step < phase.warmup * num_steps
                watch.look(float(metrics[watched]), predicts, warming_up=warming_up)
                if watch.stop:
                    _log.info("%s: %d epochs without improvement; stopped", label, watch.epochs_since)
                    break
    watch.restore(predicts)
    if earlier:
        average(
            predicts,
            earlier,
            share=1 / (1 + len(earlier)),
            loader=loader,
            epoch=clock.epoch,
            device=device,
            precision=precision,
        )
    return predicts


def _factor(scheduler: torch.optim.lr_scheduler.LambdaLR) -> float:
    """The share of their rates at which all groups stand."""
    return float(scheduler.get_last_lr()[0] / scheduler.base_lrs[0])


def _run_epoch(
    loader: Loader,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    take_step: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor],
    current_rate: Callable[[], float],
    clock: Clock,
    step: Step,
    mixer: Mixer | None,
    log: Callable[[float, dict[str, float]], None],
) -> float:
    """Train for one epoch; returns the mean loss.

    Args:
        log: Called at each look with the share of the epoch that is done, and what was measured since.
    """
    waiting: list[torch.Tensor] = []
    total, count = 0.0, 0
    looked, num_images = time.perf_counter(), 0
    for number, batch in enumerate(loader.epoch(clock.epoch), start=1):
        images, rate = move(batch.images, targets.device), current_rate()
        indices = move(batch.indices, targets.device)
        aims = targets[indices]
        if mixer is not None:
            images, aims = mixer(images, aims, batch.indices, epoch=clock.epoch, number=number)
        waiting.append(take_step(images, aims, None if weights is None else weights[indices]))
        clock.step += 1
        clock.images += len(batch.images)
        num_images += len(batch.images)
        if len(waiting) == _CHECK_EVERY or number == len(loader):
            losses, norms = torch.stack(waiting).cpu().double().unbind(1)
            if not losses.isfinite().all():
                bad = clock.step - len(waiting) + 1 + int((~losses.isfinite()).int().argmax())
                raise TrainingError(
                    f"the loss is {losses[~losses.isfinite()][0].item()} at step {bad} (learning rate "
                    f"about {rate:.2g}); "
                    "a lower rate (SET='phases.<phase>.lr=...'), training.grad_clip=1 or another seed may "
                    "help"
                )
            total, count = total + float(losses.sum()), count + len(losses)
            now = time.perf_counter()
            found = {
                "train/loss": float(losses.mean()),
                "train/lr": rate,
                "train/images_per_second": num_images / (now - looked),
            }
            if norms.isfinite().all():  # an fp16 step that the scaler skips has none
                found["train/grad_norm"] = float(norms.mean())
            log(number / len(loader), found)
            looked, num_images = now, 0
            waiting.clear()
            step(len(batch.images), loss=total / count, lr=rate)
        else:
            step(len(batch.images))
    return total / count
