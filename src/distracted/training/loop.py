"""How one fold is trained, from top to bottom: its phases, then its predictions.

`train_fold` takes a network through the phases of the config. Phases of kind `features` and `head` fit the
head on the frozen base's features; a phase of kind `train` is gradient descent on augmented images
(`phase_training.py`). The last epoch, or an average of weights, predicts: nothing is chosen on the rows that
are scored. After each step, and each predicted batch, the state may be saved and the training stopped; it
goes on from there with the same bytes.
"""

import gc
import logging
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.loading import Loader
from distracted.data.picture_sets import Images
from distracted.inference.memory import naming_exhausted_memory
from distracted.inference.predict import predict_from_features
from distracted.metrics import scores
from distracted.models.network import Network, build_network
from distracted.models.weights import StateDict
from distracted.schema import FeaturesPhase, HeadPhase, TrainPhase, list_differences
from distracted.training.averaging import average, copy_state
from distracted.training.checkpoints import State, rounding_context
from distracted.training.context import FoldContext
from distracted.training.distributed import naming_lost_peers
from distracted.training.feed import Feed
from distracted.training.heads import fit_head, train_head
from distracted.training.phase_training import PhaseTraining
from distracted.training.plan import check_phases
from distracted.training.randomness import random_state, seed_everything, set_random_state

_log = logging.getLogger(__name__)

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

    def stop_if_far_enough(self) -> None:
        """Request a stop after the epochs that this process is to train; the next checkpoint obeys it."""
        context = self.context
        far_enough = context.stop_after is not None and self.clock.epoch >= context.stop_after
        if context.checkpoints is not None and far_enough:
            context.checkpoints.stop.ask(f"after epoch {self.clock.epoch}, as asked")

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
