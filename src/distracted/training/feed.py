"""Feeds a competition's images to a network: batches, features of the frozen base, predictions."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distracted.cores import free_memory
from distracted.data.augment import Augmenter
from distracted.data.images import Image, decoded_bytes
from distracted.data.loading import ExtraRows, Loader
from distracted.data.packs import CachedPictures, cached_pictures
from distracted.data.picture_sets import Files, Images, Pictures, Selected, Transformed
from distracted.data.pixel_limit import limit_pixels
from distracted.errors import ConfigError
from distracted.inference.cached_rows import cached_rows
from distracted.inference.device import find_workers, keep_freed_memory, workers_that_fit
from distracted.inference.device_views import DeviceViewer
from distracted.inference.features import cached_features
from distracted.inference.memory import naming_exhausted_memory
from distracted.inference.predict import Together, predict_log_probs
from distracted.inference.repeatable import repeat_exactly
from distracted.inference.styles import cached_styles
from distracted.inference.views import View, Viewer
from distracted.models.network import Network, build_network, fingerprint
from distracted.progress import Progress
from distracted.schema import ModelConfig
from distracted.training.distributed import ALONE, Team
from distracted.training.resolve import Resolved

_log = logging.getLogger(__name__)

_GPU_BATCH = 256  # images in a batch of predictions: enough to keep a GPU busy
_BATCH_BYTES = 2**28  # of a batch of whole images or of views; each loader process has two batches ready
_FEWEST_WHOLE = 32  # images in such a batch; larger photographs are not worth their way to the device


@dataclass(frozen=True)
class _Input:
    """Makes the network's input of an image: a square, or one for the whole image and each region.

    Args:
        plain: Without augmentation.
    """

    plain: Augmenter
    model: ModelConfig

    def make(self, image: Image) -> Image:
        """As one picture, (H, W, 3), which the cache can hold: regions below each other."""
        return self.plain(image, epoch=0, index=0).reshape(-1, self._size, 3)

    def __call__(self, image: Image, *, epoch: int, index: int, repeat: int) -> Image:
        """A loader's transform: as the network takes it."""
        return image.reshape(-1, self._size, self._size, 3) if self.model.regions else image

    @property
    def _size(self) -> int:
        assert isinstance(self.model.image_size, int)
        return self.model.image_size


@dataclass(frozen=True)
class Feed:
    """Feeds images to a network with the settings of a resolved config.

    Attributes:
        cache: The data set's cache folder.
        after_batch: Called after each batch of predictions or features; may raise, to stop.
        team: The processes that share the work.
        while_waiting: Called about every second while loader processes deliver nothing; may raise, to stop.
    """

    resolved: Resolved
    cache: Path
    progress: Progress
    after_batch: Callable[[], None] = lambda: None
    team: Team = ALONE
    while_waiting: Callable[[], None] = lambda: None
    _evaluations: dict[int, Loader] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        repeat_exactly(self.resolved.device)
        limit_pixels(self.resolved.config.runtime.max_megapixels)  # a job's process has its own
        if self.resolved.device.type == "cpu":
            keep_freed_memory()

    def loader(
        self,
        images: Images,
        rows: NDArray[np.int64],
        policy: str | None = None,
        *,
        groups: NDArray[np.int64] | None = None,
        extra: ExtraRows | None = None,
    ) -> Loader:
        """Batches of some rows: in order for evaluation, or shuffled and augmented by a policy.

        Evaluation reads the network's input from the cache; augmentation starts from reduced pictures there.

        Args:
            groups: Group of each row, if an epoch is to draw each group equally often.
            extra: Further rows that each shuffled batch gets a share of.
        """
        config = self.resolved.config
        batch_size, seed = config.training.batch_size, config.training.seed
        if policy is None:
            return self._evaluation(images, rows)
        augmented = {} if config.augment.size is None else {"size": config.augment.size}
        short_side = config.augment.short_side
        assert short_side != "auto"
        loader = Loader(
            self._cached(
                Files(images.paths, images.contents, short_side=short_side), images, str(short_side or "full")
            ),
            rows,
            Augmenter(config.augment.policies[policy], seed=seed, **self._input() | augmented),
            batch_size=batch_size,
            seed=seed,
            groups=groups,
            extra=extra,
            part=(self.team.rank, self.team.size),
            **self._workers(-(-batch_size // self.team.size) * self._input_bytes),
        )
        if loader.num_images // len(loader) < self.team.size:
            raise ConfigError(
                f"training.batch_size={batch_size}: {loader.num_images} images in {len(loader)} batches "
                f"leave none for some of {self.team.size} processes; use fewer (GPUS=) or larger batches"
            )
        return loader

    @naming_exhausted_memory()
    def features(self, network: Network, images: Images) -> NDArray[np.float32]:
        """The head's input for all images, (num_images, num_features); computed, or taken from the cache."""
        return cached_features(
            network,
            lambda: self.loader(images, images.rows),
            contents=images.contents,
            paths=images.paths,
            folder=self.cache / "features",
            precision=self.resolved.precision,
            progress=self.progress,
            after_batch=self.after_batch,
            **self._input(),
        )

    @naming_exhausted_memory()
    def styles(self, network: Network, images: Images) -> NDArray[np.float32]:
        """Light and colours of all images, (num_images, num_features); computed, or taken from the cache."""
        return cached_styles(
            network,
            lambda: self.loader(images, images.rows),
            contents=images.contents,
            folder=self.cache / "features",
            progress=self.progress,
            after_batch=self.after_batch,
            **self._input(),
        )

    @naming_exhausted_memory()
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

    @naming_exhausted_memory()
    def log_probs_of_views(
        self,
        networks: Sequence[Network],
        images: Images,
        rows: NDArray[np.int64],
        views: Sequence[View],
        label: str,
    ) -> NDArray[np.float32]:
        """Log-probabilities of each view of some rows, (num_networks, num_views, num_rows, num_classes).

        They are kept in the cache, so that an interrupted pass goes on.
        """
        images = images.take(rows)
        device, precision = self.resolved.device, self.resolved.precision

        def start() -> tuple[Loader, Together]:
            loader, viewer = self._load_views(images, views)
            return loader, Together(networks, len(rows), precision, viewer)

        if not all(images.contents):
            loader, together = start()
            return together.all_of(loader, label, self.progress)
        identity = [(*network.trunk_identity(), fingerprint(network.head)) for network in networks]
        inputs = [*identity, views, self._input(), networks[0].normalisation, precision, device.type]
        key = sha256(repr([*inputs, *images.contents]).encode()).hexdigest()[:32]
        flat = cached_rows(
            self.cache / "views" / f"{key}.npy",
            len(rows),
            start=start,
            device=device,
            label=label,
            progress=self.progress,
            after_batch=self.after_batch,
        )
        log_probs = np.array(flat).reshape(len(rows), len(networks), len(views), -1)
        return np.moveaxis(log_probs, 0, 2)

    def _load_views(self, images: Images, views: Sequence[View]) -> tuple[Loader, DeviceViewer | None]:
        """Batches of whole images, and what makes their views on the device; on a CPU, and where the largest
        image leaves room for few whole ones, batches of views.
        """
        asked, settings, whole = self._prediction_batch_size, self._input(), 0
        if self.resolved.device.type != "cpu":
            image_bytes = max(1, *map(decoded_bytes, images.paths))
            whole = min(asked, _BATCH_BYTES // image_bytes)
        if whole >= min(asked, _FEWEST_WHOLE):
            transform, viewer, batch_size = None, DeviceViewer(views, **settings), whole
        else:
            if self.resolved.device.type != "cpu":
                _log.info("large images: their views are made by the loader, not on %s", self.resolved.device)
            image_bytes = len(views) * self._input_bytes
            transform, viewer = Viewer(views, **settings), None
            batch_size = min(asked, max(1, _BATCH_BYTES // image_bytes))
        workers = self._workers(min(batch_size, len(images.rows)) * image_bytes)
        files = Files(images.paths, images.contents)
        return Loader(files, images.rows, transform, batch_size=batch_size, **workers), viewer

    def _evaluation(self, images: Images, rows: NDArray[np.int64]) -> Loader:
        """Batches of the network's input; kept, so that their worker processes start once."""
        images = images.take(rows)
        key = hash((rows.tobytes(), *images.paths, *images.contents))
        if key not in self._evaluations:
            ready = _Input(Augmenter((), seed=0, **self._input()), self.resolved.config.model)
            pictures: Pictures = Transformed(Files(images.paths, images.contents), ready.make)
            if all(images.contents):
                pictures = self._cached(pictures, images, self._input_kind)
            batch_size = self._prediction_batch_size
            is_ready = isinstance(pictures, CachedPictures) and pictures.is_complete  # nothing to decode
            workers = self._workers(0 if is_ready else min(batch_size, len(rows)) * self._input_bytes)
            loader = Loader(Selected(pictures, rows), rows, ready, batch_size=batch_size, **workers)
            self._evaluations[key] = loader
        return self._evaluations[key]

    def _cached(self, pictures: Pictures, images: Images, kind: str) -> Pictures:
        return cached_pictures(
            pictures,
            images.contents,
            kind=kind,
            folder=self.cache / "pictures",
            limit=self.resolved.config.runtime.cache_gb,
            progress=self.progress,
            after_chunk=self.after_batch,
        )

    @property
    def _prediction_batch_size(self) -> int:
        config = self.resolved.config
        asked = config.runtime.prediction_batch_size
        if asked != "auto":
            return asked
        # a run of an earlier version may have been begun with another one
        return config.inference.batch_size if self.resolved.device.type == "cpu" else _GPU_BATCH

    @property
    def _input_kind(self) -> str:
        """Names what the network's input depends on, apart from the image."""
        size, crop, regions = self._input().values()
        boxes = f"-{sha256(repr(regions).encode()).hexdigest()[:8]}" if regions else ""
        return f"input{size}-{crop:g}{boxes}"

    def _workers(self, batch_bytes: int) -> dict[str, Any]:
        """Settings of a loader's processes, whose batches have at most so many bytes; 0: no processes."""
        device, num_workers = self.resolved.device, 0
        if batch_bytes:
            asked, size = self.resolved.config.runtime.num_workers, self.team.size
            num_workers = find_workers(asked, device, num_processes=size)
            num_workers = workers_that_fit(num_workers, batch_bytes, free_memory() / size)
        pin_memory = device.type == "cuda"
        return {"num_workers": num_workers, "pin_memory": pin_memory, "while_waiting": self.while_waiting}

    @property
    def _input_bytes(self) -> int:
        """Bytes of the network's input for one image."""
        settings = self._input()
        return 3 * int(settings["size"]) ** 2 * (1 + len(settings["regions"]))

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
    network = _pretrained(resolved)
    feed = Feed(resolved, cache, progress)
    return [np.asarray(feed.features(network, images)) for images in sets]


def pretrained_styles(
    resolved: Resolved, sets: Sequence[Images], cache: Path, progress: Progress
) -> list[NDArray[np.float32]]:
    """Light and colours of several sets of images (`cached_styles`), by a pretrained network's first blocks.

    Args:
        cache: The data set's cache folder.
    """
    network = _pretrained(resolved)
    feed = Feed(resolved, cache, progress)
    return [np.asarray(feed.styles(network, images)) for images in sets]


def _pretrained(resolved: Resolved) -> Network:
    """The config's network on its device; its head is not used."""
    return build_network(resolved.config.model, resolved.weights, num_classes=2).to(resolved.device)
