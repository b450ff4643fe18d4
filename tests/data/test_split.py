"""The search for parts finds what an exhaustive one finds, and the same everywhere."""

from functools import cache
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conftest import RecordedProgress
from distracted.data.balance import measure_balance
from distracted.data.split import part_counts, split_by_subject

Ints = NDArray[np.int64]

#: 26 drivers, ten classes, 345 to 1,166 images each: nearly State Farm's own numbers.
DRIVERS, CLASSES = np.indices((26, 10))
STATE_FARM = 27 + (37 * DRIVERS * DRIVERS) % 91 + (11 * DRIVERS * CLASSES + 5 * CLASSES) % 17


def rows_of(counts: Ints) -> tuple[Ints, Ints]:
    """Labels and subjects of rows with these counts by subject and class."""
    subjects, labels = np.indices(counts.shape)
    return np.repeat(labels.ravel(), counts.ravel()), np.repeat(subjects.ravel(), counts.ravel())


@cache
def partitions(num_subjects: int, num_parts: int) -> Ints:
    """The ways to divide subjects into parts that are not empty, one-hot: (ways, parts, subjects)."""
    ways = [[0]]
    for _ in range(num_subjects - 1):
        ways = [[*way, part] for way in ways for part in range(min(max(way) + 2, num_parts))]
    full = np.array([way for way in ways if max(way) == num_parts - 1])
    return (full[:, None, :] == np.arange(num_parts)[:, None]).astype(np.int64)


def least_imbalance(counts: Ints, num_parts: int) -> float | None:
    """The least imbalance of all valid parts; None if there are none."""
    held_out, total = partitions(len(counts), num_parts) @ counts, counts.sum(axis=0)
    held_out = held_out[(held_out < total).all(axis=(1, 2))]
    sizes, even, size = held_out.sum(axis=2), total / num_parts, total.sum() / num_parts
    by_size = len(total) * ((sizes - size) ** 2 / size).sum(axis=1)
    imbalances = ((held_out - even) ** 2 / even).sum(axis=(1, 2)) + by_size
    return float(imbalances.min()) if len(imbalances) else None


def few_subjects(rng: np.random.Generator, kind: str) -> Ints:
    """Counts of 4 to 8 subjects in 2 to 7 classes, each class shown by at least two."""
    num_subjects, num_classes = rng.integers(4, 9), rng.integers(2, 8)
    shape = num_subjects, num_classes
    if kind == "pairs":  # each class is shown by two subjects: what one part may hold is limited most
        counts = np.zeros(shape, dtype=np.int64)
        for label in range(num_classes):
            counts[rng.choice(num_subjects, 2, replace=False), label] = rng.integers(1, 5, 2)
    else:
        sizes = rng.gamma(1, 10, (num_subjects, 1))
        counts = rng.poisson(sizes * rng.random(shape)) + (np.indices(shape)[0] < 2)
    counts[counts.sum(axis=1) == 0, 0] = 1
    return counts


@pytest.mark.parametrize("kind", ["pairs", "uneven"])
def test_the_parts_are_as_balanced_as_an_exhaustive_search_finds(kind: str) -> None:
    rng, ratios = np.random.default_rng(0), []
    for _ in range(15):
        counts = few_subjects(rng, kind)
        num_parts = int(rng.integers(2, 5))
        labels, subjects = rows_of(counts)
        parts, least = split_by_subject(labels, subjects, num_parts), least_imbalance(counts, num_parts)
        assert (parts is None) == (least is None)
        if parts is not None and least is not None:
            ratios.append((measure_balance(labels, parts, num_parts).imbalance + 1e-9) / (least + 1e-9))
    assert np.median(ratios) < 1 + 1e-6 and max(ratios) < 1.2


@pytest.mark.parametrize(("num_parts", "digest"), [(5, "67b339e13dd3ebc4"), (10, "1b10bebe934fb6e3")])
def test_the_parts_of_a_known_list_stay_as_they_are(num_parts: int, digest: str) -> None:
    """The same with every version of numpy and scikit-learn: CI and users have others."""
    labels, subjects = rows_of(STATE_FARM)
    parts = split_by_subject(labels, subjects, num_parts)
    assert parts is not None
    of_subjects = parts[np.unique(subjects, return_index=True)[1]]
    assert sha256(",".join(map(str, of_subjects)).encode()).hexdigest()[:16] == digest


def test_the_parts_of_a_large_list_stay_as_they_are() -> None:
    """With more than 256 subjects, samples are searched."""
    subject, label = np.indices((600, 4))
    labels, subjects = rows_of((subject * subject * 7 + label * subject * 3 + label) % 11)
    parts = split_by_subject(labels, subjects, 5)
    assert parts is not None
    assert sha256(parts.astype("<i8").tobytes()).hexdigest()[:16] == "17fb4a9a4fa9bf04"
    balance = measure_balance(labels, parts, 5)
    assert balance.size < 0.002 and balance.share < 0.004


def test_state_farms_folds_are_balanced() -> None:
    labels, subjects = rows_of(STATE_FARM)
    parts = split_by_subject(labels, subjects, 5)
    assert parts is not None
    balance = measure_balance(labels, parts, 5)
    assert balance.size < 0.01 and balance.share < 0.01 and balance.imbalance < 20


def test_the_order_of_the_rows_does_not_matter() -> None:
    labels, subjects = rows_of(STATE_FARM[:9])
    parts, order = split_by_subject(labels, subjects, 3), np.random.default_rng(0).permutation(len(labels))
    again = split_by_subject(labels[order], subjects[order], 3)
    assert parts is not None and again is not None
    assert _as_sets(again, subjects[order]) == _as_sets(parts, subjects)


def _as_sets(parts: Ints, subjects: Ints) -> set[frozenset[int]]:
    return {frozenset(subjects[parts == part].tolist()) for part in set(parts.tolist())}


def test_the_first_part_is_the_best_balanced() -> None:
    """One subject has most of the rows, and the part that it is in is the last."""
    labels, subjects = rows_of(np.array([[90, 90], [5, 5], [4, 6], [6, 4], [5, 5], [5, 5]]))
    parts = split_by_subject(labels, subjects, 3)
    assert parts is not None and set(parts[subjects == 0]) == {2}


def test_a_subject_that_alone_shows_a_class_is_in_no_part() -> None:
    """Its other classes need not be outside of each part: it is trained on in any case."""
    labels, subjects = rows_of(np.array([[3, 3, 3], [3, 0, 3], [3, 0, 0], [3, 0, 0]]))
    parts = split_by_subject(labels, subjects, 3)
    assert parts is not None
    assert set(parts[subjects == 0]) == {-1}
    assert sorted(parts[np.unique(subjects, return_index=True)[1]]) == [-1, 0, 1, 2]


def test_too_few_subjects_that_can_be_held_out() -> None:
    labels, subjects = rows_of(np.array([[3, 0], [3, 3], [3, 0]]))
    assert split_by_subject(labels, subjects, 3) is None
    assert split_by_subject(labels, subjects, 2) is not None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=40), st.integers(2, 5))
def test_images_without_subjects_are_dealt_evenly(drawn: list[int], num_parts: int) -> None:
    labels = np.array(drawn * 2)  # each class at least twice
    parts = split_by_subject(labels, np.arange(len(labels)), num_parts)
    assert parts is not None
    counts = part_counts(labels, parts, num_parts)
    assert (np.ptp(counts, axis=0) <= 1).all() and np.ptp(counts.sum(axis=1)) <= 1


def test_progress_counts_the_subjects() -> None:
    labels, subjects = rows_of(STATE_FARM)
    progress = RecordedProgress()
    split_by_subject(labels, subjects, 5, progress=progress)
    assert progress.tasks == [(26, 26)]


def test_the_balance_in_words() -> None:
    """Fold 0 has 6 rows, 4 of class 0; fold 1 has 4, one of class 0; row 10 is always trained on."""
    labels = np.array([0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 2])
    parts = np.array([0] * 6 + [1] * 4 + [-1])
    balance = measure_balance(labels, parts, 2)
    assert (balance.size, balance.size_fold) == (pytest.approx(0.2), 0)
    assert (balance.share, balance.share_fold, balance.share_class) == (pytest.approx(0.25), 1, 0)
    assert balance.imbalance == pytest.approx(2 * 1.5**2 / 2.5 + 2 * 0.5**2 / 2.5 + 2 * 2 * 1 / 5)
