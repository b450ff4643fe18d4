"""How one fold is trained, from top to bottom: phases, epochs, batches, the step; then its predictions.

`train_fold` takes a network through the phases of the config. Phases of kind `features` and `head` fit the
head on the frozen base's features; a phase of kind `train` is gradient descent on augmented images
(`PhaseTraining`). The last epoch, or an average of weights, predicts: nothing is chosen on the rows that
are scored. After each step, and each predicted batch, the state may be saved and the training stopped; it
goes on from there with the same bytes.
"""

import gc
import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distracted.data.loading import Batch, Loader
from distracted.data.picture_sets import Images
from distracted.errors import TrainingError
from distracted.inference.device import autocast, prefetch
from distracted.inference.memory import Attempt, naming_exhausted_memory, release_memory
from distracted.inference.predict import predict_from_features
from distracted.inference.repeatable import allow_unrepeatable
from distracted.metrics import scores
from distracted.models.blocks import frozen_layers
from distracted.models.network import Network, build_network
from distracted.models.weights import StateDict
from distracted.progress import Advance
from distracted.schema import FeaturesPhase, HeadPhase, TrainPhase, list_differences
from distracted.training.averaging import Ema, average, copy_state
from distracted.training.checkpoints import State, rounding_context
from distracted.training.context import FoldContext
from distracted.training.distributed import (
    WeightedLogits,
    data_parallel,
    naming_lost_peers,
    running_statistics,
)
from distracted.training.early_stopping import EarlyStopping
from distracted.training.feed import Feed
from distracted.training.heads import fit_head, train_head
from distracted.training.losses import make_criterion
from distracted.training.optim import load_optimizer, make_optimizer, make_scheduler
from distracted.training.plan import check_phases
from distracted.training.randomness import random_state, seed_everything, set_random_state
from distracted.training.training_set import TrainingSet

_log = logging.getLogger(__name__)

_CHECK_EVERY = 10  # steps between looks at loss and gradient norm: each look waits for the device

Rows = NDArray[np.int64]
LogProbs = NDArray[np.float32]


@dataclass(frozen=True)
class FoldResult:
    """The predictions of one fold, and facts about its training.

    Attributes:
        valid: Log-probabilities of the held-out rows, in the order of `Folds.valid(fold)`, (num_valid,
            num_classes).
        test: Log-probabilities of the test images, in the competition's order, (num_test, num_classes).
        network: The network that predicted.
        num_dropped: Images that the drop list left out of the training side.
        num_resumed: How often the training resumed from a checkpoint.
        micro_batches: Micro-batches per batch; above 1 only after the device ran out of memory.
    """

    valid: LogProbs
    test: LogProbs
    network: Network
    scores: dict[str, float]
    seconds: float
    images_per_second: float
    num_dropped: int
    num_resumed: int
    micro_batches: int


def train_fold(context: FoldContext) -> FoldResult:
    """Train one fold through the config's phases and predict its held-out subjects and the test set.

    All random numbers derive from the seed and the fold.

    Raises:
        ImageError: an image cannot be read.
        TrainingError: the loss is not finite, or the device's memory holds not even one image.
        CheckpointError: the checkpoint belongs to another training.
        Stopped: a stop was requested; the state is on disk.
    """
    with naming_lost_peers(), naming_exhausted_memory():
        gc.collect()  # an earlier fold's network and loader: their owners refer to each other
        context.team.wait()  # until the lead has the fold's lock
        seed_everything(context.config.training.seed, context.fold)
        training = FoldTraining(context)
        training.resume_or_start()
        for name, phase in list(context.config.phases.items())[training.num_phases_done :]:
            if isinstance(phase, TrainPhase):
                training.train(name, phase)
            else:
                training.fit_head(name, phase)
            training.end_phase()
        return training.predict()


@dataclass
class Clock:
    """Progress over all phases.

    Attributes:
        epoch: Completed epochs; augmentation and shuffling derive from it.
        step: Optimiser steps; images: trained on; seconds: spent on them.
    """

    epoch: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0


class FoldTraining:
    """The training of one fold: its network, and all that a checkpoint holds."""

    def __init__(self, context: FoldContext) -> None:
        self.context, self.config, self.team = context, context.config, context.team
        self.clock = Clock()
        self.started = time.perf_counter()  # minus the seconds before the last checkpoint
        self.num_resumed, self.micro_batches = 0, 1
        self.num_phases_done = 0
        self.phase: PhaseTraining | None = None  # the running one
        self.phase_state: State | None = None  # of the interrupted phase, until it resumes
        self.is_between = False  # while a head is fitted or weights are averaged, no checkpoint is possible
        self.base_changed = False  # until then, cached features of the pretrained base are valid
        self.before_base: StateDict = {}  # the network before its base learned, for training.tuned_share
        self.predicted: dict[str, list[LogProbs]] = {}  # batches of the final predictions, by set
        # Processes of a team predict different numbers of batches, and cannot agree on a checkpoint there.
        after_batch = self.checkpoint if self.team.size == 1 else lambda: None
        self.feed = Feed(
            context.resolved, context.cache, context.progress, after_batch, self.team, self.while_waiting
        )

    # Start, checkpoint, resume

    def resume_or_start(self) -> None:
        """Build the network, and load the newest checkpoint if there is one."""
        checkpoints = self.context.checkpoints
        state = checkpoints.load() if checkpoints is not None else None
        if state is not None:
            self.context = self.context.going_on_from(state)
        context = self.context
        if number := context.num_dropped:
            _log.info("%s: %d images left out of training by the drop list", context.label, number)
        network = build_network(self.config.model, context.resolved.weights, num_classes=context.num_classes)
        self.network = network.to(context.device)
        check_phases(network, self.config.phases)
        self.team.follow_lead(network)
        if self.team.rank:  # each process drops other units
            torch.manual_seed(torch.initial_seed() + self.team.rank)
        if state is None:
            context.tracker.rewind(0)
        else:
            self.load_state_dict(state)
            _log.info("%s: goes on from step %d", context.label, self.clock.step)

    def end_phase(self) -> None:
        self.num_phases_done, self.phase, self.is_between = self.num_phases_done + 1, None, False
        self.checkpoint(boundary=True)

    def checkpoint(self, boundary: bool = False) -> None:
        """Save if a checkpoint is due, and stop if a stop was requested."""
        if self.context.checkpoints is not None and not self.is_between:
            self.context.checkpoints.after_step(self.state_dict, boundary=boundary)

    def while_waiting(self) -> None:
        """Stop by request while no batch arrives; save the state where that is possible."""
        checkpoints = self.context.checkpoints
        if checkpoints is None or self.team.size > 1:  # a team stops only where it agrees to
            return
        if checkpoints.stop.reason:
            self.checkpoint()
            checkpoints.stop.check()

    def state_dict(self) -> State:
        """Everything that the rest of the training and its result depend on."""
        device = self.context.device
        return {
            "network": self.network.state_dict(),
            "clock": asdict(self.clock),
            "seconds": time.perf_counter() - self.started,
            "num_resumed": self.num_resumed,
            "num_phases": self.num_phases_done,
            "running": self.phase.state_dict() if self.phase is not None else self.phase_state,
            "untouched": not self.base_changed,
            "start": self.before_base,
            "predicted": {
                name: {"rows": torch.from_numpy(np.concatenate(batches)), "sizes": [len(b) for b in batches]}
                for name, batches in self.predicted.items()
                if batches
            },
            "num_parts": self.micro_batches,
            "random": self.team.gather(random_state(device)),
            "tracked": self.context.tracker.tell(),
            "made_with": rounding_context(device, self.team),
            "holdout": torch.from_numpy(self.context.holdout_rows),
        }

    def load_state_dict(self, state: State) -> None:
        device, made_with = self.context.device, state["made_with"]
        if changed := list_differences(made_with, rounding_context(device, self.team)):
            _log.warning("%s: begun with %s: predictions may differ in rounding", self.context.label, changed)
        self.network.load_state_dict(state["network"])
        self.clock = Clock(**state["clock"])
        self.started = time.perf_counter() - state["seconds"]
        self.num_resumed, self.micro_batches = state["num_resumed"] + 1, state["num_parts"]
        self.num_phases_done, self.phase_state = state["num_phases"], state["running"]
        self.base_changed, self.before_base = not state["untouched"], state["start"]
        self.predicted = {
            name: [batch.numpy() for batch in saved["rows"].split(saved["sizes"])]
            for name, saved in state["predicted"].items()
        }
        if len(state["random"]) == self.team.size:
            set_random_state(state["random"][self.team.rank], device)
        self.context.tracker.rewind(state["tracked"])

    # Phases

    def fit_head(self, name: str, phase: FeaturesPhase | HeadPhase) -> None:
        """Fit the head on the frozen base's features of plain training images."""
        context, network = self.context, self.network
        rows, labels = context.train_rows, context.folds.labels
        features = self.feed.features(network, context.train_images)
        self.is_between = True
        if isinstance(phase, FeaturesPhase):
            fit_head(network, features[rows], labels[rows], phase)
        else:
            label, seed = f"{context.label}, {name}", self.config.training.seed
            progress = context.progress
            train_head(network, features, labels, rows, phase, seed=seed, progress=progress, label=label)
        self.team.follow_lead(network)
        metrics = self.evaluate(network)
        context.tracker.log({"phase": name, "epoch": 0, **metrics}, step=self.clock.step)

    def train(self, name: str, phase: TrainPhase) -> None:
        """Gradient descent on augmented images; then back towards the start as `tuned_share` asks."""
        self.base_changed = True
        tuned_share = self.config.training.tuned_share
        if tuned_share < 1 and phase.trains_base and not self.before_base:
            self.before_base = copy_state(self.network)
        run = PhaseTraining(self, name, phase)
        if self.phase_state is not None:
            run.load_state_dict(self.phase_state)
            self.phase_state = None
        self.phase = run
        self.network = run.run()
        self.micro_batches = max(self.micro_batches, run.micro_batches)
        phases = self.config.phases.items()
        of_base = [other for other, p in phases if isinstance(p, TrainPhase) and p.trains_base]
        if tuned_share < 1 and name == of_base[-1]:
            self.average(self.network, [self.before_base], share=1 - tuned_share, loader=run.loader)

    def average(self, network: Network, others: list[StateDict], *, share: float, loader: Loader) -> None:
        """Average the network with earlier states of it, in place; `share` is the weight of each of them."""
        self.is_between = True
        batches = loader.epoch(self.clock.epoch)
        average(network, others, share, batches=batches, precision=self.context.precision)
        self.team.average_statistics(network)

    # Scores and predictions

    def evaluate(self, network: Network) -> dict[str, float]:
        """Scores on the inner holdout, and on the scored fold, which affect training only with LEAKY=1."""
        context, labels = self.context, self.context.folds.labels
        metrics: dict[str, float] = {}
        if len(rows := context.holdout_rows):
            log_probs = self._log_probs(network, context.train_images, rows, "inner holdout")
            metrics |= scores(log_probs, labels[rows], prefix="holdout/")
        if self.config.runtime.validate_every_epoch or self.config.training.leaky:
            rows = context.valid_rows
            log_probs = self._log_probs(network, context.train_images, rows, "validating")
            metrics |= scores(log_probs, labels[rows], prefix="valid/")
        return metrics

    def predict(self) -> FoldResult:
        """Predict the held-out subjects and the test set."""
        context, network = self.context, self.network
        self.team.follow_lead(network)
        rows, test_images = context.valid_rows, context.test_images
        valid = self._log_probs(network, context.train_images, rows, "held-out subjects", final="valid")
        test = self._log_probs(network, test_images, test_images.rows, "test set", final="test")
        valid_scores = scores(valid, context.folds.labels[rows], prefix="valid/")
        seconds = time.perf_counter() - self.started
        speed = self.clock.images / self.clock.seconds if self.clock.seconds else 0.0
        context.tracker.summarise({**valid_scores, "seconds": seconds, "images_per_second": speed})
        return FoldResult(
            valid,
            test,
            network,
            valid_scores,
            seconds=seconds,
            images_per_second=speed,
            num_dropped=context.num_dropped,
            num_resumed=self.num_resumed,
            micro_batches=self.micro_batches,
        )

    def _log_probs(
        self, network: Network, images: Images, rows: Rows, label: str, final: str = ""
    ) -> LogProbs:
        """Log-probabilities of some rows, (num_rows, num_classes); `final` names those to checkpoint."""
        # Features of a flattened map would fill the disk: only those of the training images are cached.
        if not self.base_changed and (images is self.context.train_images or not network.taken[1]):
            return predict_from_features(network, self.feed.features(network, images), rows)
        done = self.predicted.setdefault(final, []) if final and self.team.size == 1 else None
        return self.feed.log_probs(network, images, rows, f"{self.context.label}, {label}", done=done)


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

    def __init__(self, training: FoldTraining, name: str, phase: TrainPhase) -> None:
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
        """Gradients of a batch and its loss; None: out of memory.

        With `sharpness` the gradients are those at the worst weights nearby (SAM, Foret et al. 2021): one
        step of that length along the gradient, which is taken back before the optimiser's step.
        """
        inputs = images, targets, image_weights, num_images
        loss = self._forward_backward(*inputs)
        if loss is None or not self.phase.sharpness:
            return loss
        learning = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in learning if p.grad is not None]
        scale = self.phase.sharpness / (nn.utils.get_total_norm(gradients) + 1e-12)
        before = [p.detach().clone() for p in learning]
        with torch.no_grad():
            torch._foreach_add_(learning, torch._foreach_mul(gradients, scale))
        worst = self._forward_backward(*inputs)
        with torch.no_grad():
            torch._foreach_copy_(learning, before)
        return None if worst is None else loss

    def _forward_backward(
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
