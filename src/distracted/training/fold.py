"""One fold of one run: through its phases, then its held-out subjects and the test set predicted."""

import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.competition import Competition
from distracted.data.folds import Folds
from distracted.data.loading import Beside
from distracted.metrics import scores
from distracted.models.network import Network, build_network
from distracted.progress import Progress, silent
from distracted.schema import FeaturesPhase, TrainPhase
from distracted.training.averaging import average, copy_state
from distracted.training.distributed import ALONE, Team
from distracted.training.fold_run import FoldRun
from distracted.training.heads import fit_head, train_head
from distracted.training.metrics_log import Tracker
from distracted.training.mixing import Mixer, share_with_partner
from distracted.training.phases import PhaseRun
from distracted.training.plan import check_phases
from distracted.training.pseudo import PseudoLabels, joint_targets
from distracted.training.resolve import Settled
from distracted.training.resume import (
    Checkpoints,
)

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
        num_resumed: How often the training went on from a checkpoint.
        num_parts: That a batch was computed in at last, since the device's memory did not suffice for one.
    """

    valid: NDArray[np.float32]
    test: NDArray[np.float32]
    network: Network
    scores: dict[str, float]
    seconds: float
    images_per_second: float
    num_dropped: int = 0
    num_resumed: int = 0
    num_parts: int = 1


def train_fold(
    settled: Settled,
    fold: int,
    *,
    competition: Competition,
    folds: Folds,
    cache: Path,
    tracker: Tracker,
    pseudo: PseudoLabels | None = None,
    checkpoints: Checkpoints | None = None,
    team: Team = ALONE,
    label: str = "",
    progress: Progress = silent,
) -> FoldResult:
    """Train one fold through the config's phases and predict its held-out subjects and the test set.

    The last epoch (or an average of weights) predicts: nothing is chosen on the rows that are scored.
    Everything random derives from the seed and the fold.

    Args:
        cache: The data set's cache folder.
        pseudo: What phases of kind train learn from beside the training side.
        checkpoints: Where the training goes on from, and keeps its state; None: it is not kept.
        team: The processes that train the fold together, each in the same call of this function.
        label: Shown with the progress, such as "resnet50, fold 0".

    Raises:
        ImageError: an image cannot be read.
        TrainingError: the loss is not finite.
        CheckpointError: the checkpoint that is there belongs to something else.
        Stopped: a stop was asked for, and the state is on disk.
    """
    config = settled.config
    seed_everything(config.training.seed, fold)
    job = FoldRun(
        settled,
        competition,
        folds,
        fold,
        cache=cache,
        progress=progress,
        tracker=tracker,
        label=label,
        pseudo=pseudo,
        checkpoints=checkpoints,
        team=team,
    )
    if job.num_dropped:
        _log.info("%s: %d images left out of training by the drop list", label, job.num_dropped)
    state = checkpoints.load() if checkpoints is not None else None
    network = build_network(config.model, settled.weights, num_classes=competition.num_classes)
    job.network = network.to(settled.device)
    check_phases(network, config.phases)
    team.follow_lead(network)
    if team.rank:  # each process drops other units
        torch.manual_seed(torch.initial_seed() + team.rank)
    if state is not None:
        job.load(state)
        _log.info("%s: goes on from step %d", label, job.clock.step)
    else:
        tracker.rewind(0)
    labels = folds.labels
    for number, (name, phase) in enumerate(config.phases.items()):
        if number < job.num_phases:
            continue
        network = job.network
        if isinstance(phase, TrainPhase):
            job.network = _train(job, network, name, phase)
            job.end_phase()
            continue
        features = job.feed.features(network, job.train)
        job.in_between = True
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
        team.follow_lead(network)
        found = _look(job, network)
        tracker.log({"phase": name, "epoch": 0, **found}, step=job.clock.step)
        job.end_phase()
    network = job.network
    team.follow_lead(network)
    done: dict[str, list[NDArray[np.float32]] | None] = {"valid": None, "test": None}
    if team.size == 1:
        done |= {what: job.predicted.setdefault(what, []) for what in done}
    valid = job.predict(network, job.train, job.valid_rows, "held-out subjects", done["valid"])
    test = job.predict(network, job.test, job.test.rows, "test set", done["test"])
    result = FoldResult(
        valid=valid,
        test=test,
        network=network,
        scores=scores(valid, labels[job.valid_rows], prefix="valid/"),
        seconds=time.perf_counter() - job.began,
        images_per_second=job.clock.images / job.clock.seconds if job.clock.seconds else 0.0,
        num_dropped=job.num_dropped,
        num_resumed=job.num_resumed,
        num_parts=job.num_parts,
    )
    tracker.summarise(
        {**result.scores, "seconds": result.seconds, "images_per_second": result.images_per_second}
    )
    return result


def _train(job: FoldRun, network: Network, name: str, phase: TrainPhase) -> Network:
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
    run = PhaseRun(
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
        after_step=job.keep,
        team=job.team,
    )
    if job.half_done is not None:
        run.load(job.half_done)
        job.half_done = None
    job.running = run
    network = run()
    job.num_parts = max(job.num_parts, run.num_parts)
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
        job.team.average_statistics(network)
    return network


def _make_mixer(job: FoldRun) -> Mixer:
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


def _look(job: FoldRun, network: Network) -> dict[str, float]:
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
