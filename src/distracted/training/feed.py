"""Feeds a competition's images to a network: batches, features of the frozen base, predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.loading import ExtraRows, Loader, Transform
from distracted.data.packs import Files, cached_pictures
from distracted.errors import ConfigError
from distracted.inference.device import find_workers, keep_freed_memory
from distracted.inference.features import cached_features
from distracted.inference.predict import predict_log_probs, predict_together
from distracted.inference.views import View, Viewer
from distracted.models.network import Network, build_network
from distracted.progress import Progress
from distracted.training.distributed import ALONE, Team
from distracted.training.resolve import Resolved


@dataclass(frozen=True)
class Images:
    """Image files and digests of their contents, such as all training or all test images in order."""

    paths: list[Path]
    contents: list[str]

    @classmethod
    def to_train(cls, competition: Competition) -> Self:
        return cls(competition.train_paths(), competition.train["content"].tolist())

    @classmethod
    def to_test(cls, competition: Competition) -> Self:
        return cls(competition.test_paths(), competition.test["content"].tolist())

    @property
    def rows(self) -> NDArray[np.int64]:
        return np.arange(len(self.paths))

    def and_then(self, others: Self) -> Self:
        """These images followed by others."""
        return type(self)(self.paths + others.paths, self.contents + others.contents)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The images at some rows, in that order."""
        return type(self)([self.paths[row] for row in rows], [self.contents[row] for row in rows])


@dataclass(frozen=True)
class Feed:
    """Feeds images to a network with the settings of a resolved config.

    Attributes:
        cache: The data set's cache folder.
        after_batch: Called after each batch of predictions or features; may raise, to stop.
        team: The processes that share the work.
    """

    resolved: Resolved
    cache: Path
    progress: Progress
    after_batch: Callable[[], None] = lambda: None
    team: Team = ALONE

    def __post_init__(self) -> None:
        if self.resolved.device.type == "cpu":
            keep_freed_memory()

    def loader(
        self,
        images: Images,
        rows: NDArray[np.int64],
        policy: str | None = None,
        *,
        subjects: NDArray[np.int64] | None = None,
        extra: ExtraRows | None = None,
    ) -> Loader:
        """Batches of some rows: in order for evaluation, or shuffled and augmented by a policy.

        Evaluation decodes whole pictures; augmentation starts from reduced pictures in the cache.

        Args:
            subjects: Subject of each row, if an epoch is to draw each subject equally often.
            extra: Further rows that each shuffled batch gets a share of.
        """
        config = self.resolved.config
        batch_size, seed = config.training.batch_size, config.training.seed
        if policy is None:
            return self._evaluation(images, rows, Augmenter((), seed=seed, **self._input()))
        assert config.augment.short_side != "auto"
        pictures = cached_pictures(
            images.paths,
            images.contents,
            short_side=config.augment.short_side,
            folder=self.cache / "pictures",
            limit=config.runtime.cache_gb,
            progress=self.progress,
            after_chunk=self.after_batch,
        )
        loader = Loader(
            pictures,
            rows,
            Augmenter(config.augment.policies[policy], seed=seed, **self._input()),
            batch_size=batch_size,
            seed=seed,
            subjects=subjects,
            extra=extra,
            part=(self.team.rank, self.team.size),
            **self._workers(),
        )
        if loader.num_images // len(loader) < self.team.size:
            raise ConfigError(
                f"training.batch_size={batch_size}: {loader.num_images} images in {len(loader)} batches "
                f"leave none for some of {self.team.size} processes; use fewer (GPUS=) or larger batches"
            )
        return loader

    def features(self, network: Network, images: Images) -> NDArray[np.float32]:
        """The head's input for all images, (num_images, num_features); computed, or taken from the cache."""
        return cached_features(
            network,
            self.loader(images, images.rows),
            contents=images.contents,
            paths=images.paths,
            folder=self.cache / "features",
            precision=self.resolved.precision,
            progress=self.progress,
            after_batch=self.after_batch,
            **self._input(),
        )

    def log_probs(
        self,
        network: Network,
        images: Images,
        rows: NDArray[np.int64],
        label: str,
        *,
        done: list[NDArray[np.float32]] | None = None,
    ) -> NDArray[np.float32]:
        """Log-probabilities of some rows, (num_rows, num_classes).

        Args:
            done: Batches that are predicted already, as in `predict_log_probs`.
        """
        share = predict_log_probs(
            network,
            self.loader(images, self.team.share(rows)),
            precision=self.resolved.precision,
            label=label,
            progress=self.progress,
            done=done,
            after_batch=self.after_batch,
        )
        return np.concatenate(self.team.gather(share))

    def log_probs_of_views(
        self,
        networks: Sequence[Network],
        images: Images,
        rows: NDArray[np.int64],
        views: Sequence[View],
        label: str,
    ) -> NDArray[np.float32]:
        """Log-probabilities of each view of some rows, (num_networks, num_views, num_rows, num_classes)."""
        loader = self._evaluation(images, rows, Viewer(views, **self._input()))
        precision, progress = self.resolved.precision, self.progress
        return predict_together(networks, loader, precision=precision, label=label, progress=progress)

    def _evaluation(self, images: Images, rows: NDArray[np.int64], transform: Transform) -> Loader:
        batch_size = self.resolved.config.inference.batch_size
        return Loader(Files(images.paths), rows, transform, batch_size=batch_size, **self._workers())

    def _workers(self) -> dict[str, Any]:
        device = self.resolved.device
        asked = self.resolved.config.runtime.num_workers
        num_workers = find_workers(asked, device, num_processes=self.team.size)
        return {"num_workers": num_workers, "pin_memory": device.type == "cuda"}

    def _input(self) -> dict[str, Any]:
        """Settings of the network's input that all transforms share, and the features' cache."""
        model, boxes = self.resolved.config.model, self.resolved.config.data.regions
        return {"size": model.image_size, "crop": model.crop, "regions": [boxes[n] for n in model.regions]}


def pretrained_features(
    resolved: Resolved, sets: Sequence[Images], cache: Path, progress: Progress
) -> list[NDArray[np.float32]]:
    """A pretrained network's features of several sets of images, (num_images, num_features) each.

    Args:
        cache: The data set's cache folder.
    """
    network = build_network(resolved.config.model, resolved.weights, num_classes=2)  # the head is not used
    feed = Feed(resolved, cache, progress)
    return [np.asarray(feed.features(network.to(resolved.device), images)) for images in sets]
