"""One step of gradient descent: what learns now, its gradients, and what they change."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from distracted.inference.device import Precision, autocast
from distracted.models.blocks import frozen_layers
from distracted.models.network import Network
from distracted.schema import TrainingConfig, TrainPhase
from distracted.training.averaging import Ema
from distracted.training.optim import load_optimizer, make_optimizer, make_scheduler


class Stepper:
    """Takes the optimiser steps of one phase.

    Attributes:
        predicts: The network that would predict now: the moving average where there is one.

    Args:
        num_steps: Of the whole phase.
        share: What `plateau` has come down to, asked at each step.
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
    ) -> None:
        network.zero_grad(set_to_none=True)  # of what an earlier phase trained
        self._network, self._phase, self._training = network, phase, training
        self._device, self._precision = device, precision
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

    def __call__(
        self, images: torch.Tensor, aims: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """Take a step on a batch.

        Args:
            images: On the device, uint8, shape (B, H, W, 3) or (B, R, H, W, 3).
            aims: Class ids, shape (B,), or probabilities, shape (B, num_classes).
            weights: Of each image's loss, shape (B,); None: all the same.

        Returns:
            The loss, and the norm of its gradient before clipping, on the device, shape (2,).
        """
        if self._frozen_now() != self._network.num_frozen:
            self.prepare()
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self._device, self._precision):
            losses = [
                share * self._loss(logits, aims, weights)
                for share, logits in self._network.weighted_logits(images)
            ]
            loss = torch.stack(losses).sum()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
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
        return torch.stack([loss.detach(), norm])

    def state(self) -> dict[str, Any]:
        """What `load` takes; the network's own tensors are not in it."""
        return {
            "done": self._done,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "scaler": self._scaler.state_dict(),
            "ema": self._ema.state() if self._ema is not None else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._done = state["done"]
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
