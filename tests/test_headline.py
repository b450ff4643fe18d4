"""Scores that runs are judged by: as scikit-learn computes them, with errors that hold over subjects."""

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from sklearn import metrics as sk

from distracted import metrics
from distracted.headline import LOG_LOSS, METRICS
from distracted.schema import MetricName

OTHERS = [name for name in METRICS if name != "log_loss"]


def draw(
    seed: int, *, num_subjects: int = 12, num_rows: int = 300, num_classes: int = 3, skill: float = 1.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities, labels and subjects; subjects differ in how hard they are."""
    rng = np.random.default_rng(seed)
    labels, subjects = rng.integers(num_classes, size=num_rows), rng.integers(num_subjects, size=num_rows)
    scores = rng.normal(size=(num_rows, num_classes)).round(1)  # ties
    scores[np.arange(num_rows), labels] += skill * rng.uniform(0, 2, num_subjects)[subjects]
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)), labels, subjects


def reference(name: str, log_probs: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    predicted, probs = log_probs.argmax(axis=1), np.exp(log_probs)
    if name == "auc":
        given = {"multi_class": "ovr"} if probs.shape[1] > 2 else {}
        score = probs if probs.shape[1] > 2 else probs[:, 1]
        return float(sk.roc_auc_score(labels, score, sample_weight=weights, **given))
    functions: dict[str, Callable[[], float]] = {
        "log_loss": lambda: sk.log_loss(labels, probs, sample_weight=weights),
        "accuracy": lambda: sk.accuracy_score(labels, predicted, sample_weight=weights),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(labels, predicted, sample_weight=weights),
        "macro_f1": lambda: sk.f1_score(labels, predicted, average="macro", sample_weight=weights),
        "quadratic_kappa": lambda: sk.cohen_kappa_score(
            labels, predicted, weights="quadratic", sample_weight=weights
        ),
    }
    return float(functions[name]())


def test_each_name_of_the_config_has_a_metric() -> None:
    assert set(get_args(MetricName)) == set(METRICS)
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_scores_are_scikit_learns(name: str, num_classes: int) -> None:
    log_probs, labels, _ = draw(num_classes, num_classes=num_classes)
    expected = reference(name, log_probs, labels, np.ones(len(labels)))
    assert METRICS[name].value(log_probs, labels) == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.weigh is not None])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_weighted_scores_are_scikit_learns(name: str, num_classes: int) -> None:
    log_probs, labels, _ = draw(1, num_classes=num_classes)
    weights = np.random.default_rng(0).integers(0, 4, len(labels)).astype(float)
    weighted = METRICS[name].judge(log_probs, labels).weighted
    assert weighted is not None
    assert weighted(weights) == pytest.approx(reference(name, log_probs, labels, weights))


def test_scores_are_those_that_are_always_shown() -> None:
    log_probs, labels, _ = draw(2)
    for name, value in metrics.scores(log_probs, labels).items():
        assert METRICS[name].value(log_probs, labels) == pytest.approx(value)


def test_the_log_loss_is_judged_as_before() -> None:
    """Bit by bit: stored blends have chosen by these numbers."""
    (log_probs, labels, subjects), (other, _, _) = draw(3), draw(4)
    losses = metrics.log_losses(log_probs, labels), metrics.log_losses(other, labels)
    one, two = LOG_LOSS.judge(log_probs, labels), LOG_LOSS.judge(other, labels)
    assert one.value == one.loss == metrics.log_loss(log_probs, labels)
    assert one.above(two, subjects) == metrics.difference_and_error(*losses, subjects)
    assert one.interval(subjects) == metrics.subject_bootstrap(losses[0], subjects)


@pytest.mark.parametrize("name", OTHERS)
def test_higher_is_better_is_turned_round(name: str) -> None:
    (good, labels, subjects), (bad, _, _) = draw(5, skill=3.0), draw(5, skill=0.1)
    better, worse = (METRICS[name].judge(log_probs, labels) for log_probs in (good, bad))
    assert better.value > worse.value and better.loss < worse.loss
    difference, error = worse.above(better, subjects)
    assert difference == pytest.approx(better.value - worse.value)
    assert 0 < error < difference
    interval = better.interval(subjects)
    assert interval.low < better.value == interval.mean < interval.high <= 1
    assert better.above(better, subjects)[0] == 0


@pytest.mark.parametrize("name", OTHERS)
def test_the_error_is_that_of_new_subjects(name: str) -> None:
    """The jackknife's standard error is near the spread over many draws of people."""
    differences, errors = [], []
    for seed in range(60):
        log_probs, labels, subjects = draw(seed, num_subjects=25, num_rows=400)
        noise = np.random.default_rng(seed + 1000).normal(size=log_probs.shape)
        judged = [METRICS[name].judge(one, labels) for one in (log_probs + noise, log_probs)]
        difference, error = judged[0].above(judged[1], subjects)
        differences.append(difference)
        errors.append(error)
    assert 0.7 < np.mean(errors) / np.std(differences, ddof=1) < 1.4


@pytest.mark.parametrize("name", OTHERS)
def test_intervals_are_wider_if_rows_of_a_subject_err_together(name: str) -> None:
    log_probs, labels, subjects = draw(6, num_subjects=8)
    judged = METRICS[name].judge(log_probs, labels)
    by_subject, by_row = judged.interval(subjects), judged.interval(np.arange(len(labels)))
    assert by_subject.high - by_subject.low > 1.2 * (by_row.high - by_row.low)


@pytest.mark.parametrize("name", OTHERS)
def test_one_subject_has_no_error(name: str) -> None:
    log_probs, labels, subjects = draw(7, num_subjects=1)
    judged = METRICS[name].judge(log_probs, labels)
    assert judged.above(judged, subjects)[1] == float("inf")


def test_a_class_of_one_subject_has_an_unknown_error() -> None:
    """Without that subject there is no AUC."""
    log_probs, _, subjects = draw(5, num_classes=2)
    labels = (subjects == 3).astype(int)
    better, worse = (METRICS["auc"].judge(probs, labels) for probs in (log_probs, log_probs[:, ::-1]))
    difference, error = worse.above(better, subjects)
    assert difference == worse.loss - better.loss and error == np.inf


def test_many_subjects_are_left_out_in_groups() -> None:
    """Without a column of subjects each image is one: not one evaluation for each."""
    log_probs, labels, _ = draw(8, num_rows=5000)
    rows = np.arange(len(labels))
    noise = np.random.default_rng(0).normal(size=log_probs.shape)
    auc, accuracy = METRICS["auc"], METRICS["accuracy"]
    _, error = auc.judge(log_probs + noise, labels).above(auc.judge(log_probs, labels), rows)
    _, plain = accuracy.judge(log_probs + noise, labels).above(accuracy.judge(log_probs, labels), rows)
    assert plain / 5 < error < plain * 5


def test_the_prior_is_what_guessing_scores() -> None:
    labels, folds = np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 0, 1, 1, 0, 1, -1, -1])
    assert LOG_LOSS.prior(labels, folds, 3) == metrics.prior_log_loss(labels, folds, 3)
    expected = {"accuracy": 3 / 6, "balanced_accuracy": 1 / 3, "auc": 0.5, "quadratic_kappa": 0.0}
    for name, value in expected.items():
        assert METRICS[name].prior(labels, folds, 3) == pytest.approx(value)
