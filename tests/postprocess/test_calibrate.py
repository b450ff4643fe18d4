"""Calibration recovers known temperatures, priors and floors, and leaves calibrated predictions alone."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from distracted.metrics import log_loss
from distracted.postprocess.calibrate import (
    Calibrate,
    Calibration,
    clip_probs,
    fit_clip,
    fit_temperature,
    floored,
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
    """Log-probabilities, and labels drawn from them."""
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
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    log_probs, labels = draw()
    fitted = fit_temperature(soften(log_probs, 1 / temperature), labels)
    assert fitted == pytest.approx(temperature, rel=0.03)


def test_a_run_without_mistakes_gets_the_lowest_finite_temperature() -> None:
    labels = np.arange(40) % 4
    log_probs = np.log(np.where(np.eye(4)[labels] > 0, 0.7, 0.1))
    fitted = Calibrate(("temperature",)).fit(examples_of(log_probs, labels))
    assert np.exp(-3) < fitted.temperature < 0.06


def test_the_floor_is_the_fraction_of_certain_rows_that_are_wrong() -> None:
    """All rows are certain of class 0; 30 of 3000, and the row that the fit adds, have another label."""
    labels = np.zeros(3000, dtype=np.int64)
    labels[::100] = 1 + np.arange(30) % 3
    log_probs = np.tile(np.log([1 - 3e-6, 1e-6, 1e-6, 1e-6]), (3000, 1))
    clip = fit_clip(log_probs, labels)
    assert np.exp(clip_probs(log_probs, clip)[0, 1]) == pytest.approx(31 / (3 * 3001), rel=0.002)


def test_without_wrong_rows_the_floor_assumes_that_the_next_one_is_wrong() -> None:
    labels = np.zeros(300, dtype=np.int64)
    sure = np.tile(np.log([1 - 3e-9, 1e-9, 1e-9, 1e-9]), (300, 1))
    assert np.exp(clip_probs(sure, fit_clip(sure, labels))[0, 1]) == pytest.approx(1 / (3 * 301), rel=0.02)


def test_clipped_rows_have_no_lower_probabilities_and_sum_to_one() -> None:
    log_probs, _ = draw(50)
    clipped = np.exp(clip_probs(log_probs, 0.03))
    np.testing.assert_allclose(clipped.sum(axis=1), 1, rtol=1e-12)
    assert clipped.min() > 0.03 / 1.12  # what was raised is normalised again
    np.testing.assert_array_equal(clip_probs(log_probs, 0.0), log_softmax(log_probs, axis=1))


def test_the_bias_moves_the_mean_to_the_prior_and_keeps_the_order_within_a_class() -> None:
    log_probs, _ = draw(500, bias=(1, 0, 0, -1))
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    moved = soften(log_probs + prior_bias(log_probs, prior), 1.0)
    np.testing.assert_allclose(np.exp(moved).mean(axis=0), prior, atol=1e-5)
    odds = (moved[:, 0] - moved[:, 1]) - (log_probs[:, 0] - log_probs[:, 1])
    np.testing.assert_allclose(odds, odds[0], atol=1e-9)


@pytest.mark.parametrize("scale", [0.1, 10.0, 50.0, 500.0])
def test_the_prior_is_met_by_predictions_of_any_certainty(scale: float) -> None:
    """Also where nearly all are certain, so that the function to minimise is nearly flat."""
    rng = np.random.default_rng(0)
    log_probs = floored(log_softmax(rng.normal(0, scale, (200, 6)), axis=1))
    prior = np.array([0.02, 0.08, 0.1, 0.2, 0.25, 0.35])
    met = np.exp(soften(log_probs + prior_bias(log_probs, prior), 1.0)).mean(axis=0)
    np.testing.assert_allclose(met, prior, atol=2e-6)


def test_the_biases_of_subjects_are_those_that_minimise_each_function_alone() -> None:
    """By scipy's method for any function."""
    log_probs, _ = draw(90, bias=(1, 0, 0, -1))
    prior, subjects = np.array([0.1, 0.2, 0.3, 0.4]), np.repeat([0, 1, 2], [40, 30, 20])
    biases = subject_biases(log_probs, prior, subjects)
    others = np.array([30, 20])
    share = 1 - 1 / np.sqrt(1 + (others**2).sum() / others.sum() ** 2)
    weights = np.where(subjects == 0, share / 40, (1 - share) / 50)

    def value(bias: Floats) -> float:
        return float(weights @ logsumexp(log_probs + bias, axis=1) - prior @ bias)

    alone = minimize(value, np.zeros(4), tol=1e-12).x
    np.testing.assert_allclose(biases[0], alone - alone.mean(), atol=1e-4)


def test_a_weight_counts_like_a_repeated_row() -> None:
    log_probs, _ = draw(60, bias=(1, 0, 0, -1))
    prior, times = np.array([0.1, 0.2, 0.3, 0.4]), np.arange(60) % 3
    weighted = prior_bias(log_probs, prior, weights=times.astype(float), start=TILT)
    np.testing.assert_allclose(weighted, prior_bias(log_probs.repeat(times, axis=0), prior), atol=1e-5)


def bias_gains(num_images: list[int], *, num_folds: int, seed: int) -> dict[str, float]:
    """Gain of a bias fitted in each fold, plain or by subject, and in all folds at once (many subjects).

    The network has one error common to all subjects and an independent one of each; each subject shows all
    classes.

    Args:
        num_images: Number of images of each subject in a fold.
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
def test_the_bias_gains_the_same_with_few_subjects_as_with_many(
    num_subjects: int,
) -> None:
    """The network has one error common to all subjects and an independent one of each.

    A plain bias that meets the prior in a fold also corrects much of the few subjects' own errors.
    """
    gains = bias_gains([24] * num_subjects, num_folds=300 // num_subjects, seed=num_subjects)
    assert gains["plain"] > gains["among many"] + 0.25 / num_subjects
    assert gains["by subject"] == pytest.approx(gains["among many"], abs=0.015)


def test_the_bias_gains_the_same_where_subjects_have_unequal_shares() -> None:
    """Correcting a subject's own error counts no more than with many subjects, whatever their shares."""
    gains = bias_gains([36, 12, 24, 48, 16], num_folds=120, seed=0)
    assert gains["plain"] > gains["among many"] + 0.06
    assert gains["by subject"] == pytest.approx(gains["among many"], abs=0.015)


def test_many_small_subjects_share_a_bias_and_a_large_one_has_its_own() -> None:
    log_probs, _ = draw(1200, bias=(2, 0, 0, -2))
    prior, small = np.full(4, 0.25), np.arange(1200) // 20
    np.testing.assert_array_equal(
        subject_biases(log_probs, prior, small), np.tile(prior_bias(log_probs, prior), (1200, 1))
    )
    large = np.where(np.arange(1200) < 600, 0, small)
    biases = subject_biases(log_probs, prior, large)
    assert (biases[0] != biases[-1]).any()


def test_held_out_rows_get_a_bias_by_subject_and_the_test_set_one_bias() -> None:
    log_probs, _ = draw(200, bias=(2, 0, 0, -2))
    subjects = np.arange(200) // 50
    step = Calibrate(("prior",))
    fitted = Calibration(to_prior=True, prior=(0.25,) * 4)
    expected = soften(log_probs + subject_biases(log_probs, np.full(4, 0.25), subjects), 1.0)
    np.testing.assert_allclose(step.predict(fitted, held_out(log_probs, subjects)), expected)
    moved = step.predict(fitted, of_test_set(log_probs))
    np.testing.assert_allclose(np.exp(moved).mean(axis=0), 0.25, atol=1e-5)


def test_a_fold_with_a_single_subject_gets_no_bias() -> None:
    log_probs, _ = draw(30, bias=(2, 0, 0, -2))
    assert not subject_biases(log_probs, np.full(4, 0.25), np.zeros(30, dtype=np.int64)).any()


def test_folds_of_one_subject_each_tell_no_bias() -> None:
    """Rounding alone would decide it, and the test set would be moved with nothing to show for it."""
    log_probs, labels = draw(400, bias=(0, 0, 0, 0))
    off = log_softmax(log_probs + TILT, axis=1).astype(np.float32).astype(np.float64)
    folds = np.arange(400) // 100
    fitted = Calibrate().fit(Examples(off[None], labels, folds, folds))
    assert not fitted.to_prior and (fitted.temperature, fitted.clip) == fitted.unmoved


def test_a_fold_of_one_subject_gets_the_temperature_of_rows_that_no_bias_moves() -> None:
    log_probs, labels = draw(1200, bias=(0, 0, 0, 0))
    off = log_softmax(log_probs + TILT, axis=1)
    folds, subjects = np.arange(1200) // 300, np.arange(1200) // 60
    subjects[folds == 3] = 99
    fitted = Calibrate().fit(Examples(off[None], labels, folds, subjects))
    plain = Calibrate(("temperature", "clip"))
    plainly = plain.fit(Examples(off[None], labels, folds, subjects))
    assert fitted.to_prior and fitted.unmoved == (plainly.temperature, plainly.clip)
    assert abs(fitted.temperature - 1) < 0.15 < fitted.unmoved[0] - 1  # the bias looks like over-confidence
    one = held_out(off[folds == 3], subjects[folds == 3])
    np.testing.assert_array_equal(Calibrate().predict(fitted, one), plain.predict(plainly, one))
    several = held_out(off[folds == 0], subjects[folds == 0])
    assert (Calibrate().predict(fitted, several) != plain.predict(plainly, several)).any()


def test_only_predictions_with_a_biased_mean_are_moved_to_the_prior() -> None:
    log_probs, labels = draw(bias=(0, 0, 0, 0))
    step = Calibrate(("prior",))
    assert not step.fit(examples_of(log_probs, labels)).to_prior
    off = log_softmax(log_probs + TILT, axis=1)
    assert step.fit(examples_of(off, labels)).to_prior


@pytest.mark.parametrize("num_subjects", [20, 200])
def test_a_class_without_a_row_in_the_fit_keeps_its_mean_probability(num_subjects: int) -> None:
    """Its rows may be trained on and never scored, and the test set may show it all the same."""
    log_probs, labels = draw(4000, bias=(2, 0, 0, 0))
    off = log_softmax(log_probs + TILT, axis=1)
    seen = labels != 3
    rows = np.arange(int(seen.sum()))
    examples = Examples(off[seen][None], labels[seen], rows % 4, rows % num_subjects)
    step = Calibrate(("prior",))
    fitted = step.fit(examples)
    assert fitted.to_prior and fitted.prior[3] == 0 and min(fitted.prior[:3]) > 0
    mended = step.predict(fitted, of_test_set(off))
    before, after, true = (np.exp(values).mean(axis=0) for values in (off, mended, log_probs))
    assert after[3] == pytest.approx(before[3], rel=1e-3)
    np.testing.assert_allclose(after[:3] / after[:3].sum(), true[:3] / true[:3].sum(), atol=0.02)


def test_all_parts_together_undo_a_bias_and_overconfidence() -> None:
    log_probs, labels = draw()
    broken = log_softmax(3 * (log_probs + TILT), axis=1)
    examples = examples_of(broken, labels)
    step = Calibrate()
    fitted = step.fit(examples)
    mended = step.predict(fitted, held_out(broken, examples.subjects))
    np.testing.assert_allclose(mended, step.predict(fitted, of_test_set(broken)))  # so many subjects
    assert log_loss(mended, labels) == pytest.approx(log_loss(log_probs, labels), abs=0.005)
    assert log_loss(broken, labels) > log_loss(log_probs, labels) + 0.3


def test_the_default_calibration_changes_nothing() -> None:
    log_probs, _ = draw(30)
    kept = Calibrate().predict(Calibration(prior=(0.25,) * 4), held_out(log_probs))
    np.testing.assert_allclose(kept, log_probs, atol=1e-12)


def test_rows_beyond_the_competitions_clipping_can_still_be_softened() -> None:
    labels = np.arange(200) % 4
    right = np.where(np.arange(200) % 5 > 0, labels, (labels + 1) % 4)
    sure = np.where(np.eye(4)[right] > 0, 0.0, -800.0)
    step = Calibrate(("temperature",))
    fitted = step.fit(examples_of(sure, labels))
    assert log_loss(step.predict(fitted, held_out(sure)), labels) < 1.1 < log_loss(sure, labels)


def test_the_bias_needs_class_shares_of_another_fold() -> None:
    log_probs, labels = draw(400, bias=(2, 0, 0, -2))
    step = Calibrate(("prior",))
    assert not step.fit(examples_of(log_probs, labels, num_folds=1)).to_prior
