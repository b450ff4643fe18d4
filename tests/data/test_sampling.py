"""All subjects are drawn equally often, and no image repeats before all of its subject's were drawn."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distracted.data.sampling import balance_groups

subject_ids = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)


@settings(max_examples=60, deadline=None)
@given(subject_ids, st.integers(0, 99))
def test_subjects_are_drawn_equally_often_and_images_take_turns(subjects: np.ndarray, seed: int) -> None:
    rows, repeats = balance_groups(subjects, np.random.default_rng(seed)).T
    assert len(rows) == len(subjects)
    counts = [int((subjects[rows] == subject).sum()) for subject in set(subjects.tolist())]
    assert max(counts) - min(counts) <= 1
    for subject in set(subjects.tolist()):
        drawn = np.bincount(rows, minlength=len(subjects))[subjects == subject]
        assert drawn.max() - drawn.min() <= 1
    for row in set(rows.tolist()):
        assert sorted(repeats[rows == row]) == list(range((rows == row).sum()))


def test_images_that_are_their_own_subjects_are_drawn_once_each() -> None:
    rows, repeats = balance_groups(np.arange(50), np.random.default_rng(0)).T
    assert sorted(rows) == list(range(50))
    assert not repeats.any()


def test_all_images_of_a_subject_are_drawn_over_several_epochs() -> None:
    """Each epoch draws a different part of a large subject's images."""
    subjects = np.array([0] * 40 + [1] * 10)
    epochs = [set(balance_groups(subjects, np.random.default_rng(seed))[:, 0]) for seed in range(20)]
    assert all(len(epoch) < 50 for epoch in epochs)
    assert set.union(*epochs) == set(range(50))


def test_the_order_is_random() -> None:
    subjects = np.repeat([0, 1], 100)
    rows = balance_groups(subjects, np.random.default_rng(0))[:, 0]
    assert 30 < np.count_nonzero(np.diff(subjects[rows])) < 170
