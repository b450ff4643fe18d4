"""An epoch holds every row, does not depend on the number of workers, and stops at unreadable images."""

import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distracted.config import load_config
from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.images import read_rgb
from distracted.data.loading import BatchSampler, ExtraRows, Loader
from distracted.data.picture_sets import Files
from distracted.errors import ConfigError, DistractedError, ImageError

HEAVY = load_config(model="resnet50", data="sample").augment.policies["heavy"]


def make_loader(
    competition: Competition,
    *,
    rows: np.ndarray | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    seed: int | None = 0,
    augment: bool = True,
) -> Loader:
    paths = competition.train_paths()
    return Loader(
        Files(paths),
        np.arange(len(paths)) if rows is None else rows,
        Augmenter(HEAVY if augment else (), size=24, crop=1.0, seed=3),
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
    )


def indices(loader: Loader, epoch: int) -> list[int]:
    return torch.cat([batch.indices for batch in loader.epoch(epoch)]).tolist()


def test_workers_do_not_change_a_batch(competition: Competition) -> None:
    """Two epochs are compared, since workers persist."""
    ours, workers = make_loader(competition), make_loader(competition, num_workers=2)
    for epoch in (0, 1):
        for expected, batch in zip(ours.epoch(epoch), workers.epoch(epoch), strict=True):
            assert torch.equal(batch.indices, expected.indices)
            assert torch.equal(batch.images, expected.images)


def test_a_batch_holds_the_images_of_its_indices(competition: Competition) -> None:
    rows = np.array([5, 2, 30, 11])
    loader = make_loader(competition, rows=rows, batch_size=4, seed=None, augment=False)
    (batch,) = loader.epoch()
    assert (batch.images.shape, batch.images.dtype) == ((4, 24, 24, 3), torch.uint8)
    assert batch.indices.tolist() == rows.tolist()
    plain = Augmenter((), size=24, crop=1.0, seed=0)
    for image, row in zip(batch.images, rows, strict=True):
        assert (image.numpy() == plain(read_rgb(competition.train_paths()[row]), epoch=0, index=0)).all()


def test_a_shuffled_image_is_augmented_by_its_own_index(competition: Competition) -> None:
    """Its position in the batch does not matter: another batch size gives the same images."""
    small, large = make_loader(competition, batch_size=5), make_loader(competition, batch_size=9)
    pictures = {int(i): image for b in small.epoch(4) for i, image in zip(b.indices, b.images, strict=True)}
    for batch in large.epoch(4):
        for index, image in zip(batch.indices, batch.images, strict=True):
            assert torch.equal(image, pictures[int(index)])


def test_every_row_once_per_epoch(competition: Competition) -> None:
    rows = np.arange(3, 40, 2)
    loader = make_loader(competition, rows=rows)
    orders = [indices(loader, epoch) for epoch in (0, 1, 0)]
    assert all(sorted(order) == rows.tolist() for order in orders)
    assert orders[0] != rows.tolist()
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]
    assert loader.num_images == len(rows)


def test_without_a_seed_the_order_is_kept(competition: Competition) -> None:
    rows = np.array([9, 1, 8, 2, 30])
    loader = make_loader(competition, rows=rows, batch_size=2, seed=None)
    assert indices(loader, 0) == indices(loader, 1) == rows.tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.none() | st.integers(0, 2**32), st.integers(0, 1000))
def test_batches_have_nearly_equal_sizes(
    num_rows: int, batch_size: int, seed: int | None, epoch: int
) -> None:
    """BatchNorm never sees a last batch of one image, unless batches of one were asked for."""
    sampler = BatchSampler(np.arange(num_rows) * 3, batch_size=batch_size, seed=seed)
    sampler.epoch = epoch
    batches = list(sampler)
    sizes = [len(batch) for batch in batches]
    assert len(sampler) == len(batches) <= -(-num_rows // batch_size)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size or (batch_size, max(sizes), num_rows % 2) == (2, 3, 1)
    assert min(sizes) >= min(2, batch_size, num_rows)
    keys = [key for batch in batches for key in batch]
    assert {key[0] for key in keys} == {epoch}
    assert sorted(key[1] for key in keys) == list(range(0, 3 * num_rows, 3))


def test_a_repeated_image_is_augmented_differently(competition: Competition) -> None:
    """If subjects count equally, images of small subjects are drawn more than once per epoch."""
    subject = competition.train["subject"]
    first, second = (np.flatnonzero(subject == name) for name in ("p000", "p001"))
    rows = np.concatenate([first[:2], second])
    loaders = [
        Loader(
            Files(competition.train_paths()),
            rows,
            Augmenter(HEAVY, size=24, crop=1.0, seed=3),
            batch_size=4,
            num_workers=num_workers,
            seed=0,
            groups=subject.eq("p000").to_numpy(np.int64)[rows],
        )
        for num_workers in (0, 2)
    ]
    ours, workers = (list(loader.epoch(1)) for loader in loaders)
    for expected, batch in zip(ours, workers, strict=True):
        assert torch.equal(batch.indices, expected.indices) and torch.equal(batch.images, expected.images)
    drawn, images = (torch.cat(parts) for parts in zip(*((b.indices, b.images) for b in ours), strict=True))
    assert len(drawn) == len(rows)
    repeats = images[drawn == first[0]]
    assert len(repeats) in (2, 3)
    assert len({image.numpy().tobytes() for image in repeats}) == len(repeats)


def error_of(loader: Loader, kind: type[DistractedError] = ImageError) -> str:
    """Return only the error's text: pytest's record of the error would keep the loader alive."""
    try:
        indices(loader, 0)
    except kind as error:
        return str(error)
    raise AssertionError("no error was raised")


def break_image(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_bytes(b"<html>")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("how", ["missing", "truncated", "text"])
def test_an_unreadable_image_stops_the_epoch(competition: Competition, num_workers: int, how: str) -> None:
    """The ImageError starts with its path, also from a worker; no other image takes its place."""
    path = competition.train_paths()[17]
    break_image(path, how)
    message = error_of(make_loader(competition, num_workers=num_workers))
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_wrong_policy_is_an_error_of_one_line(competition: Competition, num_workers: int) -> None:
    """Also from a worker."""
    loader = Loader(
        Files(competition.train_paths()),
        np.arange(8),
        Augmenter([{"Normalize": {"p": 1.0}}], size=24, crop=1.0, seed=0),
        batch_size=4,
        num_workers=num_workers,
    )
    message = error_of(loader, ConfigError)
    assert message.startswith("augment.policies: expected uint8 images")
    assert "\n" not in message


def test_workers_end_at_once_after_an_unreadable_image(competition: Competition) -> None:
    """They exit when the loader is deleted."""
    break_image(competition.train_paths()[17], "text")
    before = set(active_children())
    loader = make_loader(competition, num_workers=2)
    error_of(loader)
    workers = set(active_children()) - before
    assert len(workers) == 2
    del loader
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_an_unreadable_image_outside_of_the_rows_does_not_matter(competition: Competition) -> None:
    break_image(competition.train_paths()[17], "missing")
    assert indices(make_loader(competition, rows=np.arange(10)), 0)


def test_regions_add_a_dimension(competition: Competition) -> None:
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)]
    augmenter = Augmenter(HEAVY, size=24, crop=1.0, seed=3, regions=boxes)
    files, rows = Files(competition.train_paths()), np.arange(6)
    ours, workers = (Loader(files, rows, augmenter, batch_size=6, num_workers=number) for number in (0, 2))
    [expected], [batch] = ours.epoch(), workers.epoch()
    assert batch.images.shape == (6, 3, 24, 24, 3)
    assert torch.equal(batch.images, expected.images)


@pytest.mark.parametrize(("num_extra", "share"), [(40, 0.25), (4, 0.5), (3, 0.1)])
def test_each_batch_gets_its_share_of_extra_rows(num_extra: int, share: float) -> None:
    rows, extra = np.arange(90), ExtraRows(np.arange(100, 100 + num_extra), share)
    sampler = BatchSampler(rows, batch_size=10, seed=0, extra=extra)
    batches = list(sampler)
    assert len(batches) == len(sampler) and max(map(len, batches)) <= 11
    keys = [key for batch in batches for key in batch]
    assert len(keys) == sampler.num_images == 90 + round(90 * share / (1 - share))
    assert sorted(index for _, index, _ in keys if index < 100) == list(range(90))
    counts = [sum(index >= 100 for _, index, _ in batch) for batch in batches]
    assert max(counts) - min(counts) <= 1
    drawn = [(index, repeat) for _, index, repeat in keys if index >= 100]
    assert len(set(drawn)) == len(drawn)  # no image repeats with the same augmentation
    repeats = [repeat for _, repeat in drawn]
    assert max(repeats) == (len(drawn) - 1) // num_extra  # and none before all were drawn


def test_extra_rows_change_with_the_epoch_and_do_not_reorder_the_others() -> None:
    plain = BatchSampler(np.arange(20), batch_size=5, seed=3)
    sampler = BatchSampler(np.arange(20), batch_size=5, seed=3, extra=ExtraRows(np.arange(100, 300), 0.3))

    def split(sampler: BatchSampler) -> tuple[list[int], list[int]]:
        indices = [index for batch in sampler for _, index, _ in batch]
        return [index for index in indices if index < 100], [index for index in indices if index >= 100]

    first = split(sampler)
    assert first == split(sampler) and first[0] == split(plain)[0]
    sampler.epoch = 1
    assert split(sampler)[1] != first[1]


@pytest.mark.slow
def test_a_process_that_exits_within_an_epoch_ends_its_workers(competition: Competition) -> None:
    """Workers ignore the SIGTERM by which multiprocessing would end them, at exit before older finalizers."""
    code = f"""
import tempfile
oldest = tempfile.TemporaryDirectory()
import numpy as np
from pathlib import Path
from distracted.data.augment import Augmenter
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
files = Files([Path({str(competition.train_paths()[0])!r})] * 40)
plain = Augmenter((), size=24, crop=1.0, seed=0)
loader = Loader(files, np.arange(40), plain, batch_size=2, num_workers=1)
batches = loader.epoch()
next(batches)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
