"""A class that is never scored keeps the probabilities that the networks give it, whatever is fitted."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from simulated_runs import Simulated, simulate, useless_runs

from distracted.ensemble.blenders import ALL_BLENDERS, Blender, find_blenders
from distracted.ensemble.crossfit import cross_fit
from distracted.ensemble.sources import FittedSource, Source
from distracted.ensemble.unseen_classes import among_occurring, with_unseen
from distracted.headline import METRICS
from distracted.metrics import log_loss
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.choose import Choose
from distracted.postprocess.step import Estimator, Identity, Inputs, LogProbs, Subset, normalised
from distracted.schema import MetricName

FIRST = frozenset({0})
UNSEEN = 4


@pytest.fixture(scope="module")
def sim() -> Simulated:
    """Three over-cautious runs; no row that is scored shows class 4, which the networks know all the same."""
    sim = simulate(3, num_images=400)
    rows = sim.labels != UNSEEN
    log_probs = normalised(0.3 * sim.log_probs[:, rows])
    return Simulated(log_probs, sim.labels[rows], sim.folds[rows], sim.subjects[rows])


def predicted(estimator: Estimator, inputs: Sequence[Source], *, test: bool) -> np.ndarray:
    return np.exp(FittedSource(estimator, inputs).predict(Subset(0, test=test), FIRST))


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("step", [Calibrate(), Calibrate(("temperature",))])
def test_calibration_leaves_the_probability_of_a_class_that_is_never_scored(
    step: Calibrate, test: bool, sim: Simulated
) -> None:
    inputs = sim.sources()[:1]
    after = predicted(step, inputs, test=test)
    before = np.exp(normalised(inputs[0].predict(Subset(0, test=test), FIRST)))
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(after[:, UNSEEN], before[:, UNSEEN], rtol=1e-6)
    ratio = after[:, :UNSEEN].max(axis=1) / before[:, :UNSEEN].max(axis=1)
    assert np.median(ratio) > 1.1  # the classes that are scored became surer


SHARPENING = [blender for blender in ALL_BLENDERS if blender.can_sharpen]


@pytest.mark.parametrize("blender", SHARPENING, ids=lambda blender: blender.key)
def test_a_blend_gives_it_the_mean_probability_of_the_linear_pool(blender: Blender, sim: Simulated) -> None:
    after = predicted(blender, sim.sources(), test=True)
    pooled = predicted(find_blenders(["linear_pool"])[0], sim.sources(), test=True)
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(after[:, UNSEEN], pooled[:, UNSEEN], rtol=1e-5)


@pytest.mark.parametrize("blender", SHARPENING, ids=lambda blender: blender.key)
def test_runs_that_know_nothing_do_not_come_back_through_it(blender: Blender, sim: Simulated) -> None:
    """They spread their probability over all classes; the blend stays nearly as good."""
    with_useless = replace(sim, log_probs=np.concatenate([sim.log_probs, useless_runs(12, sim)]))
    without, with_them = (
        log_loss(FittedSource(blender, of.sources()).held_out_log_probs(), sim.labels)
        for of in (sim, with_useless)
    )
    assert with_them < without + 0.05


def test_runs_without_weight_are_not_read(sim: Simulated) -> None:
    def refuse() -> LogProbs:
        raise AssertionError("read")

    runs = Inputs([lambda: sim.log_probs[0], refuse])
    occurs = np.arange(5) != UNSEEN
    whole = with_unseen(among_occurring(runs, occurs)[0], runs, occurs, np.array([1.0, 0.0]))
    np.testing.assert_allclose(whole, normalised(sim.log_probs[0]), atol=1e-12)


@pytest.mark.parametrize("metric", ["log_loss", "quadratic_kappa"])
def test_a_choice_is_made_by_the_score_over_all_classes(metric: MetricName, sim: Simulated) -> None:
    """One run wastes half of its probability on the class that nobody shows."""
    labels = np.where(sim.labels == 2, UNSEEN, sim.labels)  # class 2 is the unseen one: an ordinal gap
    wasteful = np.log(0.5 * np.exp(sim.log_probs[:1]) + 0.5 * np.eye(5)[2])
    changed = replace(sim, labels=labels, log_probs=np.concatenate([wasteful, sim.log_probs[1:]]))
    for fold in range(5):
        source, seen = FittedSource(Choose(metric), changed.sources()), sim.folds != fold
        losses = [METRICS[metric].judge(one[seen], labels[seen]).loss for one in changed.log_probs]
        assert source.fit(frozenset({fold})) == int(np.argmin(losses))


def test_a_step_that_reads_no_label_does_not_depend_on_which_classes_occur(sim: Simulated) -> None:
    [source, *_] = sim.sources()
    predicted_again = FittedSource(Identity(), [source]).predict(Subset(0), FIRST)
    np.testing.assert_array_equal(predicted_again, normalised(source.predict(Subset(0), FIRST)))


def test_the_scored_classes_are_fitted_as_if_there_were_no_other(sim: Simulated) -> None:
    smaller = replace(sim, log_probs=normalised(sim.log_probs[:, :, :UNSEEN]))
    with_it, without = (cross_fit(of.sources(), blenders=SHARPENING) for of in (sim, smaller))
    np.testing.assert_allclose(normalised(with_it.log_probs[:, :UNSEEN]), without.log_probs, atol=1e-6)
    assert [one.name for one in with_it.chosen] == [one.name for one in without.chosen]


def test_nothing_is_learned_from_rows_of_one_class(sim: Simulated) -> None:
    """If all scored images show the same class, they cannot say how sure a network may be."""
    one_class = replace(sim, log_probs=normalised(sim.log_probs[:, :, :2]), labels=np.zeros_like(sim.labels))
    inputs = one_class.sources()
    raw = np.exp(normalised(inputs[0].predict(Subset(0), FIRST)))
    np.testing.assert_allclose(predicted(Calibrate(), inputs[:1], test=False), raw, rtol=1e-6)
    mean = predicted(find_blenders(["linear_pool"])[0], inputs, test=False)
    for blender in SHARPENING:
        np.testing.assert_allclose(predicted(blender, inputs, test=False), mean, rtol=1e-5)


def test_a_test_set_that_shows_it_does_not_pay_for_calibration(sim: Simulated) -> None:
    """Rows of the never scored class among the test set cost no more than before."""
    rows = np.flatnonzero(sim.folds == 0)
    [source, *_] = sim.sources()
    before = source.predict(Subset(0), FIRST)
    after = np.log(predicted(Calibrate(), [source], test=False))
    labels = np.full(len(rows), UNSEEN)
    assert log_loss(after, labels) == pytest.approx(log_loss(normalised(before), labels), rel=1e-6)


@pytest.mark.parametrize("metric", ["accuracy", "auc"])
def test_other_metrics_can_choose_without_it(metric: str, sim: Simulated) -> None:
    fit = cross_fit(sim.sources(), metric=METRICS[metric])  # type: ignore[index]
    assert np.isfinite(fit.log_probs).all()
