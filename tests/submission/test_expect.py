"""The forecast: known answers, coverage of its interval, and sane output for any input."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from a_forecast import EXPECTED
from distracted.metrics import log_loss, prior_log_loss
from distracted.submission.bag import Bag
from distracted.submission.expect import WORST, expect_score
from distracted.submission.trust import Trust


def simulate(seed: int, *, sharpness: float, num_folds: int = 5, num_test: int = 4000) -> np.ndarray:
    """Log-probabilities of correlated networks, shape (num_folds, num_test, 4)."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(num_test, 4))
    own = rng.normal(size=(num_folds, num_test, 4))
    return log_softmax(sharpness * (1.5 * shared + own), axis=2)


def trusted(
    seed: int, trust: np.ndarray, *, per_subject: int = 40, sharpness: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities, labels drawn from them to the power of each subject's trust, and subjects."""
    rng = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(len(trust)), per_subject)
    log_probs = log_softmax(sharpness * rng.normal(size=(len(subjects), 4)), axis=1)
    belief = np.exp(log_softmax(trust[subjects, None] * log_probs, axis=1))
    labels = (belief.cumsum(axis=1) < rng.random((len(belief), 1))).sum(axis=1).clip(max=3)
    return log_probs, labels, subjects


# Known answers


@pytest.mark.parametrize("trust", [0.3, 0.7, 1.2])
def test_with_many_subjects_the_trust_is_found(trust: float) -> None:
    """The spread over subjects, 0.2, is found, too."""
    rng = np.random.default_rng(0)
    subjects = trust * np.exp(0.2 * rng.standard_t(5, 300))
    fitted = Trust.fit(*trusted(1, subjects), np.random.default_rng(0))
    assert np.median(fitted.centre) == pytest.approx(np.log(trust), abs=0.08)
    assert np.median(fitted.scale) == pytest.approx(0.2, abs=0.08)


def test_with_many_subjects_one_network_is_expected_to_lose_as_much_as_out_of_fold() -> None:
    rows = trusted(0, np.full(300, 0.6))
    expected = expect_score(*rows, rows[0][None])
    assert expected.oof == pytest.approx(log_loss(rows[0], rows[1]))
    assert expected.single == pytest.approx(expected.oof, rel=0.03)
    assert expected.mean == expected.single + expected.bagging
    assert abs(expected.bagging) < 1e-3 * expected.single  # one network


def test_the_test_images_own_predictions_count() -> None:
    """On surer predictions networks of the same trust lose less."""
    rows = trusted(0, np.full(30, 0.8))
    hard, easy = trusted(1, np.ones(30))[0], trusted(1, np.ones(30), sharpness=6.0)[0]
    assert expect_score(*rows, easy[None]).mean < 0.7 * expect_score(*rows, hard[None]).mean


def test_without_a_mistake_the_upper_end_leaves_room_for_one() -> None:
    """40 subjects without a mistake promise less than 5, and no loss exceeds what the predictions allow."""
    sure = np.log([[0.9999, 0.0001]])
    ends = []
    for num_subjects in (5, 40):
        subjects = np.repeat(np.arange(num_subjects), 4)
        oof = np.repeat(sure, len(subjects), axis=0)
        expected = expect_score(oof, np.zeros(len(subjects), np.int64), subjects, oof[None, :20])
        assert expected.low is not None and expected.high is not None
        assert 0 < expected.low <= expected.mean <= expected.high < -sure.min()
        ends.append(expected.high)
    assert ends[0] > ends[1] > 5 * 0.0001


def test_an_uneven_subject_widens_the_interval() -> None:
    even, uneven = np.full(12, 0.8), np.array([0.1] + [0.9] * 11)
    widths = []
    for trust in (even, uneven):
        rows = trusted(0, trust)
        expected = expect_score(*rows, rows[0][None])
        assert expected.low is not None and expected.high is not None
        widths.append(math.log(expected.high / expected.low))
    assert widths[1] > 1.4 * widths[0]


def test_the_public_part_varies_more_than_the_whole() -> None:
    rows = trusted(0, np.full(20, 0.8))
    expected = expect_score(*rows, rows[0][None, :200], public_share=0.31)
    assert expected.public_low is not None and expected.public_high is not None
    assert expected.low is not None and expected.high is not None
    assert expected.public_low < expected.low < expected.high < expected.public_high
    assert expect_score(*rows, rows[0][None, :200]).public_low is None


def test_an_interval_that_reaches_the_class_prior_is_known() -> None:
    rows = trusted(0, np.full(20, 0.8))
    expected = expect_score(*rows, rows[0][None])
    assert expected.prior == pytest.approx(prior_log_loss(rows[1], rows[2] % 2, 4), rel=0.02)
    assert not expected.may_lose_to_prior
    wrong = trusted(0, np.full(20, 0.05))
    assert expect_score(*wrong, wrong[0][None]).may_lose_to_prior


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
    rows = trusted(0, np.exp(np.linspace(-1, 0.5, 6)), per_subject=20)
    test = np.repeat(rows[0][None], 2, axis=1)
    guessed = expect_score(*rows, test)
    assert (guessed.num_subjects, guessed.num_test_subjects, guessed.counted) == (6, 12, "assumed")
    stated = expect_score(*rows, test, num_test_subjects=120)
    assert (stated.num_test_subjects, stated.counted) == (120, "stated")
    assert expect_score(*rows, test, num_test_subjects=120, estimated=True).counted == "estimated"
    assert guessed.high > stated.high  # type: ignore[operator]
    assert expect_score(*rows, test[:, :1]).num_test_subjects == 1


def test_the_two_halves_bound_the_effect_of_decoys() -> None:
    """Calibrated networks that are hardly sure of one half of the images and nearly certain of the other."""
    unsure, sure = trusted(0, np.ones(200), sharpness=0.5), trusted(1, np.ones(200), sharpness=8.0)
    log_probs, labels, subjects = (np.concatenate(both) for both in zip(unsure, sure, strict=True))
    expected = expect_score(log_probs, labels, subjects, log_probs[None])
    half = len(labels) // 2
    assert expected.unsure_half == pytest.approx(log_loss(log_probs[:half], labels[:half]), rel=0.1)
    assert expected.sure_half == pytest.approx(log_loss(log_probs[half:], labels[half:]), rel=0.3)
    assert (expected.unsure_half + expected.sure_half) / 2 == pytest.approx(expected.mean, rel=0.02)


def test_averaging_gains_where_the_networks_disagree() -> None:
    """They disagree on the half that they are unsure of, and only there the mean's loss is lower."""
    test = np.empty((2, 100, 2))
    test[:, :50], test[:, 50:] = np.log([[[0.2, 0.8]], [[0.7, 0.3]]]), np.log([0.9, 0.1])
    bag, rows = Bag.of(test), np.arange(100) < 50
    parts = bag.expected(0.5, rows=rows) + bag.expected(0.5, rows=~rows)
    assert parts / 2 == pytest.approx(bag.expected(0.5))
    assert bag.expected(0.5) < 0.5
    alone = Bag.of(test[:, 50:])
    assert alone.expected(0.5) == pytest.approx(0.5)


# Coverage


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_stated() -> None:
    """20 training and 20 test subjects differ in their trust."""
    rng, covered = np.random.default_rng(0), []
    for seed in range(100):
        trust = rng.uniform(0.4, 1.0) * np.exp(0.3 * rng.standard_t(5, 40))
        log_probs, labels, subjects = trusted(seed, trust, per_subject=6)
        train = subjects < 20
        rows = log_probs[train], labels[train], subjects[train]
        expected = expect_score(*rows, log_probs[None, ~train], num_test_subjects=20)
        covered.append(expected.holds(log_loss(log_probs[~train], labels[~train])))
    assert np.mean(covered) > 0.9


# Any input


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_subjects=st.integers(1, 8),
    num_folds=st.integers(1, 4),
    sharpness=st.sampled_from([0.0, 0.01, 1.0, 30.0, 1000.0]),
)
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
    assert expect_score(oof, labels, subjects, test) == expected
    assert 0 < expected.mean <= WORST and expected.bagging <= 1e-9
    if expected.num_subjects < 3:
        assert expected.low is expected.high is expected.errors_off(0.1) is expected.holds(0.1) is None
    else:
        assert expected.low is not None and expected.high is not None
        assert 0 < expected.low <= expected.mean <= expected.high <= WORST
        renamed = expect_score(oof, labels, 5 + 3 * subjects, test)
        assert renamed == expected


# Comparison with a score


def test_errors_off_count_from_the_mean_to_either_end() -> None:
    expected = EXPECTED
    assert expected.errors_off(0.4) == 0
    assert expected.errors_off(0.2) == pytest.approx(-1.96)
    assert expected.errors_off(0.6) == pytest.approx(1.96)
    assert expected.errors_off(0.9) == pytest.approx(3.92)
    assert expected.errors_off(0.8, public=True) == pytest.approx(1.96)
    assert expected.holds(0.2) and expected.holds(0.6) and not expected.holds(0.61)
    assert expected.holds(0.8, public=True) and not expected.holds(0.05, public=True)
