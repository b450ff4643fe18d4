"""The probe predicts each fold without its labels; LogME equals the evidence found by numerical search."""

import numpy as np
import pytest
from scipy.optimize import minimize

from distracted.metrics import log_loss
from distracted.models.linear import logme, probe


def features_of(labels: np.ndarray, num_features: int, *, skill: float, seed: int = 0) -> np.ndarray:
    """Gaussian noise shifted by `skill` times a random centre of each class."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(labels.max() + 1, num_features))
    return (skill * centres[labels] + rng.normal(size=(len(labels), num_features))).astype(np.float32)


LABELS = np.arange(60) % 3
FOLDS = np.repeat([0, 1, 2, -1], 15)


def test_a_folds_labels_do_not_reach_its_own_predictions() -> None:
    features = features_of(LABELS, 8, skill=1.0)
    before = probe(features, LABELS, FOLDS, c=0.1, max_iter=200)
    changed = LABELS.copy()
    changed[FOLDS == 1] = (changed[FOLDS == 1] + 1) % 3
    after = probe(features, changed, FOLDS, c=0.1, max_iter=200)
    assert np.array_equal(before[FOLDS == 1], after[FOLDS == 1])
    assert not np.array_equal(before[FOLDS == 0], after[FOLDS == 0])


def test_rows_of_fold_minus_one_are_not_predicted() -> None:
    log_probs = probe(features_of(LABELS, 8, skill=1.0), LABELS, FOLDS, c=0.1, max_iter=200)
    assert np.isnan(log_probs[FOLDS == -1]).all()
    np.testing.assert_allclose(np.exp(log_probs[FOLDS >= 0]).sum(axis=1), 1)


def test_two_classes_have_two_columns() -> None:
    log_probs = probe(features_of(LABELS % 2, 8, skill=2.0), LABELS % 2, FOLDS, c=0.1, max_iter=200)
    assert log_probs.shape == (60, 2)
    assert log_loss(log_probs[FOLDS >= 0], (LABELS % 2)[FOLDS >= 0]) < np.log(2)


def largest_evidence(x: np.ndarray, target: np.ndarray) -> float:
    """Maximise the marginal Gaussian density of the target over both precisions, by Nelder-Mead."""

    def loss(logs: np.ndarray) -> float:
        covariance = np.eye(len(x)) * np.exp(-logs[1]) + x @ x.T * np.exp(-logs[0])
        _, log_det = np.linalg.slogdet(covariance)
        distance = target @ np.linalg.solve(covariance, target)
        return float(len(x) * np.log(2 * np.pi) + log_det + distance) / 2 / len(x)

    return -min(minimize(loss, start, method="Nelder-Mead").fun for start in ([0, 0], [3, 2], [5, 1]))


@pytest.mark.parametrize("shape", [(60, 8), (20, 50)])  # more images than features, and fewer
def test_logme_is_the_largest_evidence(shape: tuple[int, int]) -> None:
    labels = np.arange(shape[0]) % 2
    features = features_of(labels, shape[1], skill=0.5)
    x = features.astype(np.float64)
    expected = np.mean([largest_evidence(x, (labels == label).astype(float)) for label in (0, 1)])
    assert logme(features, labels) == pytest.approx(expected, abs=1e-4)


def test_logme_ranks_features_by_how_informative_they_are() -> None:
    labels = np.arange(300) % 5
    evidences = [logme(features_of(labels, 20, skill=skill), labels) for skill in (0.0, 0.3, 1.0, 3.0)]
    assert evidences == sorted(evidences) and evidences[0] < evidences[-1]
