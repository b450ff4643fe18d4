"""Calibration: known temperatures, priors and floors are found again; what is calibrated stays so."""

import numpy as np
import pytest
from scipy.special import log_softmax

from distracted.metrics import log_loss
from distracted.postprocess.calibrate import (
    Calibrate,
    Calibrated,
    clip_probs,
    fit_clip,
    fit_temperature,
    prior_bias,
    soften,
)
from distracted.postprocess.step import Examples, Part

Floats = np.ndarray
TILT = np.array([1.0, 0.0, 0.0, -1.0])


def draw(
    num_images: int = 20_000, *, bias: tuple[float, ...] = (0, 0, 0, 0), seed: int = 0
) -> tuple[Floats, Floats]:
    """Log-probabilities, and labels that follow them."""
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(2 * rng.normal(size=(num_images, 4)) + np.array(bias), axis=1)
    labels = (np.exp(log_probs).cumsum(axis=1) < rng.random((num_images, 1))).sum(axis=1)
    return log_probs, labels


def examples_of(log_probs: Floats, labels: Floats, *, num_folds: int = 4) -> Examples:
    rows = np.arange(len(labels))
    return Examples(log_probs[None], labels, rows % num_folds, rows // 20)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_labels_that_follow_the_predictions_is_found(temperature: float) -> None:
    log_probs, labels = draw()
    found = fit_temperature(soften(log_probs, 1 / temperature), labels)
    assert found == pytest.approx(temperature, rel=0.03)


def test_a_run_without_a_mistake_gets_the_lowest_temperature_and_no_infinity() -> None:
    labels = np.arange(40) % 4
    log_probs = np.log(np.where(np.eye(4)[labels] > 0, 0.7, 0.1))
    fitted = Calibrate(("temperature",)).learn(examples_of(log_probs, labels))
    assert np.exp(-3) < fitted.temperature < 0.06


def test_the_floor_is_the_share_of_rows_that_are_sure_and_wrong() -> None:
    """Rows are sure of class 0; in one of a hundred it is another: at best each other class has 1/300."""
    labels = np.zeros(3000, dtype=np.int64)
    labels[::100] = 1 + np.arange(30) % 3
    log_probs = np.tile(np.log([1 - 3e-6, 1e-6, 1e-6, 1e-6]), (3000, 1))
    clip = fit_clip(log_probs, labels)
    assert np.exp(clip_probs(log_probs, clip)[0, 1]) == pytest.approx(1 / 300, rel=0.02)


def test_a_floor_leaves_nothing_below_it_and_a_sum_of_one() -> None:
    log_probs, _ = draw(50)
    clipped = np.exp(clip_probs(log_probs, 0.03))
    np.testing.assert_allclose(clipped.sum(axis=1), 1, rtol=1e-12)
    assert clipped.min() > 0.03 / 1.12  # what was raised is normalised again
    np.testing.assert_array_equal(clip_probs(log_probs, 0.0), log_softmax(log_probs, axis=1))


def test_the_bias_brings_the_mean_to_the_prior_and_keeps_the_order_within_a_class() -> None:
    log_probs, _ = draw(500, bias=(1, 0, 0, -1))
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    moved = soften(log_probs + prior_bias(log_probs, prior), 1.0)
    np.testing.assert_allclose(np.exp(moved).mean(axis=0), prior, atol=1e-5)
    odds = (moved[:, 0] - moved[:, 1]) - (log_probs[:, 0] - log_probs[:, 1])
    np.testing.assert_allclose(odds, odds[0], atol=1e-9)


def test_predictions_whose_mean_is_off_are_moved_to_the_prior_and_others_are_not() -> None:
    log_probs, labels = draw(bias=(0, 0, 0, 0))
    step = Calibrate(("prior",))
    assert step.learn(examples_of(log_probs, labels)).strength == 0
    off = log_softmax(log_probs + TILT, axis=1)
    assert step.learn(examples_of(off, labels)).strength == 1


def test_all_parts_together_mend_what_all_of_them_broke() -> None:
    log_probs, labels = draw()
    broken = log_softmax(3 * (log_probs + TILT), axis=1)
    step = Calibrate()
    fitted = step.learn(examples_of(broken, labels))
    mended = step.apply(fitted, broken[None], Part(0))
    assert log_loss(mended, labels) == pytest.approx(log_loss(log_probs, labels), abs=0.005)
    assert log_loss(broken, labels) > log_loss(log_probs, labels) + 0.3


def test_nothing_fitted_changes_nothing() -> None:
    log_probs, _ = draw(30)
    kept = Calibrate().apply(Calibrated(prior=(0.25,) * 4), log_probs[None], Part(0))
    np.testing.assert_allclose(kept, log_probs, atol=1e-12)


def test_rows_that_are_sure_beyond_what_the_competition_counts_can_still_be_softened() -> None:
    labels = np.arange(200) % 4
    right = np.where(np.arange(200) % 5 > 0, labels, (labels + 1) % 4)
    sure = np.where(np.eye(4)[right] > 0, 0.0, -800.0)
    step = Calibrate(("temperature",))
    fitted = step.learn(examples_of(sure, labels))
    assert log_loss(step.apply(fitted, sure[None], Part(0)), labels) < 1.1 < log_loss(sure, labels)


def test_the_bias_needs_the_shares_of_another_fold() -> None:
    log_probs, labels = draw(400, bias=(2, 0, 0, -2))
    step = Calibrate(("prior",))
    assert step.learn(examples_of(log_probs, labels, num_folds=1)).strength == 0
