"""Calibration: known temperatures, priors and floors are found again; what is calibrated stays so."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import log_softmax

from distracted.metrics import log_loss
from distracted.postprocess.calibrate import (
    Calibrate,
    Calibration,
    clip_probs,
    fit_clip,
    fit_temperature,
    prior_bias,
    soften,
    subject_biases,
)
from distracted.postprocess.step import Examples, Rows, Subset

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


def held_out(log_probs: Floats, subjects: Floats | None = None) -> Rows:
    return Rows(Subset(0), log_probs[None], subjects)


def of_test_set(log_probs: Floats) -> Rows:
    return Rows(Subset(0, test=True), log_probs[None])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_labels_that_follow_the_predictions_is_found(temperature: float) -> None:
    log_probs, labels = draw()
    found = fit_temperature(soften(log_probs, 1 / temperature), labels)
    assert found == pytest.approx(temperature, rel=0.03)


def test_a_run_without_a_mistake_gets_the_lowest_temperature_and_no_infinity() -> None:
    labels = np.arange(40) % 4
    log_probs = np.log(np.where(np.eye(4)[labels] > 0, 0.7, 0.1))
    fitted = Calibrate(("temperature",)).fit(examples_of(log_probs, labels))
    assert np.exp(-3) < fitted.temperature < 0.06


def test_the_floor_is_the_share_of_rows_that_are_sure_and_wrong() -> None:
    """Rows are sure of class 0; in 30 of 3000, and in the one that is added, it is another of three."""
    labels = np.zeros(3000, dtype=np.int64)
    labels[::100] = 1 + np.arange(30) % 3
    log_probs = np.tile(np.log([1 - 3e-6, 1e-6, 1e-6, 1e-6]), (3000, 1))
    clip = fit_clip(log_probs, labels)
    assert np.exp(clip_probs(log_probs, clip)[0, 1]) == pytest.approx(31 / (3 * 3001), rel=0.002)


def test_where_no_row_is_wrong_the_floor_is_that_of_one_in_as_many_rows_and_one() -> None:
    labels = np.zeros(300, dtype=np.int64)
    sure = np.tile(np.log([1 - 3e-9, 1e-9, 1e-9, 1e-9]), (300, 1))
    assert np.exp(clip_probs(sure, fit_clip(sure, labels))[0, 1]) == pytest.approx(1 / (3 * 301), rel=0.02)


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


def test_weighted_rows_count_as_if_they_came_several_times() -> None:
    log_probs, _ = draw(60, bias=(1, 0, 0, -1))
    prior, times = np.array([0.1, 0.2, 0.3, 0.4]), np.arange(60) % 3
    found = prior_bias(log_probs, prior, weights=times.astype(float), start=TILT)
    np.testing.assert_allclose(found, prior_bias(log_probs.repeat(times, axis=0), prior), atol=1e-5)


def bias_gains(num_images: list[int], *, num_folds: int, seed: int) -> dict[str, float]:
    """What a bias gains by fold, plain or by subject, and in all folds at once, which hold many subjects.

    A network is off in the same way for all subjects and in another way for each; each shows all classes.

    Args:
        num_images: Of each subject of a fold.
    """
    rng, each = np.random.default_rng(seed), np.tile(num_images, num_folds)
    subjects = np.arange(len(each)).repeat(each)
    labels = np.arange(len(subjects)) % 4
    off = np.array([0.5, 0, 0, -0.5]) + 1.2 * rng.normal(size=(len(each), 4))
    plain = log_softmax(2 * np.eye(4)[labels] + rng.normal(size=(len(labels), 4)) + off[subjects], axis=1)
    prior = np.full(4, 0.25)

    def gain(bias_of: Callable[[Floats, Floats], Floats], num_parts: int) -> float:
        moved = np.empty_like(plain)
        for rows in np.array_split(np.arange(len(labels)), num_parts):
            moved[rows] = soften(plain[rows] + bias_of(plain[rows], subjects[rows]), 1.0)
        return log_loss(plain, labels) - log_loss(moved, labels)

    return {
        "plain": gain(lambda rows, _: prior_bias(rows, prior), num_folds),
        "by subject": gain(lambda rows, of: subject_biases(rows, prior, of), num_folds),
        "among many": gain(lambda rows, _: prior_bias(rows, prior), 1),
    }


@pytest.mark.parametrize(
    "num_subjects", [5, pytest.param(3, marks=pytest.mark.slow), pytest.param(12, marks=pytest.mark.slow)]
)
def test_the_bias_gains_in_a_fold_of_few_subjects_what_it_gains_in_a_test_set_of_many(
    num_subjects: int,
) -> None:
    """A network is off in the same way for all and in another way for each; every subject shows all classes.

    A bias that meets the prior in a fold makes good much of what is off for each of its few subjects.
    """
    gains = bias_gains([24] * num_subjects, num_folds=300 // num_subjects, seed=num_subjects)
    assert gains["plain"] > gains["among many"] + 0.25 / num_subjects
    assert gains["by subject"] == pytest.approx(gains["among many"], abs=0.015)


def test_a_subject_with_most_of_the_rows_counts_for_less_still() -> None:
    """What is left of a subject's own error is what is left among many, whatever shares the others have."""
    gains = bias_gains([36, 12, 24, 48, 16], num_folds=120, seed=0)
    assert gains["plain"] > gains["among many"] + 0.06
    assert gains["by subject"] == pytest.approx(gains["among many"], abs=0.015)


def test_many_small_subjects_share_a_bias_and_a_large_one_among_them_has_its_own() -> None:
    log_probs, _ = draw(1200, bias=(2, 0, 0, -2))
    prior, small = np.full(4, 0.25), np.arange(1200) // 20
    np.testing.assert_array_equal(
        subject_biases(log_probs, prior, small), np.tile(prior_bias(log_probs, prior), (1200, 1))
    )
    large = np.where(np.arange(1200) < 600, 0, small)
    found = subject_biases(log_probs, prior, large)
    assert (found[0] != found[-1]).any()


def test_held_out_rows_are_moved_by_what_their_subjects_leave() -> None:
    log_probs, _ = draw(200, bias=(2, 0, 0, -2))
    subjects = np.arange(200) // 50
    step = Calibrate(("prior",))
    fitted = Calibration(to_prior=True, prior=(0.25,) * 4)
    expected = soften(log_probs + subject_biases(log_probs, np.full(4, 0.25), subjects), 1.0)
    np.testing.assert_allclose(step.predict(fitted, held_out(log_probs, subjects)), expected)
    moved = step.predict(fitted, of_test_set(log_probs))
    np.testing.assert_allclose(np.exp(moved).mean(axis=0), 0.25, atol=1e-5)


def test_the_only_subject_of_a_fold_says_nothing_about_what_is_off_for_others() -> None:
    log_probs, _ = draw(30, bias=(2, 0, 0, -2))
    assert not subject_biases(log_probs, np.full(4, 0.25), np.zeros(30, dtype=np.int64)).any()


def test_predictions_whose_mean_is_off_are_moved_to_the_prior_and_others_are_not() -> None:
    log_probs, labels = draw(bias=(0, 0, 0, 0))
    step = Calibrate(("prior",))
    assert not step.fit(examples_of(log_probs, labels)).to_prior
    off = log_softmax(log_probs + TILT, axis=1)
    assert step.fit(examples_of(off, labels)).to_prior


def test_all_parts_together_mend_what_all_of_them_broke() -> None:
    log_probs, labels = draw()
    broken = log_softmax(3 * (log_probs + TILT), axis=1)
    examples = examples_of(broken, labels)
    step = Calibrate()
    fitted = step.fit(examples)
    mended = step.predict(fitted, held_out(broken, examples.subjects))
    np.testing.assert_allclose(mended, step.predict(fitted, of_test_set(broken)))  # so many subjects
    assert log_loss(mended, labels) == pytest.approx(log_loss(log_probs, labels), abs=0.005)
    assert log_loss(broken, labels) > log_loss(log_probs, labels) + 0.3


def test_nothing_fitted_changes_nothing() -> None:
    log_probs, _ = draw(30)
    kept = Calibrate().predict(Calibration(prior=(0.25,) * 4), held_out(log_probs))
    np.testing.assert_allclose(kept, log_probs, atol=1e-12)


def test_rows_that_are_sure_beyond_what_the_competition_counts_can_still_be_softened() -> None:
    labels = np.arange(200) % 4
    right = np.where(np.arange(200) % 5 > 0, labels, (labels + 1) % 4)
    sure = np.where(np.eye(4)[right] > 0, 0.0, -800.0)
    step = Calibrate(("temperature",))
    fitted = step.fit(examples_of(sure, labels))
    assert log_loss(step.predict(fitted, held_out(sure)), labels) < 1.1 < log_loss(sure, labels)


def test_the_bias_needs_the_shares_of_another_fold() -> None:
    log_probs, labels = draw(400, bias=(2, 0, 0, -2))
    step = Calibrate(("prior",))
    assert not step.fit(examples_of(log_probs, labels, num_folds=1)).to_prior
