"""Batches of images: decoded and augmented on the CPU as uint8; the network normalises them on its device."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from distracted.data.images import Image
from distracted.data.packs import Pictures
from distracted.data.sampling import balance_subjects
from distracted.errors import DistractedError, TrainingError, first_line

#: An image in an epoch: (epoch, position among the pictures, how often it was drawn earlier in the epoch).
Key = tuple[int, int, int]


class Transform(Protocol):
    """Turns a decoded RGB picture (H, W, 3) into a network's input: one square image, or a stack of them."""

    def __call__(self, image: Image, *, epoch: int, index: int, repeat: int) -> Image: ...


class Batch(NamedTuple):
    """A batch of transformed images.

    Attributes:
        images: uint8, shape (B, size, size, 3); with a dimension of regions (the whole picture first), or
        of views
            and then of regions, after the first.
        indices: Positions among the pictures, shape (B,).
    """

    images: torch.Tensor
    indices: torch.Tensor


class ImageDataset(Dataset[tuple[int, Image | DistractedError]]):
    """Decoded, augmented images by `Key`; for an unreadable image the item is the error."""

    def __init__(self, pictures: Pictures, transform: Transform) -> None:
        self._pictures = pictures
        self._transform = transform

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, key: Key) -> tuple[int, Image | DistractedError]:
        epoch, index, repeat = key
        try:
            return index, self._transform(self._pictures[index], epoch=epoch, index=index, repeat=repeat)
        except DistractedError as error:
            return index, error


@dataclass(frozen=True, eq=False)
class ExtraRows:
    """Rows added to those of an epoch, such as pseudo-labelled images.

    Attributes:
        rows: Positions among the pictures, shape (num_rows,).
        share: Their share of each batch.
    """

    rows: NDArray[np.int64]
    share: float

    def count(self, num_rows: int) -> int:
        """Number of extra rows for a number of rows."""
        return max(1, round(num_rows * self.share / (1 - self.share)))

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """A number of the rows, and how often each was drawn earlier, shape (count, 2)."""
        rounds = -(-count // len(self.rows))
        drawn = np.concatenate([rng.permutation(self.rows) for _ in range(rounds)])
        return np.stack([drawn, np.repeat(np.arange(rounds), len(self.rows))], axis=1)[:count]


class BatchSampler(Sampler[list[Key]]):
    """Keys in batches of nearly equal size, shuffled in each epoch or in order.

    Sizes are equal, and at least two, so that no last batch of one image meets a BatchNorm in training
    mode; with `batch_size` 2 and an odd number of rows one batch has three. With `subjects` (of the rows) a
    shuffled epoch draws as many images, but each subject equally often. With `extra` each batch of a
    shuffled epoch gets its share of the extra rows, each once before any comes again. With `part` (number,
    count) each batch is divided, and this sampler yields one of the parts.
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
        self.after = 0  # batches at the start of the epoch to skip

    def num_before(self, batch: int) -> int:
        """Images in the batches of an epoch before this one."""
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
            more = np.array_split(self._extra.draw(self._num_extra, rng), self._num_batches)
            batches = [np.concatenate(pair) for pair in zip(batches, more, strict=True)]
        number, size = self._part
        for batch in batches[self.after :]:
            yield [(self.epoch, index, repeat) for index, repeat in batch[number::size].tolist()]


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Within this block the death of a loader process raises an error that says what helps.

    torch notices it by a signal, and raises in the middle of whatever is being done.

    Raises:
        TrainingError: the system has ended a loader process.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # or in a broken pipe
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise at the next death, anywhere
        raise TrainingError(
            f"a process that decodes images was ended by the system ({first_line(error)}): memory, or shared "
            "memory, has run out; fewer processes need less (SET='runtime.num_workers=2', 0: none), and the "
            "same command goes on"
        ) from error


class Loader:
    """Batches of one set of rows; an unreadable image raises, in whichever process it was read.

    Args:
        pictures: All pictures; `rows` picks among them.
        rows: Positions among the pictures, shape (num_rows,).
        transform: Turns a decoded image into the network's input, such as an `Augmenter`.
        batch_size: Most images in a batch.
        num_workers: Processes that decode; 0: this one. Results do not depend on it.
        seed: Shuffle by (seed, epoch); None keeps the order of `rows`.
        subjects: Subject id of each of `rows`, to draw each subject equally often when shuffling.
        extra: Further rows that each batch of a shuffled epoch gets a share of.
        part: Number and count of the parts that each batch is divided into; this loader yields one.
    """

    def __init__(
        self,
        pictures: Pictures,
        rows: NDArray[np.int64],
        transform: Transform,
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
            collate_fn=_collate,
            persistent_workers=num_workers > 0,
            worker_init_fn=_init_worker,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # the global one is dropout's
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._sampler)

    def num_before(self, batch: int) -> int:
        """Images in the batches of an epoch before this one."""
        return self._sampler.num_before(batch)

    def epoch(self, epoch: int = 0, *, after: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            after: Number of batches to skip; their images are not read.

        Raises:
            ImageError: an image cannot be read; the message starts with its path.
            ConfigError: the policy does not yield square uint8 images.
        """
        self._sampler.epoch, self._sampler.after = epoch, after
        for batch in self._loader:
            if isinstance(batch, DistractedError):
                # A new error: the old one, held by this frame, would form a cycle with the workers, and torch
                # waits ten seconds for workers that the garbage collector has to end.
                raise type(batch)(*batch.args)
            yield batch


def _init_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them too; the parent ends them


def _collate(items: list[tuple[int, Image | DistractedError]]) -> Batch | DistractedError:
    images = []
    for _, image in items:
        if isinstance(image, DistractedError):
            return image
        images.append(image)
    return Batch(torch.from_numpy(np.stack(images)), torch.tensor([index for index, _ in items]))
