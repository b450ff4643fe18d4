"""A competition's images on their way into a network: batches of them, their features, their predictions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.inference.device import find_workers
from distracted.inference.features import cached_features
from distracted.inference.predict import predict_log_probs
from distracted.models.network import Network
from distracted.progress import Progress
from distracted.training.resolve import Settled


@dataclass(frozen=True)
class Images:
    """All training images or all test images, in the competition's order."""

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


@dataclass(frozen=True)
class Feed:
    """Feeds images to a network as a settled config says.

    Attributes:
        cache: The data set's cache folder.
    """

    settled: Settled
    cache: Path
    progress: Progress

    def loader(
        self,
        images: Images,
        rows: NDArray[np.int64],
        policy: str | None = None,
        *,
        subjects: NDArray[np.int64] | None = None,
    ) -> Loader:
        """Batches of some rows: as evaluation sees them, or shuffled and augmented by a policy.

        Args:
            subjects: Of the rows, where shuffling is to draw each of them equally often.
        """
        config, size, crop = self.settled.config, *self._input()
        seed = config.training.seed
        transforms = config.augment.policies[policy] if policy is not None else ()
        return Loader(
            images.paths,
            rows,
            Augmenter(transforms, size=size, crop=crop, seed=seed),
            batch_size=config.inference.batch_size if policy is None else config.training.batch_size,
            num_workers=find_workers(config.runtime.num_workers, self.settled.device),
            seed=None if policy is None else seed,
            subjects=subjects,
            pin_memory=self.settled.device.type == "cuda",
        )

    def features(self, network: Network, images: Images) -> NDArray[np.float32]:
        """What the head takes of all images, from the cache where it is there."""
        size, crop = self._input()
        return cached_features(
            network,
            self.loader(images, images.rows),
            contents=images.contents,
            size=size,
            crop=crop,
            folder=self.cache / "features",
            device=self.settled.device,
            precision=self.settled.precision,
            progress=self.progress,
        )

    def log_probs(
        self, network: Network, images: Images, rows: NDArray[np.int64], label: str
    ) -> NDArray[np.float32]:
        """Predictions of some rows, (num_rows, num_classes)."""
        return predict_log_probs(
            network,
            self.loader(images, rows),
            device=self.settled.device,
            precision=self.settled.precision,
            label=label,
            progress=self.progress,
        )

    def _input(self) -> tuple[int, float]:
        model = self.settled.config.model
        assert isinstance(model.image_size, int) and isinstance(model.crop, float)
        return model.image_size, model.crop
