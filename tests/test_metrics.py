"""Scores have known answers; their uncertainty is over subjects."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from distracted.metrics import (
    accuracy,
    auc,
    difference_and_error,
    log_loss,
    log_losses,
    macro_f1,
    prior_log_loss,
    prior_log_probs,
    scores,
    subject_bootstrap,
)


def random_log_probs(rng: np.random.Generator, num_images: int, num_classes: int) -> np.ndarray:
    return np.log(rng.dirichlet(np.ones(num_classes), num_images))


class TestLogLoss:
    @pytest.mark.parametrize("num_classes", [2, 10])
    def test_uniform_is_the_log_of_the_number_of_classes(self, num_classes: int) -> None:
        log_probs = np.full((4, num_classes), -math.log(num_classes))
        assert log_loss(log_probs, np.arange(4) % num_classes) == pytest.approx(math.log(num_classes))

    def test_each_row_is_scored_at_its_true_class(self) -> None:
        log_probs = np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
        assert log_losses(log_probs, np.array([1, 2])) == pytest.approx([-math.log(0.25), -math.log(0.7)])

    def test_probabilities_are_clipped_as_on_kaggle(self) -> None:
        """max(min(p, 1 - 1e-15), 1e-15): certainly wrong costs 34.54, certainly right a little above 0."""
        log_probs = np.array([[0.0, -np.inf], [-np.inf, 0.0], [0.0, -500.0]])
        losses = log_losses(log_probs, np.array([0, 0, 1]))
        assert losses == pytest.approx([1e-15, -math.log(1e-15), -math.log(1e-15)], rel=1e-3)
        assert (losses > 0).all()

    def test_the_loss_equals_that_of_scikit_learn(self) -> None:
        rng = np.random.default_rng(0)
        log_probs, labels = random_log_probs(rng, 50, 4), rng.integers(0, 4, 50)
        expected = sklearn_log_loss(labels, np.exp(log_probs), labels=range(4))
        assert log_loss(log_probs, labels) == pytest.approx(expected, rel=1e-9)

    def test_single_precision_is_scored_in_double(self) -> None:
        log_probs = np.full((3, 2), -1e-9, dtype=np.float32)
        assert log_losses(log_probs, np.zeros(3, int)).dtype == np.float64
        assert log_loss(log_probs, np.zeros(3, int)) == pytest.approx(1e-9, rel=1e-6)

    def test_accuracy(self) -> None:
        rng = np.random.default_rng(1)
        log_probs, labels = random_log_probs(rng, 60, 3), rng.integers(0, 3, 60)
        assert accuracy(log_probs, labels) == pytest.approx(accuracy_score(labels, log_probs.argmax(1)))


class TestScores:
    def test_macro_f1_and_auc_equal_those_of_scikit_learn(self) -> None:
        rng = np.random.default_rng(2)
        log_probs, labels = random_log_probs(rng, 60, 3), rng.integers(0, 3, 60)
        expected = f1_score(labels, log_probs.argmax(1), average="macro")
        assert macro_f1(log_probs, labels) == pytest.approx(expected)
        expected = roc_auc_score(labels, np.exp(log_probs), multi_class="ovr", average="macro")
        assert auc(log_probs, labels) == pytest.approx(expected)

    @given(seed=st.integers(0, 2**32 - 1), num_values=st.integers(1, 6))
    def test_equal_scores_share_their_rank_as_in_scikit_learn(self, seed: int, num_values: int) -> None:
        rng = np.random.default_rng(seed)
        labels = np.concatenate([np.arange(3), rng.integers(0, 3, 20)])
        log_probs = -rng.integers(0, num_values, (23, 3)).astype(float)
        areas = [roc_auc_score(labels == label, log_probs[:, label]) for label in range(3)]
        assert auc(log_probs, labels) == pytest.approx(np.mean(areas))

    def test_two_classes_have_the_usual_auc(self) -> None:
        rng = np.random.default_rng(3)
        log_probs, labels = random_log_probs(rng, 40, 2), rng.integers(0, 2, 40)
        assert auc(log_probs, labels) == pytest.approx(roc_auc_score(labels, log_probs[:, 1]))

    def test_a_perfect_ranking_has_an_area_of_one_and_a_constant_of_a_half(self) -> None:
        labels = np.array([0, 1, 2, 0, 1, 2])
        assert auc(np.log(np.eye(3)[labels] * 0.7 + 0.1), labels) == 1
        assert auc(np.full((6, 3), -np.log(3)), labels) == 0.5

    def test_classes_without_images_are_left_out(self) -> None:
        rng = np.random.default_rng(4)
        log_probs, labels = random_log_probs(rng, 30, 3), rng.integers(0, 2, 30)
        by_class = [roc_auc_score(labels == label, log_probs[:, label]) for label in (0, 1)]
        assert auc(log_probs, labels) == pytest.approx(np.mean(by_class))

    def test_with_a_single_class_there_is_no_auc(self) -> None:
        log_probs = random_log_probs(np.random.default_rng(5), 4, 3)
        assert auc(log_probs, np.ones(4, int)) is None
        assert list(scores(log_probs, np.ones(4, int), prefix="valid/")) == [
            "valid/log_loss",
            "valid/accuracy",
            "valid/macro_f1",
        ]


class TestPrior:
    def test_one_is_added_to_each_count(self) -> None:
        assert prior_log_probs(np.array([0, 0, 2]), 3) == pytest.approx(np.log([3 / 6, 1 / 6, 2 / 6]))

    def test_a_fold_is_scored_by_the_other_folds_labels(self) -> None:
        """Fold 0 holds class 0 alone, fold 1 class 1 alone: each prior expects the other's class."""
        labels, folds = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
        assert prior_log_loss(labels, folds, 2) == pytest.approx(-math.log(1 / 5))

    def test_always_trained_rows_count_in_the_prior_and_are_not_scored(self) -> None:
        labels, folds = np.array([0, 1, 0, 0]), np.array([0, 0, -1, -1])
        expected = -(math.log(3 / 4) + math.log(1 / 4)) / 2
        assert prior_log_loss(labels, folds, 2) == pytest.approx(expected)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_a_folds_own_labels_do_not_enter_its_prior(self, seed: int) -> None:
        """Against a prior written out fold by fold."""
        rng = np.random.default_rng(seed)
        labels, folds = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
        total = 0.0
        for label, fold in zip(labels, folds, strict=True):
            others = [other for other, k in zip(labels, folds, strict=True) if k != fold]
            total -= math.log((others.count(label) + 1) / (len(others) + 3))
        assert prior_log_loss(labels, folds, 3) == pytest.approx(total / 40)


def brute_error(difference: np.ndarray, subjects: np.ndarray) -> float:
    """The jackknife written out: each subject is left out in turn."""
    ids = sorted(set(subjects.tolist()))
    without = [difference[subjects != one].mean() for one in ids]
    changes = sum((mean - difference.mean()) ** 2 for mean in without)
    return math.sqrt((len(ids) - 1) / len(ids) * changes)


class TestPairedError:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(2, 6))
    def test_the_error_is_the_jackknifes(self, seed: int, num_subjects: int) -> None:
        rng = np.random.default_rng(seed)
        subjects = np.concatenate([np.arange(num_subjects), rng.integers(0, num_subjects, 30)])
        losses, reference = rng.exponential(size=(2, len(subjects)))
        mean, error = difference_and_error(losses, reference, subjects)
        assert mean == pytest.approx((losses - reference).mean())
        assert error == pytest.approx(brute_error(losses - reference, subjects))

    def test_with_one_row_per_subject_it_is_the_standard_error_of_a_mean(self) -> None:
        rng = np.random.default_rng(2)
        losses, reference = rng.exponential(size=(2, 25))
        _, error = difference_and_error(losses, reference, np.arange(25))
        assert error == pytest.approx((losses - reference).std(ddof=1) / 5)

    def test_repeating_a_subjects_rows_adds_no_certainty(self) -> None:
        rng = np.random.default_rng(3)
        losses, reference = rng.exponential(size=(2, 12))
        subjects = np.arange(12) % 4
        once = difference_and_error(losses, reference, subjects)
        often = difference_and_error(np.tile(losses, 50), np.tile(reference, 50), np.tile(subjects, 50))
        assert often == pytest.approx(once)

    def test_an_equal_gain_in_every_row_has_no_error(self) -> None:
        reference = np.random.default_rng(4).exponential(size=20)
        mean, error = difference_and_error(reference - 0.1, reference, np.arange(20) % 5)
        assert mean == pytest.approx(-0.1)
        assert error == pytest.approx(0, abs=1e-12)

    def test_swapping_the_pair_changes_the_sign(self) -> None:
        losses, reference = np.random.default_rng(5).exponential(size=(2, 20))
        there = difference_and_error(losses, reference, np.arange(20) % 5)
        back = difference_and_error(reference, losses, np.arange(20) % 5)
        assert back == pytest.approx((-there[0], there[1]))

    def test_the_error_holds_where_one_subject_has_most_rows(self) -> None:
        """A linearised error would be 40% of the true one: the mean is nearly the large subject's own."""
        subjects, rng = np.repeat(np.arange(9), [240, *[20] * 8]), np.random.default_rng(0)
        pairs = []
        for _ in range(1000):
            losses = rng.normal(size=9)[subjects] + rng.normal(size=len(subjects))
            pairs.append(difference_and_error(losses, np.zeros(len(losses)), subjects))
        means, errors = np.array(pairs).T
        assert 0.65 < np.median(errors) / means.std() < 1.1
        assert (abs(means) > 2 * errors).mean() < 0.15

    def test_with_a_single_subject_the_error_is_infinite(self) -> None:
        assert difference_and_error(np.ones(4), np.zeros(4), np.full(4, 3)) == (1.0, math.inf)

    def test_subject_ids_may_have_gaps(self) -> None:
        losses = np.array([1.0, 2.0, 4.0, 8.0])
        gaps = difference_and_error(losses, np.zeros(4), np.array([0, 5, 9, 9]))
        assert gaps == difference_and_error(losses, np.zeros(4), np.array([0, 1, 2, 2]))


class TestBootstrap:
    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(3, 8))
    def test_the_interval_holds_the_mean(self, seed: int, num_subjects: int) -> None:
        rng = np.random.default_rng(seed)
        subjects = np.repeat(np.arange(num_subjects), rng.integers(5, 15, num_subjects))
        losses = rng.exponential(size=len(subjects)) + rng.exponential(size=num_subjects)[subjects]
        interval = subject_bootstrap(losses, subjects, num_draws=500)
        assert interval.mean == pytest.approx(losses.mean())
        assert interval.low <= interval.mean <= interval.high
        assert interval.low >= losses.min()
        assert interval.high <= losses.max()

    def test_fewer_subjects_make_it_wider(self) -> None:
        """The same number of rows, shared by fewer and fewer subjects whose means differ."""
        rng = np.random.default_rng(6)
        widths = []
        for num_subjects in (100, 25, 6):
            subjects = np.arange(600) % num_subjects
            losses = 1 + rng.normal(size=num_subjects)[subjects] ** 2
            interval = subject_bootstrap(losses, subjects)
            widths.append(interval.high - interval.low)
        assert widths[0] < widths[1] < widths[2]

    def test_its_width_agrees_with_theory(self) -> None:
        """With one row a subject it is the ordinary bootstrap of a mean: 3.92 standard errors wide."""
        losses = np.random.default_rng(7).exponential(size=400)
        interval = subject_bootstrap(losses, np.arange(400), num_draws=4000)
        assert interval.high - interval.low == pytest.approx(3.92 * losses.std() / 20, rel=0.05)

    def test_with_equal_subjects_it_has_no_width(self) -> None:
        losses = np.tile([0.5, 1.5], 10)
        interval = subject_bootstrap(losses, np.repeat(np.arange(10), 2))
        assert (interval.low, interval.mean, interval.high) == (1.0, 1.0, 1.0)

    def test_the_seed_determines_the_interval(self) -> None:
        rng = np.random.default_rng(8)
        losses, subjects = rng.exponential(size=60), np.arange(60) % 7
        assert subject_bootstrap(losses, subjects) == subject_bootstrap(losses, subjects)
        assert subject_bootstrap(losses, subjects) != subject_bootstrap(losses, subjects, seed=1)

    def test_subject_ids_may_have_gaps(self) -> None:
        losses = np.array([1.0, 2.0, 4.0, 8.0])
        gaps = subject_bootstrap(losses, np.array([0, 5, 9, 9]))
        assert gaps == subject_bootstrap(losses, np.array([0, 1, 2, 2]))
