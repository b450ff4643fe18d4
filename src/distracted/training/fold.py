"""One fold of one run: through its phases, then its held-out subjects and the test set predicted."""

import logging
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.competition import Competition
from distracted.data.drops import keep_rows
from distracted.data.folds import Folds, hold_back
from distracted.data.loading import Beside
from distracted.inference.predict import predict_from_features
from distracted.metrics import scores
from distracted.models.network import Network, build_network
from distracted.models.weights import StateDict
from distracted.progress import Progress, silent
from distracted.schema import FeaturesPhase, RunConfig, TrainPhase
from distracted.training.averaging import average, copy_state
from distracted.training.feed import Feed, Images
from distracted.training.heads import fit_head, train_head
from distracted.training.mixing import Mixer, share_with_partner
from distracted.training.phases import Clock, run_phase
from distracted.training.plan import check_phases
from distracted.training.pseudo import PseudoLabels, joint_targets
from distracted.training.resolve import Settled
from distracted.training.tracking import Tracker

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldResult:
    """What one fold predicts.

    Attributes:
        valid: Log-probabilities of the held-out rows, in the order of `Folds.valid(fold)`, (num_valid,
            num_classes).
        test: Log-probabilities of the test images, in the competition's order, (num_test, num_classes).
        network: The network that predicted.
        num_dropped: Images that the drop list left out of the training side.
    """

    valid: NDArray[np.float32]
    test: NDArray[np.float32]
    network: Network
    scores: dict[str, float]
    seconds: float
    images_per_second: float
    num_dropped: int = 0


@dataclass
class _Fold:
    """What the steps of one fold's training share."""

    settled: Settled
    competition: Competition
    folds: Folds
    fold: int
    cache: Path
    progress: Progress
    tracker: Tracker
    label: str
    pseudo: PseudoLabels | None = None
    clock: Clock = field(default_factory=Clock)
    untouched: bool = True  # the trunk: its cached features are still those of the network
    start: StateDict = field(default_factory=dict)  # the network before its base learned, where it goes back

    def __post_init__(self) -> None:
        self.feed = Feed(self.settled, self.cache, self.progress)
        self.train, self.test = Images.to_train(self.competition), Images.to_test(self.competition)
        self.valid_rows = self.folds.valid(self.fold)
        training = self.settled.config.training
        rows, self.held_back = hold_back(self.folds, self.fold, share=training.holdout, seed=training.seed)
        self.rows = keep_rows(self.competition, self.folds, self.fold, rows)
        self.num_dropped = len(rows) - len(self.rows)

    @property
    def config(self) -> RunConfig:
        return self.settled.config

    @property
    def last_of_base(self) -> str:
        """The last phase in which the base learns."""
        phases = reversed(self.config.phases.items())
        return next(name for name, phase in phases if isinstance(phase, TrainPhase) and phase.trains_base)

    def predict(
        self, network: Network, images: Images, rows: NDArray[np.int64], what: str
    ) -> NDArray[np.float32]:
        """Log-probabilities of some rows: from the base's features as long as nothing has changed it."""
        if self.untouched and (images is self.train or not network.taken[1]):  # un-pooled, they fill a disk
            return predict_from_features(network, self.feed.features(network, images), rows)
        return self.feed.log_probs(network, images, rows, f"{self.label}, {what}")


def train_fold(
    settled: Settled,
    fold: int,
    *,
    competition: Competition,
    folds: Folds,
    cache: Path,
    tracker: Tracker,
    pseudo: PseudoLabels | None = None,
    label: str = "",
    progress: Progress = silent,
) -> FoldResult:
    """Train one fold through the config's phases and predict its held-out subjects and the test set.

    The last epoch (or an average of weights) predicts: nothing is chosen on the rows that are scored.
    Everything random derives from the seed and the fold.

    Args:
        cache: The data set's cache folder.
        pseudo: What phases of kind train learn from beside the training side.
        label: Shown with the progress, such as "resnet50, fold 0".

    Raises:
        ImageError: an image cannot be read.
        TrainingError: the loss is not finite.
    """
    start = time.perf_counter()
    config = settled.config
    seed_everything(config.training.seed, fold)
    job = _Fold(settled, competition, folds, fold, cache, progress, tracker, label, pseudo)
    if job.num_dropped:
        _log.info("%s: %d images left out of training by the drop list", label, job.num_dropped)
    network = build_network(config.model, settled.weights, num_classes=competition.num_classes).to(
        settled.device
    )
    check_phases(network, config.phases)
    labels = folds.labels
    for name, phase in config.phases.items():
        if isinstance(phase, TrainPhase):
            network = _train(job, network, name, phase)
            continue
        features = job.feed.features(network, job.train)
        if isinstance(phase, FeaturesPhase):
            fit_head(network, features[job.rows], labels[job.rows], phase)
        else:
            train_head(
                network,
                features,
                labels,
                job.rows,
                phase,
                seed=config.training.seed,
                progress=progress,
                label=f"{label}, {name}",
            )
        tracker.log({"phase": name, "epoch": 0, **_look(job, network)}, step=job.clock.step)
    valid = job.predict(network, job.train, job.valid_rows, "held-out subjects")
    result = FoldResult(
        valid=valid,
        test=job.predict(network, job.test, job.test.rows, "test set"),
        network=network,
        scores=scores(valid, labels[job.valid_rows], prefix="valid/"),
        seconds=time.perf_counter() - start,
        images_per_second=job.clock.images / job.clock.seconds if job.clock.seconds else 0.0,
        num_dropped=job.num_dropped,
    )
    tracker.summarise(
        {**result.scores, "seconds": result.seconds, "images_per_second": result.images_per_second}
    )
    return result


def _train(job: _Fold, network: Network, name: str, phase: TrainPhase) -> Network:
    config, device = job.config, job.settled.device
    job.untouched = False
    subjects = job.folds.subjects[job.rows] if config.training.sampling == "subjects" else None
    policy = phase.augment or config.augment.policy
    images, beside, weights = job.train, None, None
    targets = torch.tensor(job.folds.labels)
    if job.pseudo is not None:
        images = job.train.and_then(job.pseudo.images)
        beside = Beside(images.rows[len(job.train.paths) :], config.pseudo.share)
        targets, weights = joint_targets(job.folds.labels, job.rows, job.pseudo, weight=config.pseudo.weight)
    loader = job.feed.loader(images, job.rows, policy, subjects=subjects, beside=beside)
    goes_back = config.training.tuned_share < 1 and phase.trains_base
    if goes_back and not job.start:
        job.start = copy_state(network)
    network = run_phase(
        network,
        name,
        phase,
        loader=loader,
        targets=targets.to(device),
        weights=None if weights is None else weights.to(device),
        training=config.training,
        device=device,
        precision=job.settled.precision,
        clock=job.clock,
        tracker=job.tracker,
        progress=job.progress,
        label=f"{job.label}, {name}",
        after_epoch=lambda network: _look(job, network),
        watched="valid/log_loss" if config.training.leaky else "holdout/log_loss",
        mixer=_make_mixer(job) if config.mixing.on else None,
    )
    if goes_back and name == job.last_of_base:
        average(
            network,
            [job.start],
            share=1 - config.training.tuned_share,
            loader=loader,
            epoch=job.clock.epoch,
            device=device,
            precision=job.settled.precision,
        )
    return network


def _make_mixer(job: _Fold) -> Mixer:
    training, labels, subjects = job.config.training, job.folds.labels, job.folds.subjects
    if job.config.mixing.stitch.prob > 0:
        found = share_with_partner(labels[job.rows], subjects[job.rows], batch_size=training.batch_size)
        _log.info(
            "mixing.stitch: in batches of %d, %.0f%% of the images find another of their class and another "
            "subject; the rest stay as they are",
            training.batch_size,
            100 * found,
        )
    return Mixer(
        job.config.mixing,
        labels=labels,
        subjects=subjects,
        num_classes=job.competition.num_classes,
        seed=training.seed,
    )


def _look(job: _Fold, network: Network) -> dict[str, float]:
    """Scores on what is held back from training, and on the scored fold for reading (or by LEAKY=1)."""
    config = job.config
    found: dict[str, float] = {}
    if len(job.held_back):
        log_probs = job.predict(network, job.train, job.held_back, "inner holdout")
        found |= scores(log_probs, job.folds.labels[job.held_back], prefix="holdout/")
    if config.runtime.validate_every_epoch or config.training.leaky:
        log_probs = job.predict(network, job.train, job.valid_rows, "validating")
        found |= scores(log_probs, job.folds.labels[job.valid_rows], prefix="valid/")
    return found


def seed_everything(seed: int, fold: int) -> None:
    """Seed the global generators that torch, sklearn and timm draw from; cuDNN repeats itself, too."""
    derived = int(np.random.SeedSequence([seed % 2**63, fold]).generate_state(1)[0])
    torch.manual_seed(derived)
    np.random.seed(derived)  # noqa: NPY002 - third parties draw from it
    random.seed(derived)
    torch.backends.cudnn.deterministic = True  # its fastest convolutions add in any order
