"""One phase of gradient descent: its epochs, what is measured on the way, and where it stands."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from distracted.data.loading import Batch, Loader
from distracted.errors import TrainingError
from distracted.inference.device import Precision, move, prefetch
from distracted.models.network import Network
from distracted.models.weights import StateDict
from distracted.progress import Advance, Progress
from distracted.schema import TrainingConfig, TrainPhase
from distracted.training.averaging import average, copy_state
from distracted.training.distributed import ALONE, Team, running_statistics
from distracted.training.metrics_log import Tracker
from distracted.training.mixing import Mixer
from distracted.training.stepper import Stepper
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


class PhaseRun:
    """Trains a network in place through one phase, from its beginning or from a state of it.

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
        after_step: Called after each step, and with True after each epoch, when `state` may be taken.
        team: The processes that each take a part of every batch.
    """

    def __init__(
        self,
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
        after_step: Callable[[bool], None] = lambda boundary: None,
        team: Team = ALONE,
    ) -> None:
        self._name, self._phase, self._label = name, phase, label
        self._loader, self._targets, self._weights, self._mixer = loader, targets, weights, mixer
        self._device, self._precision = device, precision
        self._clock, self._tracker, self._progress = clock, tracker, progress
        self._after_epoch, self._watched, self._after_step = after_epoch, watched, after_step
        self._team, self._network = team, network
        self._watch = Watch(phase)
        self._stepper = Stepper(
            network,
            phase,
            training,
            num_steps=phase.epochs * len(loader),
            device=device,
            precision=precision,
            share=lambda: self._watch.share,
            team=team,
        )
        self._earlier: deque[StateDict] = deque(maxlen=phase.soup - 1)  # ends of the last epochs but one
        self._begun = False
        self._epoch = 0  # of the phase
        self._batch = 0  # of the epoch: those behind it
        self._total, self._count = 0.0, 0  # sum of losses, over so many steps of the epoch
        self._waiting: list[torch.Tensor] = []  # losses and norms that were not looked at yet

    @property
    def num_parts(self) -> int:
        """That each batch is computed in, since the device's memory did not suffice for a whole one."""
        return self._stepper.num_parts

    def state(self) -> dict[str, Any]:
        """Where the phase stands, without the network's own tensors; what `load` takes."""
        return {
            "begun": self._begun,
            "epoch": self._epoch,
            "batch": self._batch,
            "total": self._total,
            "count": self._count,
            "waiting": self._waiting,
            "earlier": list(self._earlier),
            "watch": self._watch.state(),
            "stepper": self._stepper.state(),
            "statistics": self._team.gather([tensor.cpu() for tensor in self._statistics()]),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same phase."""
        self._begun, self._epoch, self._batch = state["begun"], state["epoch"], state["batch"]
        self._total, self._count = state["total"], state["count"]
        self._waiting = [tensor.to(self._device) for tensor in state["waiting"]]
        self._earlier.extend(state["earlier"])
        self._watch.load(state["watch"])
        self._stepper.load(state["stepper"])
        statistics = state.get("statistics", [])
        if len(statistics) == self._team.size > 1:
            for tensor, own in zip(self._statistics(), statistics[self._team.rank], strict=True):
                tensor.copy_(own)

    def _statistics(self) -> list[torch.Tensor]:
        """BatchNorm's of this process, of the network and of what predicts."""
        networks = [self._network, self._stepper.predicts]
        return [tensor for network in networks for tensor in running_statistics(network).values()]

    def __call__(self) -> Network:
        """Train.

        Returns:
            The network that predicts: its moving average where `training.ema` is on, else the network itself;
            the mean over the ends of its last epochs where `phase.soup` asks for it.

        Raises:
            TrainingError: the loss is not finite; says step and learning rate.
        """
        phase, predicts = self._phase, self._stepper.predicts
        if phase.watches and not self._begun:  # no epoch may be better than what the phase began with
            self._watch.look(self._after_epoch(predicts)[self._watched], predicts)
        self._begun = True
        left = (phase.epochs - self._epoch) * self._loader.num_images - self._loader.num_before(self._batch)
        with self._progress(self._label, total=left, unit="img") as step:
            while self._epoch < phase.epochs and not self._watch.stop:
                if self._epoch and not self._batch and phase.soup > 1:
                    self._earlier.append(copy_state(predicts))
                self._run_epoch(step)
                self._end_epoch()
        if self._watch.stop:
            _log.info("%s: %d epochs without improvement; stopped", self._label, self._watch.epochs_since)
        self._watch.restore(predicts)
        if self._earlier:
            average(
                predicts,
                list(self._earlier),
                share=1 / (1 + len(self._earlier)),
                loader=self._loader,
                epoch=self._clock.epoch,
                device=self._device,
                precision=self._precision,
            )
            self._team.average_statistics(predicts)
        return predicts

    def _run_epoch(self, step: Advance) -> None:
        """The batches of the epoch that are not behind us."""
        self._stepper.prepare()  # looking at a score has left the network in eval mode
        looked, num_images = time.perf_counter(), 0
        batches = self._loader.epoch(self._clock.epoch, after=self._batch)
        for batch in prefetch(batches, self._device):
            rate = self._stepper.rate
            self._waiting.append(self._take_step(batch))
            self._batch += 1
            self._clock.step += 1
            self._clock.images += len(batch.images)
            num_images += len(batch.images)
            if len(self._waiting) == _CHECK_EVERY or self._batch == len(self._loader):
                found = self._look_at_losses(rate)
                now = time.perf_counter()
                found["train/images_per_second"] = num_images / (now - looked)
                self._clock.seconds += now - looked
                share = self._batch / len(self._loader)
                self._tracker.log(
                    {"phase": self._name, "train/epoch": self._clock.epoch + share, **found},
                    step=self._clock.step,
                )
                looked, num_images = now, 0
                step(len(batch.images), loss=self._total / self._count, lr=rate)
            else:
                step(len(batch.images))
            self._after_step(False)

    def _take_step(self, batch: Batch) -> torch.Tensor:
        images, indices = batch.images, move(batch.indices, self._device)
        aims = self._targets[indices]
        if self._mixer is not None:
            images, aims = self._mixer(
                images, aims, batch.indices, epoch=self._clock.epoch, number=self._batch + 1
            )
        weights = None if self._weights is None else self._weights[indices]
        num_images = self._loader.num_before(self._batch + 1) - self._loader.num_before(self._batch)
        return self._stepper(images, aims, weights, num_images=num_images)

    def _look_at_losses(self, rate: float) -> dict[str, float]:
        shares, norms = torch.stack(self._waiting).cpu().double().unbind(1)
        losses = self._team.sum(shares.contiguous())
        if not losses.isfinite().all():
            bad = self._clock.step - len(self._waiting) + 1 + int((~losses.isfinite()).int().argmax())
            raise TrainingError(
                f"the loss is {losses[~losses.isfinite()][0].item()} at step {bad} (learning rate "
                f"about {rate:.2g}); "
                "a lower rate (SET='phases.<phase>.lr=...'), training.grad_clip=1 or another seed may help"
            )
        self._total, self._count = self._total + float(losses.sum()), self._count + len(losses)
        self._waiting.clear()
        found = {"train/loss": float(losses.mean()), "train/lr": rate}
        if norms.isfinite().all():  # an fp16 step that the scaler skips has none
            found["train/grad_norm"] = float(norms.mean())
        return found

    def _end_epoch(self) -> None:
        if self._phase.batchnorm == "train":
            for network in (self._network, self._stepper.predicts):
                self._team.average_statistics(network)
        metrics: dict[str, float | str] = {
            "phase": self._name,
            "epoch": self._clock.epoch + 1,
            "train/epoch_loss": self._total / self._count,
            **self._after_epoch(self._stepper.predicts),
        }
        self._tracker.log(metrics, step=self._clock.step)
        if self._phase.watches:
            score = float(metrics[self._watched])
            self._watch.look(score, self._stepper.predicts, warming_up=self._stepper.is_warming_up)
        self._clock.epoch += 1
        self._epoch, self._batch, self._total, self._count = self._epoch + 1, 0, 0.0, 0
        self._after_step(True)
