"""Images to batches: decoded and augmented on the CPU, uint8 all the way, normalised on the device."""

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

#: Which image, in which epoch: (epoch, position among the pictures, times drawn before in the epoch).
Key = tuple[int, int, int]


class Transform(Protocol):
    """Makes a network's input of a decoded RGB picture (H, W, 3): a square one, or several, stacked."""

    def __call__(self, image: Image, *, epoch: int, index: int, repeat: int) -> Image: ...


class Batch(NamedTuple):
    """What the transform makes of each image, stacked, uint8, and its position among the pictures.

    Attributes:
        images: Shape (B, size, size, 3); with a dimension of regions (the whole picture first), or of views
            and then of regions, after the first.
        indices: Shape (B,).
    """

    images: torch.Tensor
    indices: torch.Tensor


class ImageDataset(Dataset[tuple[int, Image | DistractedError]]):
    """Decoded, augmented images by `Key`; what cannot be read comes back as the error itself."""

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
class Beside:
    """Rows that come beside those of an epoch, such as pseudo-labelled images.

    Attributes:
        rows: Positions among the pictures, shape (num_rows,).
        share: Of each batch.
    """

    rows: NDArray[np.int64]
    share: float

    def count(self, num_rows: int) -> int:
        """How many come beside so many rows."""
        return max(1, round(num_rows * self.share / (1 - self.share)))

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """So many of the rows, and how often each was drawn before, shape (count, 2)."""
        rounds = -(-count // len(self.rows))
        drawn = np.concatenate([rng.permutation(self.rows) for _ in range(rounds)])
        return np.stack([drawn, np.repeat(np.arange(rounds), len(self.rows))], axis=1)[:count]


class BatchSampler(Sampler[list[Key]]):
    """Keys in batches of nearly equal size, shuffled anew each epoch or in order.

    Equal sizes and at least two, so that no last batch of one image meets a BatchNorm that learns; where
    `batch_size` is 2 and the rows are odd in number, one batch has three. With `subjects`, those of the rows,
    a shuffled epoch draws as many images, but each subject equally often. With `beside`, each batch of a
    shuffled epoch gets its share of those rows, too, none of them again before all have come. With `part`,
    each batch is divided, and only the first of so many parts of it comes, or the second ...
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int | None = None,
        subjects: NDArray[np.int64] | None = None,
        beside: Beside | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._part = part
        self._rows = rows
        self._subjects = subjects
        self._beside = beside
        self._num_beside = beside.count(len(rows)) if beside else 0
        self.num_images = len(rows) + self._num_beside
        most = len(rows) // 2 if batch_size > 1 else len(rows)
        self._num_batches = max(1, min(-(-self.num_images // batch_size), most))
        self._seed = seed
        self.epoch = 0
        self.after = 0  # batches of the epoch that are left out, since they were seen

    def num_before(self, batch: int) -> int:
        """Images in the batches of an epoch before this one."""
        counts = [len(self._rows), self._num_beside]
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
        if self._beside is not None:
            rng = np.random.default_rng([self._seed or 0, self.epoch, 1])
            more = np.array_split(self._beside.draw(self._num_beside, rng), self._num_batches)
            batches = [np.concatenate(pair) for pair in zip(batches, more, strict=True)]
        number, size = self._part
        for batch in batches[self.after :]:
            yield [(self.epoch, index, repeat) for index, repeat in batch[number::size].tolist()]


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Within this block a process that decodes and that the system has ended is an error of ours.

    torch notices by a signal, so that it raises in the middle of whatever is being done.

    Raises:
        TrainingError: says so, and what helps.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # or by what it was about to send
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise at the next death, anywhere
        raise TrainingError(
            f"a process that decodes images was ended by the system ({first_line(error)}): memory, or shared "
            "memory, has run out; fewer of them need less (SET='runtime.num_workers=2', 0: none), and the "
            "same command goes on"
        ) from error


class Loader:
    """Batches of one set of rows; an unreadable image raises, whichever process met it.

    Args:
        pictures: All of them; `rows` picks among them.
        rows: Positions among them, shape (num_rows,).
        transform: Makes the network's input of a decoded image, such as an `Augmenter`.
        batch_size: At most so many images a batch.
        num_workers: Processes that decode; 0 decodes in this one. Results do not depend on it.
        seed: Shuffle by (seed, epoch); None keeps the order of `rows`.
        subjects: Subject id of each of `rows`, to draw each subject equally often when shuffling.
        beside: Further rows that each batch of a shuffled epoch gets its share of.
        part: Number and count of the parts that each batch is divided in: this process gets one.
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
        beside: Beside | None = None,
        part: tuple[int, int] = (0, 1),
        pin_memory: bool = False,
    ) -> None:
        self._sampler = BatchSampler(
            rows, batch_size=batch_size, seed=seed, subjects=subjects, beside=beside, part=part
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
            generator=torch.Generator(),  # else each epoch draws from the one that dropout draws from
        )

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._sampler)

    def num_before(self, batch: int) -> int:
        """Images in the batches of an epoch before this one."""
        return self._sampler.num_before(batch)

    def epoch(self, epoch: int = 0, *, after: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            after: So many of them are left out, and none of their images is read: they were seen before.

        Raises:
            ImageError: an image cannot be read; the message starts with its path.
            ConfigError: the policy makes something else than square uint8 images.
        """
        self._sampler.epoch, self._sampler.after = epoch, after
        for batch in self._loader:
            if isinstance(batch, DistractedError):
                # A new one: held by this frame, it would make a cycle with the workers in it, and torch waits
                # ten seconds for workers that the garbage collector has to end.
                raise type(batch)(*batch.args)
            yield batch


def _init_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal; the parent ends them


def _collate(items: list[tuple[int, Image | DistractedError]]) -> Batch | DistractedError:
    images = []
    for _, image in items:
        if isinstance(image, DistractedError):
            return image
        images.append(image)
    return Batch(torch.from_numpy(np.stack(images)), torch.tensor([index for index, _ in items]))
