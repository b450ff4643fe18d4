"""One step of gradient descent: what learns now, its gradients, and what they change."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distracted.errors import TrainingError
from distracted.inference.device import Precision, autocast
from distracted.models.blocks import frozen_layers
from distracted.models.network import Network
from distracted.schema import TrainingConfig, TrainPhase
from distracted.training.averaging import Ema
from distracted.training.distributed import ALONE, Team
from distracted.training.optim import load_optimizer, make_optimizer, make_scheduler

_log = logging.getLogger(__name__)

#: What keeps each process's BatchNorm statistics its own; torch 2.13 has renamed it.
_SYNC = {"forward_sync_buffers", "broadcast_buffers"} & {*signature(DistributedDataParallel).parameters}
_OWN_STATISTICS: dict[str, Any] = {max(_SYNC): False}


class _WeightedLogits(nn.Module):
    """What a network is trained on, as a forward pass: the only one that hooks on gradients know of."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> list[tuple[float, torch.Tensor]]:
        return self.network.weighted_logits(images)


class Stepper:
    """Takes the optimiser steps of one phase.

    Attributes:
        predicts: The network that would predict now: the moving average where there is one.
        num_parts: That each batch, or this process's part of it, is computed in, one after another: twice
            as many each time the device's memory does not suffice.

    Args:
        num_steps: Of the whole phase.
        share: What `plateau` has come down to, asked at each step.
        team: The processes that each take a part of every batch.
    """

    def __init__(
        self,
        network: Network,
        phase: TrainPhase,
        training: TrainingConfig,
        *,
        num_steps: int,
        device: torch.device,
        precision: Precision,
        share: Callable[[], float],
        team: Team = ALONE,
    ) -> None:
        network.zero_grad(set_to_none=True)  # of what an earlier phase trained
        self._network, self._phase, self._training = network, phase, training
        self._device, self._precision, self._team = device, precision, team
        self._model: nn.Module = _WeightedLogits(network)
        self.num_parts = 1
        self._num_steps, self._done = num_steps, 0
        self._optimizer = make_optimizer(network, phase)
        self._scheduler = make_scheduler(self._optimizer, phase, num_steps=num_steps, share=share)
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._ema = Ema(network, training.ema) if training.ema > 0 else None
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self.predicts = self._ema.network if self._ema is not None else network

    @property
    def rate(self) -> float:
        """The base's learning rate in the next step; all groups stand at the same share of theirs."""
        scheduler = self._scheduler
        return self._phase.lr * float(scheduler.get_last_lr()[0] / scheduler.base_lrs[0])

    @property
    def is_warming_up(self) -> bool:
        return self._done < self._phase.warmup * self._num_steps

    def prepare(self) -> None:
        """Set what learns in the next step, after whatever has left the network in another mode."""
        self._network.freeze_first(self._frozen_now())
        self._network.train_learning(batchnorm=self._phase.batchnorm == "train")
        if self._team.size > 1:  # anew, since it hooks on what learns
            ids = [torch.cuda.current_device()] if self._device.type == "cuda" else None
            self._model = DistributedDataParallel(
                _WeightedLogits(self._network), device_ids=ids, init_sync=False, **_OWN_STATISTICS
            )

    def __call__(
        self, images: torch.Tensor, aims: torch.Tensor, weights: torch.Tensor | None, *, num_images: int
    ) -> torch.Tensor:
        """Take a step on a batch.

        Args:
            images: This process's part of the batch, on the device, uint8, (B, H, W, 3) or (B, R, H, W, 3).
            aims: Class ids, shape (B,), or probabilities, shape (B, num_classes).
            weights: Of each image's loss, shape (B,); None: all the same.
            num_images: In the whole batch, over all processes.

        Returns:
            This part's share of the batch's loss, and the norm of the batch's gradient before clipping, on
            the device, shape (2,).

        Raises:
            TrainingError: the device's memory does not suffice for a single image, or, where several
                processes work on a batch, for this one's part of it.
        """
        if self._frozen_now() != self._network.num_frozen:
            self.prepare()
        while (loss := self._backward(images, aims, weights, num_images)) is None:
            if self._team.size > 1 or self.num_parts >= len(images):
                raise TrainingError(
                    f"the device's memory does not suffice for {-(-len(images) // self.num_parts)} images at "
                    "a time; a smaller training.batch_size, a smaller model.image_size or "
                    "training.precision=bf16 need less"
                )
            self.num_parts *= 2
            _log.warning(
                "the device's memory does not suffice: from here on each batch of %d is computed in %d "
                "parts; for the optimiser it stays one",
                num_images,
                self.num_parts,
            )
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self._training.grad_clip > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, self._training.grad_clip, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._scheduler.step()
        if self._ema is not None:
            self._ema.update(self._network)
        self._done += 1
        return torch.stack([loss, norm])

    def _backward(
        self, images: torch.Tensor, aims: torch.Tensor, weights: torch.Tensor | None, num_images: int
    ) -> torch.Tensor | None:
        """The gradients of a batch, part by part, and its loss; None where memory does not suffice."""
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._device)
        bounds = [len(images) * number // self.num_parts for number in range(self.num_parts + 1)]
        parts = [slice(start, end) for start, end in pairwise(bounds) if end > start]
        try:
            for number, part in enumerate(parts, start=1):
                waits = isinstance(self._model, DistributedDataParallel) and number < len(parts)
                with self._model.no_sync() if waits else nullcontext():  # type: ignore[operator]
                    with autocast(self._device, self._precision):
                        losses = [
                            share * self._loss(logits, aims[part], None if weights is None else weights[part])
                            for share, logits in self._model(images[part])
                        ]
                        loss = torch.stack(losses).sum()
                        if part.stop - part.start != num_images:
                            loss = loss * ((part.stop - part.start) / num_images)
                    # torch averages gradients over processes; here each has its share of one mean
                    self._scaler.scale(loss * self._team.size).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        except torch.OutOfMemoryError:
            return None
        return total

    def state(self) -> dict[str, Any]:
        """What `load` takes; the network's own tensors are not in it."""
        return {
            "done": self._done,
            "num_parts": self.num_parts,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "scaler": self._scaler.state_dict(),
            "ema": self._ema.state() if self._ema is not None else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._done, self.num_parts = state["done"], state["num_parts"]
        load_optimizer(self._optimizer, state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        self._scaler.load_state_dict(state["scaler"])
        if self._ema is not None:
            self._ema.load(state["ema"])

    def _frozen_now(self) -> int:
        return frozen_layers(self._network.blocks, self._phase, done=self._done / self._num_steps)

    def _loss(self, logits: torch.Tensor, aims: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        smoothing = self._training.label_smoothing
        if weights is None:
            return nn.functional.cross_entropy(logits, aims, label_smoothing=smoothing)
        losses = nn.functional.cross_entropy(logits, aims, label_smoothing=smoothing, reduction="none")
        return (losses * weights).mean()
