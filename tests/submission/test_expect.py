"""The forecast: known answers, coverage of its interval, and sane output for any input."""

import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from distracted.metrics import CLIP, log_loss, log_losses
from distracted.submission.expect import WORST, Bag, Expected, expect_score


def constant_losses(losses: list[float], num_rows: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """OOF log-probabilities of two classes, labels and subjects; all rows of a subject have the same loss."""
    true = -np.repeat(losses, num_rows)
    oof = np.stack([true, np.log1p(-np.exp(true))], axis=1)
    return oof, np.zeros(len(true), dtype=np.int64), np.repeat(np.arange(len(losses)), num_rows)


def simulate(seed: int, *, sharpness: float, num_folds: int = 5, num_test: int = 4000) -> np.ndarray:
    """Log-probabilities of correlated networks, shape (num_folds, num_test, 4)."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(num_test, 4))
    own = rng.normal(size=(num_folds, num_test, 4))
    return log_softmax(sharpness * (1.5 * shared + own), axis=2)


ONE_NETWORK = np.log([[[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]]])


# Known answers


def test_one_network_is_expected_to_score_its_oof_loss() -> None:
    """The interval is exp(log 0.5 +- t * relative error)."""
    losses = [0.2, 0.3, 0.5, 0.7, 0.8]
    expected = expect_score(*constant_losses(losses), ONE_NETWORK, num_test_subjects=10)
    assert expected.mean == expected.oof == pytest.approx(0.5)
    assert expected.bagging == 0
    error = np.std(losses, ddof=1) / 0.5 * math.sqrt(2 / 5 + 1 / 10)
    assert expected.error == pytest.approx(error)
    assert expected.quantile == pytest.approx(2.776, abs=1e-3)  # 4 degrees of freedom: no heavy tail
    assert expected.low == pytest.approx(0.5 * math.exp(-2.776445 * error))
    assert expected.high == pytest.approx(0.5 * math.exp(2.776445 * error))


def test_an_outlying_subject_lowers_the_degrees_of_freedom() -> None:
    even = expect_score(*constant_losses([0.1, 0.2] * 10), ONE_NETWORK)
    skewed = expect_score(*constant_losses([0.1] * 19 + [2.0]), ONE_NETWORK)
    assert even.quantile is not None and skewed.quantile is not None
    assert even.quantile == pytest.approx(2.093, abs=1e-3)
    assert skewed.quantile > 3


@pytest.mark.parametrize("trust", [0.3, 0.6, 1.0, 1.5])
def test_the_gain_of_averaging_is_estimated_without_labels(trust: float) -> None:
    """Labels are drawn from the tempered belief, from overconfident to underconfident networks."""
    test = simulate(0, sharpness=3.0)
    bag = Bag.of(test)
    belief = np.exp(log_softmax(trust * (bag.pooled + bag.single) / 2, axis=1))
    labels = (belief.cumsum(axis=1) < np.random.default_rng(1).random((len(belief), 1))).sum(axis=1)
    single = float(np.mean([log_loss(log_probs, labels) for log_probs in test]))
    true = log_loss(bag.pooled, labels)
    assert bag.expected(single) == pytest.approx(true, rel=0.03)
    assert abs(bag.expected(single) - true) < 0.1 * (single - true)


def test_identical_networks_gain_nothing() -> None:
    test = np.repeat(simulate(0, sharpness=1.0, num_folds=1), 3, axis=0)
    assert Bag.of(test).expected(0.8) == pytest.approx(0.8)


def test_the_number_of_test_subjects_is_stated_or_guessed_from_images() -> None:
    rows = constant_losses([0.2, 0.3, 0.5], num_rows=4)
    test = np.repeat(ONE_NETWORK[:, :1], 22, axis=1)
    guessed = expect_score(*rows, test)
    assert (guessed.num_subjects, guessed.num_test_subjects, guessed.counted) == (3, 6, "assumed")
    stated = expect_score(*rows, test, num_test_subjects=60)
    assert (stated.num_test_subjects, stated.counted) == (60, "stated")
    assert expect_score(*rows, test, num_test_subjects=60, estimated=True).counted == "estimated"
    assert guessed.low < stated.low < stated.high < guessed.high  # type: ignore[operator]
    assert expect_score(*rows, test[:, :1]).num_test_subjects == 1


def test_the_two_halves_bound_the_effect_of_decoys() -> None:
    """The networks disagree on the half that they are unsure of, and only there averaging gains."""
    test = np.concatenate([np.full((2, 50, 2), np.log(0.5)), np.full((2, 50, 2), np.log([0.9, 0.1]))], axis=1)
    test[:, :50] = np.log([[[0.2, 0.8]], [[0.7, 0.3]]])
    expected = expect_score(*constant_losses([0.3, 0.5, 0.6]), test)
    assert expected.unsure_half < expected.mean < expected.sure_half == pytest.approx(expected.oof)


# Coverage


def test_the_interval_covers_the_truth_at_least_as_often_as_stated() -> None:
    """Subjects' losses are log-normal and independent, so the factor 2 is conservative."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        people = np.exp(0.6 * rng.normal(size=60) - 2)
        expected = expect_score(*constant_losses(people[:20].tolist(), 1), ONE_NETWORK, num_test_subjects=40)
        covered.append(expected.holds(float(people[20:].mean())))
    assert 0.95 < np.mean(covered) < 1


# Any input


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_subjects=st.integers(1, 8),
    num_folds=st.integers(1, 4),
    sharpness=st.sampled_from([0.0, 0.01, 1.0, 30.0, 1000.0]),
)
@example(seed=3461, num_subjects=3, num_folds=1, sharpness=1000.0)  # in each subject 6 of 10 rows are wrong
def test_the_forecast_is_finite_and_ordered(
    seed: int, num_subjects: int, num_folds: int, sharpness: float
) -> None:
    rng = np.random.default_rng(seed)
    subjects = rng.integers(0, num_subjects, 30)
    labels = rng.integers(0, 3, 30)
    oof = log_softmax(sharpness * rng.normal(size=(30, 3)), axis=1)
    test = log_softmax(sharpness * rng.normal(size=(num_folds, 9, 3)), axis=2)
    expected = expect_score(oof, labels, subjects, test)
    json.dumps(expected.as_json(), allow_nan=False)
    assert 0 < expected.mean <= expected.oof + 1e-9
    assert expected.bagging <= 1e-9
    losses = log_losses(oof, labels)
    excess = [(losses[subjects == subject] - losses.mean()).sum() for subject in np.unique(subjects)]
    rounding = 1e-9 * losses.sum() / len(excess)
    if len(excess) < 3 or np.std(excess) <= rounding:  # too few subjects, or they do not differ
        assert expected.low is expected.high is None
    else:
        assert expected.low is not None and expected.high is not None
        assert 0 < expected.low <= expected.mean <= expected.high + 1e-9 <= WORST + 2e-9
        assert expected.errors_off(expected.low) == pytest.approx(-expected.quantile)  # type: ignore[operator]
        renamed = expect_score(oof[::-1], labels[::-1], 5 + 3 * subjects[::-1], test)
        assert renamed.mean == pytest.approx(expected.mean)
        assert renamed.high == pytest.approx(expected.high)


def test_without_errors_there_is_no_interval() -> None:
    sure = np.log(np.array([[1 - 1e-16, 1e-16]]) + CLIP)
    rows = np.repeat(sure, 12, axis=0), np.zeros(12, dtype=np.int64), np.arange(12) // 3
    expected = expect_score(*rows, np.repeat(sure[None], 3, axis=0))
    assert expected.mean < 1e-12
    assert expected.low is expected.high is expected.errors_off(0.1) is expected.holds(0.1) is None


# Comparison with a score


def test_errors_off_count_from_the_mean_to_either_end() -> None:
    expected = Expected(0.4, 0.2, 0.6, 0.5, -0.1, 0.2, 2.5, 5, 10, "stated", 0.4, 0.4)
    assert expected.errors_off(0.4) == 0
    assert expected.errors_off(0.2) == pytest.approx(-2.5)
    assert expected.errors_off(0.6) == pytest.approx(2.5)
    assert expected.errors_off(0.9) == pytest.approx(5.0)
    assert expected.holds(0.2) and expected.holds(0.6) and not expected.holds(0.61)
