"""A class that is never scored keeps the probabilities that the networks give it, whatever is fitted."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from simulated_runs import Simulated, simulate

from distracted.ensemble.blenders import ALL_BLENDERS
from distracted.ensemble.crossfit import cross_fit
from distracted.ensemble.sources import FittedSource, Source
from distracted.ensemble.unseen_classes import among_shown, with_unseen
from distracted.headline import METRICS
from distracted.metrics import log_loss
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.choose import Choose
from distracted.postprocess.step import Estimator, Subset, normalised

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
@pytest.mark.parametrize("step", [Calibrate(), Calibrate(("temperature",)), Choose()])
def test_a_step_leaves_the_probability_of_a_class_that_is_never_scored(
    step: Calibrate | Choose, test: bool, sim: Simulated
) -> None:
    inputs = sim.sources() if step.takes_several else sim.sources()[:1]
    after = predicted(step, inputs, test=test)
    befores = [np.exp(normalised(run.predict(Subset(0, test=test), FIRST))) for run in inputs]
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-12)
    assert any(np.allclose(after[:, UNSEEN], before[:, UNSEEN], rtol=1e-6) for before in befores)
    if not step.takes_several:  # the classes that are scored became surer
        ratio = after[:, :UNSEEN].max(axis=1) / befores[0][:, :UNSEEN].max(axis=1)
        assert np.median(ratio) > 1.1


@pytest.mark.parametrize("blender", ALL_BLENDERS, ids=lambda blender: blender.key)
def test_a_blend_gives_it_the_runs_mean_probability(blender: Estimator, sim: Simulated) -> None:
    after = predicted(blender, sim.sources(), test=True)
    means = np.mean(
        [np.exp(normalised(one.predict(Subset(0, test=True), FIRST))) for one in sim.sources()], 0
    )
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(after[:, UNSEEN], means[:, UNSEEN], rtol=1e-5)


def test_the_scored_classes_are_fitted_as_if_there_were_no_other(sim: Simulated) -> None:
    smaller = replace(sim, log_probs=normalised(sim.log_probs[:, :, :UNSEEN]))
    with_it, without = (cross_fit(of.sources(), blenders=ALL_BLENDERS[:5]) for of in (sim, smaller))
    np.testing.assert_allclose(normalised(with_it.log_probs[:, :UNSEEN]), without.log_probs, atol=1e-6)
    assert [one.name for one in with_it.chosen] == [one.name for one in without.chosen]


def test_nothing_is_learned_from_rows_of_one_class(sim: Simulated) -> None:
    """Of two classes one may be shown by a single subject: the other says nothing about certainty."""
    one_class = replace(sim, log_probs=normalised(sim.log_probs[:, :, :2]), labels=np.zeros_like(sim.labels))
    inputs = one_class.sources()
    raw = np.exp(normalised(inputs[0].predict(Subset(0), FIRST)))
    np.testing.assert_allclose(predicted(Calibrate(), inputs[:1], test=False), raw, rtol=1e-6)
    mean = np.mean([np.exp(normalised(one.predict(Subset(0), FIRST))) for one in inputs], axis=0)
    for blender in ALL_BLENDERS:
        np.testing.assert_allclose(predicted(blender, inputs, test=False), mean, rtol=1e-5)


def test_a_test_set_that_shows_it_does_not_pay_for_calibration(sim: Simulated) -> None:
    """Rows of the never scored class among the test set cost no more than before."""
    rows = np.flatnonzero(sim.folds == 0)
    [source, *_] = sim.sources()
    before = source.predict(Subset(0), FIRST)
    after = np.log(predicted(Calibrate(), [source], test=False))
    labels = np.full(len(rows), UNSEEN)
    assert log_loss(after, labels) == pytest.approx(log_loss(normalised(before), labels), rel=1e-6)


def test_predictions_are_divided_and_put_together_again() -> None:
    rng = np.random.default_rng(0)
    runs, shown = rng.normal(size=(2, 7, 5)), np.array([True, False, True, True, False])
    parts = among_shown(runs, shown)
    np.testing.assert_allclose(np.exp(parts[1]).sum(axis=1), 1)
    np.testing.assert_allclose(with_unseen(parts[0], runs[:1], shown), normalised(runs[0]), atol=1e-12)


@pytest.mark.parametrize("metric", ["accuracy", "auc"])
def test_other_metrics_can_choose_without_it(metric: str, sim: Simulated) -> None:
    fit = cross_fit(sim.sources(), metric=METRICS[metric])  # type: ignore[index]
    assert np.isfinite(fit.log_probs).all()
