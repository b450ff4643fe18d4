"""One phase of gradient descent: epochs, batches, the step."""

import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distracted.data.loading import Batch
from distracted.errors import TrainingError
from distracted.inference.device import autocast, prefetch
from distracted.inference.memory import Attempt, release_memory
from distracted.inference.repeatable import allow_unrepeatable
from distracted.models.blocks import frozen_layers
from distracted.models.network import Network
from distracted.models.weights import StateDict
from distracted.progress import Advance
from distracted.schema import TrainPhase
from distracted.training.averaging import Ema, copy_state
from distracted.training.checkpoints import State
from distracted.training.distributed import WeightedLogits, data_parallel, running_statistics
from distracted.training.early_stopping import EarlyStopping
from distracted.training.losses import make_criterion
from distracted.training.optim import load_optimizer, make_optimizer, make_scheduler
from distracted.training.training_set import TrainingSet

if TYPE_CHECKING:
    from distracted.training.loop import FoldTraining

_log = logging.getLogger(__name__)

_CHECK_EVERY = 10  # steps between looks at loss and gradient norm: each look waits for the device


class PhaseTraining:
    """One phase of gradient descent on augmented images.

    Every ten steps it tracks `train/epoch`, `train/loss`, `train/lr`, `train/grad_norm` (before clipping)
    and `train/images_per_second`; after each epoch `train/epoch_loss` and the scores of
    `FoldTraining.evaluate`. The losses are those that are minimised, on mixed images and smoothed targets
    where the config asks for them: they are not comparable with those of a run without.

    Attributes:
        predictor: The network that would predict now: the moving average (EMA) if there is one.
        micro_batches: Number of parts that each batch is computed in; doubled when memory runs out.
    """

    def __init__(self, training: "FoldTraining", name: str, phase: TrainPhase) -> None:
        context, network = training.context, training.network
        config = context.config.training
        self.training, self.context, self.config = training, context, config
        self.name, self.phase, self.network = name, phase, network
        self.clock, self.team, self.device = training.clock, context.team, context.device
        self.training_set = TrainingSet(context, training.feed, phase)
        self.loader = self.training_set.loader
        labels, num_classes = context.folds.labels[context.train_rows], context.num_classes
        self.criterion = make_criterion(config, labels=labels, num_classes=num_classes, device=self.device)
        network.zero_grad(set_to_none=True)  # of an earlier phase
        self.early_stopping = EarlyStopping(phase)
        self.num_steps = phase.epochs * len(self.loader)
        self.optimizer = make_optimizer(network, phase)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        stopping = self.early_stopping
        self.scheduler = make_scheduler(self.optimizer, phase, self.num_steps, lambda: stopping.rate_factor)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=context.precision == "fp16")
        self.ema = Ema(network, config.ema) if config.ema > 0 else None
        self.predictor = network if self.ema is None else self.ema.network
        self.model: nn.Module = WeightedLogits(network)
        self.micro_batches = 1
        self.has_begun = False
        self.is_tried = False  # on a copy of the network, by this process
        self.epoch, self.batch, self.steps_done = 0, 0, 0  # of the phase, of the epoch, of the phase
        self.loss_sum, self.loss_count = 0.0, 0  # of the epoch
        self.unread: list[Tensor] = []  # losses and gradient norms that are still on the device
        self.epoch_ends: deque[StateDict] = deque(maxlen=phase.soup - 1)  # weights, for the soup

    def run(self) -> Network:
        """Train; returns the network that predicts: EMA, best epoch or soup as the config says.

        Raises:
            TrainingError: the loss is not finite; says step and learning rate.
        """
        phase, predictor, early_stopping = self.phase, self.predictor, self.early_stopping
        if phase.watches and not self.has_begun:  # an epoch counts as better only if it beats the start
            early_stopping.update(self.training.evaluate(predictor)[self._watched], predictor)
        self.has_begun = True
        left = (phase.epochs - self.epoch) * self.loader.num_images - self.loader.num_before(self.batch)
        label = f"{self.context.label}, {self.name}"
        with self.context.progress(label, total=left, unit="img") as advance:
            while self.epoch < phase.epochs and not early_stopping.should_stop:
                self.run_epoch(advance)
                self.end_epoch()
        if early_stopping.should_stop:
            _log.info("%s: %d epochs without improvement; stopped", label, early_stopping.epochs_since_best)
        early_stopping.restore_best(predictor)
        if ends := list(self.epoch_ends):
            self.training.average(predictor, ends, share=1 / (1 + len(ends)), loader=self.loader)
        return predictor

    def run_epoch(self, advance: Advance) -> None:
        """Train on the batches of the epoch that are left."""
        self.set_modes()  # evaluation has left the network in eval mode
        last_look, num_images = time.perf_counter(), 0
        batches = self.loader.epoch(self.clock.epoch, after=self.batch)
        for batch in prefetch(batches, self.device):
            if self.epoch and not self.batch and self.phase.soup > 1:  # after the wait, in which a stop saves
                self.epoch_ends.append(copy_state(self.predictor))
            rate = self.learning_rate
            self.unread.append(self.step(batch))
            self.batch += 1
            self.clock.step += 1
            self.clock.images += len(batch.images)
            num_images += len(batch.images)
            if len(self.unread) == _CHECK_EVERY or self.batch == len(self.loader):
                metrics = self._read_losses(rate)
                now = time.perf_counter()
                metrics["train/images_per_second"] = num_images / (now - last_look)
                self.clock.seconds += now - last_look
                epoch = self.clock.epoch + self.batch / len(self.loader)
                self._track({"train/epoch": epoch, **metrics})
                last_look, num_images = now, 0
                advance(len(batch.images), loss=self.loss_sum / self.loss_count, lr=rate)
            else:
                advance(len(batch.images))
            self.training.checkpoint()

    def step(self, batch: Batch) -> Tensor:
        """One optimiser step: forward, loss, backward, clip, optimiser, schedule, EMA.

        Args:
            batch: On the device; of a team's batch this process's part.

        Returns:
            Loss (of a team: this part's share of it) and gradient norm before clipping, on the device, (2,).

        Raises:
            TrainingError: the device's memory does not hold a single image, or a team's part of the batch.
        """
        epoch, number = self.clock.epoch, self.batch + 1
        images, targets, image_weights = self.training_set.inputs(batch, epoch=epoch, number=number)
        num_images = self.loader.num_before(number) - self.loader.num_before(self.batch)
        if self._num_frozen() != self.network.num_frozen:  # unfreeze: gradual
            self.set_modes()
        if not self.is_tried:
            self._try_on_copy(images[:2], targets[:2], None if image_weights is None else image_weights[:2])
        while (loss := self._gradients(images, targets, image_weights, num_images)) is None:
            self._halve_micro_batches(len(images), num_images)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.config.grad_clip > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.grad_clip, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update()
        self.steps_done += 1
        return torch.stack([loss, norm])

    def _try_on_copy(self, images: Tensor, targets: Tensor, image_weights: Tensor | None) -> None:
        """Find operations that the device cannot repeat before a step of the phase meets one."""

        def loss(network: Network) -> Tensor:
            with autocast(self.device, self.context.precision):
                return self._loss(network.weighted_logits(images), targets, image_weights)

        allow_unrepeatable(self.network, loss)
        self.is_tried = True

    def _loss(
        self, outputs: list[tuple[float, Tensor]], targets: Tensor, image_weights: Tensor | None
    ) -> Tensor:
        """Mean loss of some images: the head's and those of the auxiliary heads."""
        losses = [weight * self.criterion(logits, targets, image_weights) for weight, logits in outputs]
        return torch.stack(losses).sum()

    def _gradients(
        self, images: Tensor, targets: Tensor, image_weights: Tensor | None, num_images: int
    ) -> Tensor | None:
        """Gradients of a batch, one micro-batch after another, and its loss; None: out of memory."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        bounds = [len(images) * n // self.micro_batches for n in range(self.micro_batches + 1)]
        slices = [slice(start, end) for start, end in pairwise(bounds) if end > start]
        with Attempt() as attempt:
            for number, rows in enumerate(slices, start=1):
                waits = isinstance(self.model, DistributedDataParallel) and number < len(slices)
                with self.model.no_sync() if waits else nullcontext():  # type: ignore[operator]
                    with autocast(self.device, self.context.precision):
                        weights = None if image_weights is None else image_weights[rows]
                        loss = self._loss(self.model(images[rows]), targets[rows], weights)
                        if rows.stop - rows.start != num_images:
                            loss = loss * ((rows.stop - rows.start) / num_images)
                    # DDP averages gradients over processes; here each has its share of one mean
                    self.scaler.scale(loss * self.team.size).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        return None if attempt.failure else total

    def _halve_micro_batches(self, num_here: int, num_images: int) -> None:
        if self.team.size > 1 or self.micro_batches >= num_here:
            raise TrainingError(
                f"the device's memory does not hold {-(-num_here // self.micro_batches)} images at a time; a "
                "smaller training.batch_size, a smaller model.image_size or training.precision=auto need less"
            )
        self.micro_batches *= 2
        self.optimizer.zero_grad(set_to_none=True)
        release_memory(self.device)
        _log.warning(
            f"the device ran out of memory: from now on each batch of {num_images} is computed in "
            f"{self.micro_batches} micro-batches; for the optimiser it stays one batch"
        )

    def set_modes(self) -> None:
        """Set which layers learn and which modules are in training mode."""
        self.network.freeze_first(self._num_frozen())
        self.network.train_learning(batchnorm=self.phase.batchnorm == "train")
        if self.team.size > 1:  # its hooks are for the parameters that learn now
            self.model = data_parallel(self.network, self.team, self.device)

    def _num_frozen(self) -> int:
        return frozen_layers(self.network.blocks, self.phase, done=self.steps_done / self.num_steps)

    def _read_losses(self, rate: float) -> dict[str, float]:
        """Fetch the losses and norms since the last look from the device, and check them."""
        shares, norms = torch.stack(self.unread).cpu().double().unbind(1)
        losses = self.team.sum(shares.contiguous())
        if not losses.isfinite().all():
            step = self.clock.step - len(self.unread) + 1 + int((~losses.isfinite()).int().argmax())
            raise TrainingError(
                f"the loss is {losses[~losses.isfinite()][0].item()} at step {step} (learning rate about "
                f"{rate:.2g}); a lower rate (SET='phases.<phase>.lr=...'), training.grad_clip=1 or another "
                "seed may help"
            )
        self.loss_sum, self.loss_count = self.loss_sum + float(losses.sum()), self.loss_count + len(losses)
        self.unread.clear()
        if not norms.isfinite().any() and self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            raise TrainingError(
                f"the gradients overflow in fp16 at every step up to {self.clock.step}, so that nothing is "
                "learned; SET='training.precision=fp32', or bf16 on a card that has it"
            )
        metrics = {"train/loss": float(losses.mean()), "train/lr": rate}
        if norms.isfinite().all():  # not so in an fp16 step that the scaler skips
            metrics["train/grad_norm"] = float(norms.mean())
        return metrics

    def end_epoch(self) -> None:
        """Score the epoch, and note whether it was better."""
        if self.phase.batchnorm == "train":
            for network in (self.network, self.predictor):
                self.team.average_statistics(network)
        metrics, loss = self.training.evaluate(self.predictor), self.loss_sum / self.loss_count
        self._track({"epoch": self.clock.epoch + 1, "train/epoch_loss": loss, **metrics})
        if self.phase.watches:
            warming_up = self.steps_done < self.phase.warmup * self.num_steps
            self.early_stopping.update(metrics[self._watched], self.predictor, warming_up=warming_up)
        self.clock.epoch += 1
        self.epoch, self.batch, self.loss_sum, self.loss_count = self.epoch + 1, 0, 0.0, 0
        self.training.stop_if_far_enough()
        self.training.checkpoint(boundary=True)

    def _track(self, metrics: dict[str, float]) -> None:
        self.context.tracker.log({"phase": self.name, **metrics}, step=self.clock.step)

    @property
    def _watched(self) -> str:
        return "valid/log_loss" if self.config.leaky else "holdout/log_loss"

    @property
    def learning_rate(self) -> float:
        """The base's rate in the next step; all parameter groups stand at the same share of theirs."""
        return self.phase.lr * float(self.scheduler.get_last_lr()[0] / self.scheduler.base_lrs[0])

    def _statistics(self) -> list[Tensor]:
        """BatchNorm's running statistics of this process, of the network and of the predictor."""
        networks = [self.network, self.predictor]
        return [tensor for network in networks for tensor in running_statistics(network).values()]

    def state_dict(self) -> State:
        """Where the phase stands, without the network's own tensors."""
        return {
            "begun": self.has_begun,
            "epoch": self.epoch,
            "batch": self.batch,
            "total": self.loss_sum,
            "count": self.loss_count,
            "waiting": self.unread,  # of the lead
            "waiting_of_team": self.team.gather([tensor.cpu() for tensor in self.unread]),
            "earlier": list(self.epoch_ends),
            "watch": self.early_stopping.state_dict(),
            "stepper": {
                "done": self.steps_done,
                "num_parts": self.micro_batches,
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "ema": self.ema.state_dict() if self.ema is not None else None,
            },
            "statistics": self.team.gather([tensor.cpu() for tensor in self._statistics()]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same phase."""
        self.has_begun, self.epoch, self.batch = state["begun"], state["epoch"], state["batch"]
        self.loss_sum, self.loss_count = state["total"], state["count"]
        unread, of_team = state["waiting"], state.get("waiting_of_team", [])
        if len(of_team) == self.team.size:
            unread = of_team[self.team.rank]
        self.unread = [tensor.to(self.device) for tensor in unread]
        self.epoch_ends.extend(state["earlier"])
        self.early_stopping.load_state_dict(state["watch"])
        step = state["stepper"]
        self.steps_done, self.micro_batches = step["done"], step["num_parts"]
        load_optimizer(self.optimizer, step["optimizer"])
        self.scheduler.load_state_dict(step["scheduler"])
        self.scaler.load_state_dict(step["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(step["ema"])
        statistics = state.get("statistics", [])
        if len(statistics) == self.team.size > 1:
            for tensor, own in zip(self._statistics(), statistics[self.team.rank], strict=True):
                tensor.copy_(own)
