"""Load images in batches: decoded and augmented on the CPU as uint8; the network normalises them."""

import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from distracted.data.images import Image
from distracted.data.picture_sets import Pictures
from distracted.data.pixel_limit import limit_pixels, pixel_limit
from distracted.data.sampling import balance_subjects
from distracted.errors import DistractedError, TrainingError, first_line

#: One draw of an image: (epoch, position in the pictures, how often it was drawn before in the epoch).
Key = tuple[int, int, int]


class Transform(Protocol):
    """Turns a decoded RGB image (H, W, 3) into the network's input: one square image, or several, stacked."""

    def __call__(self, image: Image, *, epoch: int, index: int, repeat: int) -> Image: ...


class Batch(NamedTuple):
    """Transformed images and their positions in the pictures.

    Attributes:
        images: uint8, shape (B, size, size, 3). Regions, the whole image first, add a dimension after the
            first; views add one before that of regions.
            A loader of untransformed images has all of their bytes in one row instead.
        indices: Shape (B,).
        sizes: Height and width of each untransformed image, shape (B, 2).
    """

    images: torch.Tensor
    indices: torch.Tensor
    sizes: torch.Tensor | None = None

    def untransformed(self) -> list[torch.Tensor]:
        """The images of a loader without a transform, uint8, shape (H, W, 3) each."""
        assert self.sizes is not None
        sizes = self.sizes.tolist()
        parts = torch.split(self.images, [3 * height * width for height, width in sizes])
        return [part.view(height, width, 3) for part, (height, width) in zip(parts, sizes, strict=True)]


class ImageDataset(Dataset[tuple[int, Image | DistractedError]]):
    """Transformed images by `Key`; an error is returned, not raised, so that it survives a worker process."""

    def __init__(self, pictures: Pictures, transform: Transform | None) -> None:
        self._pictures = pictures
        self._transform = transform

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, key: Key) -> tuple[int, Image | DistractedError]:
        epoch, index, repeat = key
        try:
            image = self._pictures[index]
            if self._transform is not None:
                image = self._transform(image, epoch=epoch, index=index, repeat=repeat)
            return index, image
        except DistractedError as error:
            return index, error


@dataclass(frozen=True, eq=False)
class ExtraRows:
    """Rows added to each batch of an epoch, such as pseudo-labelled images.

    Attributes:
        rows: Positions in the pictures, shape (num_rows,).
        share: Fraction of each batch.
    """

    rows: NDArray[np.int64]
    share: float

    def count(self, num_rows: int) -> int:
        """Number of rows to add to an epoch of `num_rows` rows."""
        return max(1, round(num_rows * self.share / (1 - self.share)))

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw rows; each row and how often it was drawn before, shape (count, 2)."""
        rounds = -(-count // len(self.rows))
        drawn = np.concatenate([rng.permutation(self.rows) for _ in range(rounds)])
        return np.stack([drawn, np.repeat(np.arange(rounds), len(self.rows))], axis=1)[:count]


class BatchSampler(Sampler[list[Key]]):
    """Batches of keys, in order or shuffled by (seed, epoch).

    Batches have nearly equal sizes of at least two, since BatchNorm cannot learn from a last batch of one
    image; with `batch_size` 2 and an odd number of rows, one batch has three.

    Args:
        rows: Positions in the pictures, shape (num_rows,).
        seed: None keeps the order of `rows`.
        subjects: Subject id of each row; a shuffled epoch then draws each subject equally often.
        extra: Rows added to each batch of a shuffled epoch; none repeats before all were drawn.
        part: (k, n) yields the k-th of n parts of each batch, for n processes that share one.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int | None = None,
        subjects: NDArray[np.int64] | None = None,
        extra: ExtraRows | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._part = part
        self._rows = rows
        self._subjects = subjects
        self._extra = extra
        self._num_extra = extra.count(len(rows)) if extra else 0
        self.num_images = len(rows) + self._num_extra
        most = len(rows) // 2 if batch_size > 1 else len(rows)
        self._num_batches = max(1, min(-(-self.num_images // batch_size), most))
        self._seed = seed
        self.epoch = 0
        self.num_skipped = 0  # batches at the epoch's start that were seen before a resume

    def num_before(self, batch: int) -> int:
        """Number of images in the epoch's batches before this one."""
        counts = [len(self._rows), self._num_extra]
        return sum(
            batch * (count // self._num_batches) + min(batch, count % self._num_batches) for count in counts
        )

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[Key]]:
        rows, repeats = self._rows, np.zeros(len(self._rows), dtype=np.int64)
        if self._seed is not None:
            rng = np.random.default_rng([self._seed, self.epoch])
            if self._subjects is None:
                rows = rng.permutation(rows)
            else:
                drawn, repeats = balance_subjects(self._subjects, rng).T
                rows = rows[drawn]
        batches = np.array_split(np.stack([rows, repeats], axis=1), self._num_batches)
        if self._extra is not None:
            rng = np.random.default_rng([self._seed or 0, self.epoch, 1])
            extra = np.array_split(self._extra.draw(self._num_extra, rng), self._num_batches)
            batches = [np.concatenate(pair) for pair in zip(batches, extra, strict=True)]
        number, size = self._part
        for batch in batches[self.num_skipped :]:
            yield [(self.epoch, index, repeat) for index, repeat in batch[number::size].tolist()]


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Turn the death of a loader's worker process into an error with a remedy.

    torch learns of it by a signal and raises a RuntimeError wherever the code happens to be.

    Raises:
        TrainingError: a worker was ended by the system.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the latter two if it died while sending
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise again
        raise TrainingError(
            f"a process that decodes images was ended by the system ({first_line(error)}): memory or shared "
            "memory ran out; use fewer processes (SET='runtime.num_workers=2', or 0), and the same command "
            "continues"
        ) from error


class Loader:
    """Loads rows of a set of pictures in batches.

    Args:
        rows: Positions in `pictures`, shape (num_rows,).
        transform: Makes the network's input, such as an `Augmenter`; None leaves images as they are.
        batch_size: Maximum number of images per batch.
        num_workers: Processes that decode; 0 decodes in this one. Batches do not depend on it.
        seed, subjects, extra, part: As for `BatchSampler`.
    """

    def __init__(
        self,
        pictures: Pictures,
        rows: NDArray[np.int64],
        transform: Transform | None,
        *,
        batch_size: int,
        num_workers: int,
        seed: int | None = None,
        subjects: NDArray[np.int64] | None = None,
        extra: ExtraRows | None = None,
        part: tuple[int, int] = (0, 1),
        pin_memory: bool = False,
    ) -> None:
        self._sampler = BatchSampler(
            rows, batch_size=batch_size, seed=seed, subjects=subjects, extra=extra, part=part
        )
        self.num_images = self._sampler.num_images
        self._loader = DataLoader(
            ImageDataset(pictures, transform),
            batch_sampler=self._sampler,
            num_workers=num_workers,
            collate_fn=partial(_collate, stacked=transform is not None),
            persistent_workers=num_workers > 0,
            worker_init_fn=partial(_init_worker, pixel_limit()),
            pin_memory=pin_memory,
            generator=torch.Generator(),  # otherwise each epoch draws from dropout's generator
        )
        weakref.finalize(self, _end_workers, self._loader)

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self._sampler)

    def num_before(self, batch: int) -> int:
        """Number of images in the epoch's batches before this one."""
        return self._sampler.num_before(batch)

    def batches_of(self, num_images: int) -> int:
        """Number of batches that hold exactly the epoch's first so many images; 0 if a batch would be cut."""
        return next((n for n in range(len(self) + 1) if self.num_before(n) == num_images), 0)

    def epoch(self, epoch: int = 0, *, after: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            after: Number of batches to skip without reading their images.

        Raises:
            ImageError: an image cannot be read; the message starts with its path.
            ConfigError: the policy does not make square uint8 images.
        """
        self._sampler.epoch, self._sampler.num_skipped = epoch, after
        for batch in self._loader:
            if isinstance(batch, DistractedError):
                # Raise a copy: the original and this frame would form a reference cycle that keeps the
                # workers alive, and torch waits ten seconds for workers that the garbage collector ends.
                raise type(batch)(*batch.args)
            yield batch


def _init_worker(megapixels: float, worker: int) -> None:
    limit_pixels(megapixels)  # a process that was not forked has the default
    cv2.setNumThreads(0)  # the workers are the parallelism
    for number in (signal.SIGINT, signal.SIGTERM):  # they may reach the whole group of processes, whose
        signal.signal(number, signal.SIG_IGN)  # parent goes on to the next good moment and ends the workers


def _end_workers(loader: DataLoader[Any]) -> None:
    """End the workers of a loader that is gone, or of a process that exits.

    At exit multiprocessing would send SIGTERM, which they ignore, and wait for them.
    """
    iterator, loader._iterator = loader._iterator, None
    if iterator is not None:
        iterator._shutdown_workers()  # type: ignore[attr-defined]


def _collate(items: list[tuple[int, Image | DistractedError]], *, stacked: bool) -> Batch | DistractedError:
    """A batch, or its first error; images that are not transformed have several sizes and are not stacked."""
    images = []
    for _, image in items:
        if isinstance(image, DistractedError):
            return image
        images.append(image)
    indices = torch.tensor([index for index, _ in items])
    if stacked:
        return Batch(torch.from_numpy(np.stack(images)), indices)
    joined = torch.from_numpy(np.concatenate([image.reshape(-1) for image in images]))
    return Batch(joined, indices, torch.tensor([image.shape[:2] for image in images]))
