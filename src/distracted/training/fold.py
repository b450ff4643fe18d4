"""One fold of one run: through its phases, then its held-out subjects and the test set predicted."""

import logging
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.folds import Folds
from distracted.data.loading import Loader
from distracted.inference.device import find_workers
from distracted.inference.features import cached_features
from distracted.inference.predict import predict_log_probs
from distracted.metrics import accuracy, log_loss
from distracted.models.network import Network, build_network
from distracted.progress import Progress, silent
from distracted.schema import FeaturesPhase, RunConfig
from distracted.training.linear import fit_head
from distracted.training.phases import Clock, run_phase
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
    """

    valid: NDArray[np.float32]
    test: NDArray[np.float32]
    network: Network
    scores: dict[str, float]
    seconds: float
    images_per_second: float


@dataclass
class _Fold:
    """What the steps of one fold's training share."""

    settled: Settled
    competition: Competition
    folds: Folds
    fold: int
    progress: Progress
    tracker: Tracker
    label: str
    clock: Clock = field(default_factory=Clock)

    @property
    def config(self) -> RunConfig:
        return self.settled.config

    def loader(self, paths: list[Path], rows: NDArray[np.int64], policy: str | None = None) -> Loader:
        """Batches of some rows: as evaluation sees them, or shuffled and augmented by a policy."""
        config, size, crop = self.config, self.config.model.image_size, self.config.model.crop
        assert isinstance(size, int) and isinstance(crop, float)
        seed = config.training.seed
        transforms = config.augment.policies[policy] if policy is not None else ()
        return Loader(
            paths,
            rows,
            Augmenter(transforms, size=size, crop=crop, seed=seed),
            batch_size=config.inference.batch_size if policy is None else config.training.batch_size,
            num_workers=find_workers(config.runtime.num_workers, self.settled.device),
            seed=None if policy is None else seed,
            pin_memory=self.settled.device.type == "cuda",
        )

    def predict(self, network: Network, loader: Loader, what: str) -> NDArray[np.float32]:
        settled = self.settled
        return predict_log_probs(
            network,
            loader,
            device=settled.device,
            precision=settled.precision,
            label=f"{self.label}, {what}",
            progress=self.progress,
        )


def train_fold(
    settled: Settled,
    fold: int,
    *,
    competition: Competition,
    folds: Folds,
    cache: Path,
    tracker: Tracker,
    label: str = "",
    progress: Progress = silent,
) -> FoldResult:
    """Train one fold through the config's phases and predict its held-out subjects and the test set.

    The last epoch (or its moving average) predicts: nothing is chosen on the rows that are scored.
    Everything random derives from the seed and the fold.

    Args:
        cache: The data set's cache folder.
        label: Shown with the progress, such as "resnet50, fold 0".

    Raises:
        ImageError: an image cannot be read.
        TrainingError: the loss is not finite.
    """
    start = time.perf_counter()
    config = settled.config
    seed_everything(config.training.seed, fold)
    job = _Fold(settled, competition, folds, fold, progress, tracker, label)
    network = build_network(config.model, settled.weights, num_classes=competition.num_classes).to(
        settled.device
    )
    valid = job.loader(competition.train_paths(), folds.valid(fold))
    labels = folds.labels[folds.valid(fold)]

    def validate(network: Network) -> dict[str, float]:
        if not config.runtime.validate_every_epoch:
            return {}
        return _scores(job.predict(network, valid, "validating"), labels)

    for name, phase in config.phases.items():
        if isinstance(phase, FeaturesPhase):
            _fit_on_features(job, network, phase, cache)
            tracker.log({"phase": name, "epoch": 0, **validate(network)}, step=job.clock.step)
        else:
            network = run_phase(
                network,
                name,
                phase,
                loader=job.loader(
                    competition.train_paths(), folds.train(fold), phase.augment or config.augment.policy
                ),
                labels=torch.tensor(folds.labels, device=settled.device),
                training=config.training,
                device=settled.device,
                precision=settled.precision,
                clock=job.clock,
                tracker=tracker,
                progress=progress,
                label=f"{label}, {name}",
                after_epoch=validate,
            )
    valid_log_probs = job.predict(network, valid, "held-out subjects")
    test = job.loader(competition.test_paths(), np.arange(len(competition.test)))
    result = FoldResult(
        valid=valid_log_probs,
        test=job.predict(network, test, "test set"),
        network=network,
        scores=_scores(valid_log_probs, labels),
        seconds=time.perf_counter() - start,
        images_per_second=job.clock.images / job.clock.seconds if job.clock.seconds else 0.0,
    )
    tracker.summarise(
        {**result.scores, "seconds": result.seconds, "images_per_second": result.images_per_second}
    )
    return result


def seed_everything(seed: int, fold: int) -> None:
    """Seed the global generators that torch, sklearn and timm draw from; cuDNN repeats itself, too."""
    derived = int(np.random.SeedSequence([seed % 2**63, fold]).generate_state(1)[0])
    torch.manual_seed(derived)
    np.random.seed(derived)  # noqa: NPY002 - third parties draw from it
    random.seed(derived)
    torch.backends.cudnn.deterministic = True  # its fastest convolutions add in any order


def _fit_on_features(job: _Fold, network: Network, phase: FeaturesPhase, cache: Path) -> None:
    competition, model = job.competition, job.config.model
    assert isinstance(model.image_size, int) and isinstance(model.crop, float)
    features = cached_features(
        network,
        job.loader(competition.train_paths(), np.arange(len(competition.train))),
        contents=competition.train["content"].tolist(),
        size=model.image_size,
        crop=model.crop,
        folder=cache / "features",
        device=job.settled.device,
        precision=job.settled.precision,
        progress=job.progress,
    )
    rows = job.folds.train(job.fold)
    fit_head(network, features[rows], job.folds.labels[rows], phase)


def _scores(log_probs: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    return {"valid/log_loss": log_loss(log_probs, labels), "valid/accuracy": accuracy(log_probs, labels)}
