"""Adaptation: a subject's share of the logits is found and removed, unless clusters are not subjects."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from conftest import MemorySpace
from distracted.ensemble.members import step_source
from distracted.ensemble.sources import ScoredRows, StoredSource
from distracted.metrics import log_loss
from distracted.postprocess import subject_clusters
from distracted.postprocess.adapt import Adapt, subject_logits
from distracted.postprocess.step import Examples, Rows, Subset, normalised
from distracted.postprocess.subject_clusters import SubjectClusters, find_subjects

NUM_CLASSES, NUM_FOLDS, PER_SUBJECT = 4, 5, 30


def examples(*, effect: float, seed: int = 0) -> Examples:
    """Predictions of 30 subjects, each of which adds something to its logits."""
    rng = np.random.default_rng(seed)
    subjects = np.arange(30).repeat(PER_SUBJECT)
    labels = rng.integers(0, NUM_CLASSES, len(subjects))
    logits = 3 * np.eye(NUM_CLASSES)[labels] + rng.normal(size=(len(labels), NUM_CLASSES))
    logits += effect * rng.normal(size=(30, NUM_CLASSES))[subjects]
    return Examples(log_softmax(logits, axis=1)[None], labels, subjects % NUM_FOLDS, subjects)


def source_of(rows: Examples, clusters: np.ndarray) -> object:
    by_fold = {fold: SubjectClusters(clusters[rows.folds == fold]) for fold in range(NUM_FOLDS)}
    space = MemorySpace(lambda index, subset: by_fold[subset.fold])
    scored = ScoredRows(rows.labels, rows.folds, rows.subjects)
    return step_source(Adapt({"any": space}), [StoredSource("run", rows.log_probs[0], scored)])


def out_of_fold(rows: Examples, clusters: np.ndarray) -> np.ndarray:
    source, predicted = source_of(rows, clusters), np.empty(rows.log_probs[0].shape)
    for fold in range(NUM_FOLDS):
        predicted[rows.folds == fold] = source.predict(Subset(fold), frozenset({fold}))  # type: ignore[attr-defined]
    return predicted


def test_what_a_subject_adds_is_shrunk_by_its_number_of_images() -> None:
    class_logits = 20 * (np.eye(3) - 1 / 3)
    labels, clusters = np.array([0, 1, 2, 0, 1, 2, 0]), np.array([4, 4, 4, 4, 4, 4, 9])
    effects = {4: np.array([2.0, -1.0, -1.0]), 9: np.array([-1.0, 2.0, -1.0])}
    logits = class_logits[labels] + np.array([effects[cluster] for cluster in clusters])
    added = subject_logits(logits, clusters, class_logits, 2.0)
    np.testing.assert_allclose(added[:6], np.tile(effects[4] * 6 / 8, (6, 1)), atol=1e-3)
    np.testing.assert_allclose(added[6], effects[9] * 1 / 3, atol=1e-3)


def test_effects_of_subjects_are_removed_where_clusters_are_subjects() -> None:
    rows = examples(effect=1.5)
    before, after = rows.log_probs[0], out_of_fold(rows, rows.subjects)
    assert log_loss(after, rows.labels) < 0.7 * log_loss(before, rows.labels)


def test_nothing_changes_where_clusters_are_not_subjects_or_subjects_add_nothing() -> None:
    rows = examples(effect=1.5)
    shuffled = np.random.default_rng(1).permutation(rows.subjects)
    np.testing.assert_array_equal(out_of_fold(rows, shuffled), normalised(rows.log_probs[0]))
    equal = examples(effect=0.0)
    np.testing.assert_array_equal(out_of_fold(equal, equal.subjects), normalised(equal.log_probs[0]))


def test_a_fit_without_agreement_keeps_predictions_even_where_it_would_pay() -> None:
    rows = replace(examples(effect=1.5), subjects=np.arange(900))  # as if each image were a subject
    by_fold = {fold: SubjectClusters(np.arange(900)[rows.folds == fold] // 30) for fold in range(NUM_FOLDS)}
    step = Adapt({"any": MemorySpace(lambda index, subset: by_fold[subset.fold])})
    fitted = step.fit(rows)
    assert fitted.agreement < 0.05 and fitted.prior_images == 0
    log_probs = rows.log_probs[0][rows.folds == 0]
    np.testing.assert_array_equal(
        step.predict(fitted, Rows(Subset(0), log_probs[None])), normalised(log_probs)
    )


def test_agreement_is_measured_where_a_fold_shows_several_subjects() -> None:
    """With one subject a fold, a single cluster would agree perfectly and two clusters not at all."""
    rows = examples(effect=1.5)
    kept = rows.subjects < NUM_FOLDS
    one = Examples(rows.log_probs[:, kept], rows.labels[kept], rows.folds[kept], rows.subjects[kept])
    by_fold = {fold: SubjectClusters(one.subjects[one.folds == fold]) for fold in range(NUM_FOLDS)}
    fitted = Adapt({"any": MemorySpace(lambda index, subset: by_fold[subset.fold])}).fit(one)
    assert fitted.agreement == 0 == fitted.prior_images


def test_subjects_with_few_images_or_with_copies() -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(12, 6)).astype(np.float32)
    np.testing.assert_array_equal(find_subjects(known, np.arange(40) // 4, unknown), np.arange(12))
    copies = np.repeat(unknown[:2], 10, axis=0)  # two pictures for four clusters
    assert len(np.unique(find_subjects(known, np.arange(40) // 5, copies))) == 2


@pytest.mark.parametrize("large", [subject_clusters._LARGE, 0])
def test_subjects_are_told_apart_by_what_told_known_subjects_apart(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest spread is within subjects and says nothing; the known subjects show which one does."""
    monkeypatch.setattr(subject_clusters, "_LARGE", large)
    rng = np.random.default_rng(0)

    def images(num_subjects: int) -> tuple[np.ndarray, np.ndarray]:
        subjects = np.arange(num_subjects).repeat(20)
        between = rng.normal(size=(num_subjects, 3))[subjects] + 0.1 * rng.normal(size=(len(subjects), 3))
        common = rng.normal(size=(len(subjects), 1)) + 0.3 * rng.normal(size=(len(subjects), 12))
        return np.hstack([between, common]).astype(np.float32), subjects

    (known, subjects), (unknown, truth) = images(20), images(8)
    clusters = find_subjects(known, subjects, unknown)
    assert clusters.tobytes() == find_subjects(known, subjects, unknown).tobytes()
    pure = [np.bincount(truth[clusters == cluster]).max() for cluster in np.unique(clusters)]
    assert len(np.unique(clusters)) == 8 and sum(pure) >= 0.9 * len(truth)
