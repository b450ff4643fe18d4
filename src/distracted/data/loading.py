"""Load images in batches: decoded and augmented on the CPU as uint8; the network normalises them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from distracted.data.images import Image
from distracted.data.picture_sets import Pictures
from distracted.data.sampling import balance_groups
from distracted.data.worker_process import Items, Parts, Task, join
from distracted.data.workers import Workers

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


class BatchSampler:
    """Batches of keys by their number in the epoch, in order or shuffled by (seed, epoch).

    Batches have nearly equal sizes of at least two, since BatchNorm cannot learn from a last batch of one
    image; with `batch_size` 2 and an odd number of rows, one batch has three.

    Args:
        rows: Positions in the pictures, shape (num_rows,).
        seed: None keeps the order of `rows`.
        groups: Group id of each row; a shuffled epoch then draws each group equally often.
        extra: Rows added to each batch of a shuffled epoch; none repeats before all were drawn.
        part: (k, n) yields the k-th of n parts of each batch, for n processes that share one.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int | None = None,
        groups: NDArray[np.int64] | None = None,
        extra: ExtraRows | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._part = part
        self._rows = rows
        self._groups = groups
        self._extra = extra
        self._num_extra = extra.count(len(rows)) if extra else 0
        self.num_images = len(rows) + self._num_extra
        most = len(rows) // 2 if batch_size > 1 else len(rows)
        self._num_batches = max(1, min(-(-self.num_images // batch_size), most))
        self._seed = seed
        self.epoch = 0
        self._drawn: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    def num_before(self, batch: int) -> int:
        """Number of images in the epoch's batches before this one."""
        counts = [len(self._rows), self._num_extra]
        return sum(
            batch * (count // self._num_batches) + min(batch, count % self._num_batches) for count in counts
        )

    def __len__(self) -> int:
        return self._num_batches if self.num_images else 0

    def __iter__(self) -> Iterator[list[Key]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> list[Key]:
        if self._drawn[0] != self.epoch:
            self._drawn = self.epoch, self._draw()
        part, num_parts = self._part
        rows = self._drawn[1][number][part::num_parts]
        return [(self.epoch, index, repeat) for index, repeat in rows.tolist()]

    def _draw(self) -> list[NDArray[np.int64]]:
        """The epoch's batches: rows and how often each was drawn before, shape (B, 2)."""
        rows, repeats = self._rows, np.zeros(len(self._rows), dtype=np.int64)
        if self._seed is not None:
            rng = np.random.default_rng([self._seed, self.epoch])
            if self._groups is None:
                rows = rng.permutation(rows)
            else:
                drawn, repeats = balance_groups(self._groups, rng).T
                rows = rows[drawn]
        batches = np.array_split(np.stack([rows, repeats], axis=1), self._num_batches)
        if self._extra is not None:
            rng = np.random.default_rng([self._seed or 0, self.epoch, 1])
            extra = np.array_split(self._extra.draw(self._num_extra, rng), self._num_batches)
            batches = [np.concatenate(pair) for pair in zip(batches, extra, strict=True)]
        return batches


class _Load:
    """Loads the images of a batch of an epoch, with their positions; called in worker processes."""

    def __init__(self, pictures: Pictures, transform: Transform | None, sampler: BatchSampler) -> None:
        self._pictures, self._transform, self._sampler = pictures, transform, sampler

    def __call__(self, task: Task) -> Items:
        self._sampler.epoch, number = task
        return [(key[1], self._image(*key)) for key in self._sampler[number]]

    def _image(self, epoch: int, index: int, repeat: int) -> Image:
        image = self._pictures[index]
        if self._transform is None:
            return image
        return self._transform(image, epoch=epoch, index=index, repeat=repeat)


class Loader:
    """Loads rows of a set of pictures in batches.

    Args:
        rows: Positions in `pictures`, shape (num_rows,).
        transform: Makes the network's input, such as an `Augmenter`; None leaves images as they are.
        batch_size: Maximum number of images per batch.
        num_workers: Processes that decode; 0 decodes in this one. Batches do not depend on it.
        seed, groups, extra, part: As for `BatchSampler`.
        while_waiting: Called about every second in which processes deliver no batch; may raise, to stop.
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
        groups: NDArray[np.int64] | None = None,
        extra: ExtraRows | None = None,
        part: tuple[int, int] = (0, 1),
        pin_memory: bool = False,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._sampler = BatchSampler(
            rows, batch_size=batch_size, seed=seed, groups=groups, extra=extra, part=part
        )
        self.num_images = self._sampler.num_images
        self._load = _Load(pictures, transform, self._sampler)
        self._is_stacked = transform is not None
        self._num_workers = num_workers
        self._workers: Workers | None = None
        self._pin_memory, self._while_waiting = pin_memory, while_waiting

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
            TrainingError: the worker processes were ended by the system.
        """
        tasks = [(epoch, number) for number in range(after, len(self))]
        if self._num_workers and tasks:
            parts = self._running_workers().load(tasks, self._while_waiting)
        else:
            parts = (join(self._load(task), pin_memory=self._pin_memory) for task in tasks)
        yield from map(self._batch, parts)

    def _running_workers(self) -> Workers:
        """The worker processes; they stay for the next epoch, and end with this loader."""
        if self._workers is None or not self._workers.are_left:
            count = min(self._num_workers, len(self))
            self._workers = Workers(self._load, count, pin_memory=self._pin_memory)
            # A priority, since at exit multiprocessing sends SIGTERM, which they ignore, and waits for them.
            Finalize(self, self._workers.end, exitpriority=0)
        return self._workers

    def _batch(self, parts: Parts) -> Batch:
        indices = torch.tensor(parts.indices, pin_memory=self._pin_memory)
        if self._is_stacked:
            [shape] = set(parts.shapes)
            return Batch(parts.pixels.view(-1, *shape), indices)
        return Batch(parts.pixels, indices, torch.tensor([shape[:2] for shape in parts.shapes]))
