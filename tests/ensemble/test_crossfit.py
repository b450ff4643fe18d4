"""Nothing that predicts a fold has seen its labels; the simplest blender that is as good as the best is
chosen; useless runs do little harm."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax
from simulated_runs import Simulated, simulate, useless_runs

from conftest import RecordedProgress
from distracted.ensemble.blenders import BLENDERS, Blender
from distracted.ensemble.crossfit import CrossFit, cross_fit
from distracted.ensemble.pools import equal_weights, fit_linear_pool, pool_arithmetic
from distracted.metrics import difference_and_error, log_loss, log_losses

Labels = np.ndarray
Fit = Callable[[Labels], CrossFit]
LINEAR = BLENDERS[2]


# Non-interference


def interference(fit: Fit, sim: Simulated) -> set[str]:
    """The results for a fold that change when that fold's labels change; honest ones are byte-identical."""
    before = fit(sim.labels)
    num_classes = sim.log_probs.shape[2]
    changed = set()
    for fold in np.unique(sim.folds):
        rows = sim.folds == fold
        after = fit(np.where(rows, (sim.labels + 1) % num_classes, sim.labels))
        if after.weights[fold].tobytes() != before.weights[fold].tobytes():
            changed.add("weights")
        if after.chosen[fold] != before.chosen[fold]:
            changed.add("choice")
        if after.log_probs[rows].tobytes() != before.log_probs[rows].tobytes():
            changed.add("predictions")
    return changed


@pytest.fixture(scope="module", params=[3, 5], ids=["3 folds", "5 folds"])
def sim(request: pytest.FixtureRequest) -> Simulated:
    """Three good runs and two useless ones, so that fitting pays."""
    good = simulate(3, num_images=260, num_folds=request.param, seed=2)
    return replace(good, log_probs=np.concatenate([good.log_probs, useless_runs(2, good)]))


def honest(sim: Simulated, **options: tuple[Blender, ...]) -> Fit:
    return lambda labels: cross_fit(replace(sim, labels=labels).sources(), **options)


def test_a_folds_labels_do_not_reach_its_predictions(sim: Simulated) -> None:
    assert interference(honest(sim), sim) == set()
    assert all(
        blender in BLENDERS[2:] for blender in honest(sim)(sim.labels).chosen
    )  # there is a fit to leak


@pytest.mark.parametrize("blender", BLENDERS[2:], ids=lambda blender: blender.name)
def test_a_folds_labels_do_not_reach_the_weights_of_a_fitted_pool(sim: Simulated, blender: Blender) -> None:
    assert interference(honest(sim, blenders=(blender,)), sim) == set()


def test_the_check_catches_weights_fitted_on_all_rows(sim: Simulated) -> None:
    def in_sample(labels: Labels) -> CrossFit:
        weights = fit_linear_pool(sim.log_probs, labels)
        blended = pool_arithmetic(sim.log_probs, weights)
        num_folds = int(sim.folds.max()) + 1
        fit = honest(sim, blenders=(LINEAR,))(labels)
        return replace(fit, log_probs=blended, chosen=(LINEAR,) * num_folds, weights=(weights,) * num_folds)

    assert interference(in_sample, sim) == {"weights", "predictions"}


def test_the_check_catches_a_choice_made_on_all_rows(sim: Simulated) -> None:
    """Weights are cross-fitted, but the blender is chosen on all folds."""

    def chosen_on_all(labels: Labels) -> CrossFit:
        overall = honest(sim)(labels).overall
        return honest(sim, blenders=(overall,))(labels)

    assert "choice" in interference(chosen_on_all, sim)


def test_the_check_catches_a_blender_that_reads_hidden_labels(sim: Simulated) -> None:
    def peeking(labels: Labels) -> CrossFit:
        peek = Blender("peeking", lambda *_: fit_linear_pool(sim.log_probs, labels), pool_arithmetic)
        return honest(sim, blenders=(peek,))(labels)

    assert {"weights", "predictions"} <= interference(peeking, sim)


def test_a_folds_own_predictions_do_not_reach_its_weights_nor_its_blender(sim: Simulated) -> None:
    options = {"blenders": BLENDERS[2:]}
    before = honest(sim, **options)(sim.labels)
    for fold in np.unique(sim.folds):
        log_probs = sim.log_probs.copy()
        log_probs[:, sim.folds == fold] = log_probs[::-1, sim.folds == fold]
        after = honest(replace(sim, log_probs=log_probs), **options)(sim.labels)
        assert after.weights[fold].tobytes() == before.weights[fold].tobytes()
        assert after.chosen[fold] == before.chosen[fold]
        assert any((a != b).any() for a, b in zip(after.weights, before.weights, strict=True))


# What is reported is what was done


def test_each_folds_predictions_are_its_blender_with_its_weights(sim: Simulated) -> None:
    fit = honest(sim)(sim.labels)
    for fold, (blender, weights) in enumerate(zip(fit.chosen, fit.weights, strict=True)):
        rows = sim.folds == fold
        refitted = blender.fit_weights(sim.log_probs[:, ~rows], sim.labels[~rows])
        np.testing.assert_array_equal(weights, refitted)
        np.testing.assert_array_equal(fit.log_probs[rows], blender.pool(sim.log_probs[:, rows], weights))


def test_verdicts_are_in_sample_and_cross_fitted_scores(sim: Simulated) -> None:
    verdicts = honest(sim)(sim.labels).verdicts
    assert [verdict.blender.name for verdict in verdicts] == [blender.name for blender in BLENDERS]
    losses = {}
    for blender, verdict in zip(BLENDERS, verdicts, strict=True):
        alone = honest(sim, blenders=(blender,))(sim.labels)
        losses[blender.name] = log_losses(alone.log_probs, sim.labels)
        assert verdict.interval.mean == pytest.approx(losses[blender.name].mean())
        weights = blender.fit_weights(sim.log_probs, sim.labels)
        assert verdict.in_sample == pytest.approx(log_loss(blender.pool(sim.log_probs, weights), sim.labels))
    best = min(verdicts, key=lambda verdict: verdict.interval.mean)
    assert best.difference == 0 and best.as_good
    for verdict in verdicts:
        expected = difference_and_error(losses[verdict.blender.name], losses[best.blender.name], sim.subjects)
        assert (verdict.difference, verdict.error) == pytest.approx(expected)


def test_weights_on_all_folds_are_those_of_the_overall_blender(sim: Simulated) -> None:
    fit = honest(sim)(sim.labels)
    weights = fit.overall.fit_weights(sim.log_probs, sim.labels)
    np.testing.assert_allclose(fit.overall_weights, weights, atol=1e-12)
    good = [verdict.blender.name for verdict in fit.verdicts if verdict.as_good]
    assert fit.overall.name == good[0]


@pytest.mark.parametrize("num_folds", [1, 2, 3, 5])
def test_progress_counts_every_fit(num_folds: int) -> None:
    progress = RecordedProgress()
    sim = simulate(2, num_images=100, num_folds=num_folds)
    cross_fit(sim.sources(), progress=progress)
    [(total, done)] = progress.tasks
    assert done == total


# The choice


def fixed(run: int) -> Blender:
    """A blender that passes one run through, so that a test decides how good each blender is."""
    return Blender(f"run {run}", equal_weights, lambda log_probs, _: log_probs[run])


HALF_LOSE = np.tile(np.repeat([0.31, -0.29], 4), 3)  # 24 subjects, in every fold as many that gain


def two_runs(gains: np.ndarray, *, num_per_subject: int = 20, num_folds: int = 4) -> CrossFit:
    """Choose between run 0 and run 1, whose loss is lower by `gains`, one value a subject."""
    subjects = np.repeat(np.arange(len(gains)), num_per_subject)
    true = np.stack([np.full(len(subjects), -1.0), -1.0 + gains[subjects]])
    labels = np.arange(len(subjects)) % 2
    log_probs = np.stack([true, np.log1p(-np.exp(true))], axis=2)
    log_probs = np.where(labels[:, None] == 0, log_probs, log_probs[:, :, ::-1])
    blenders = (fixed(0), fixed(1))
    return cross_fit(
        Simulated(log_probs, labels, subjects % num_folds, subjects).sources(), blenders=blenders
    )


def test_a_blender_is_chosen_if_all_subjects_gain() -> None:
    fit = two_runs(np.full(12, 0.01))
    assert [blender.name for blender in fit.chosen] == ["run 1"] * 4
    assert fit.overall.name == "run 1"


def test_a_blender_is_not_chosen_for_a_gain_within_one_standard_error() -> None:
    """The same mean gain, but half of the subjects lose."""
    fit = two_runs(HALF_LOSE)
    assert fit.verdicts[0].difference == pytest.approx(0.01)
    assert fit.verdicts[0].error > 0.01
    assert [blender.name for blender in fit.chosen] == ["run 0"] * 4
    assert fit.overall.name == "run 0"


def test_a_standard_error_is_over_subjects_not_rows() -> None:
    """More rows of the same subjects do not make a gain more certain."""
    few, many = (two_runs(HALF_LOSE, num_per_subject=num).verdicts[0].error for num in (1, 50))
    assert few == pytest.approx(many)


def test_of_two_equal_blenders_the_first_is_chosen() -> None:
    sim = simulate(3, num_images=200)
    twins = (replace(LINEAR, name="first"), replace(LINEAR, name="second"))
    fit = honest(sim, blenders=twins)(sim.labels)
    assert {blender.name for blender in fit.chosen} == {"first"}


def test_the_choice_for_a_fold_depends_on_the_other_folds() -> None:
    """Run 1 gains hugely on fold 0's subjects and loses a little, consistently, everywhere else."""
    gains = np.where(np.arange(12) % 4 == 0, 0.9, -0.01)
    fit = two_runs(gains)
    assert fit.chosen[0].name == "run 0"
    better_everywhere_but_in_fold_0 = two_runs(-gains)
    assert better_everywhere_but_in_fold_0.chosen[0].name == "run 1"


@pytest.mark.parametrize("num_folds", [1, 2])
def test_with_fewer_than_three_folds_the_mean_is_used(num_folds: int) -> None:
    sim = simulate(3, num_images=200, num_folds=num_folds)
    fit = honest(sim)(sim.labels)
    assert [blender.name for blender in fit.chosen] == ["arithmetic mean"] * num_folds
    assert fit.overall.name == "arithmetic mean" and len(fit.verdicts) == 1
    np.testing.assert_allclose(np.exp(fit.log_probs), np.exp(sim.log_probs).mean(axis=0), rtol=1e-12)


# Optimism and useless runs


@pytest.mark.slow
def test_fitting_looks_better_in_sample_than_cross_fitted_on_average() -> None:
    fits = [honest(sim)(sim.labels) for sim in (simulate(6, num_images=300, seed=seed) for seed in range(6))]
    optimism = np.array([[v.interval.mean - v.in_sample for v in fit.verdicts] for fit in fits]).mean(axis=0)
    np.testing.assert_allclose(optimism[:2], 0, atol=1e-12)  # nothing is fitted, nothing flatters
    assert (optimism[2:] > 0).all()


@pytest.mark.slow
def test_twenty_useless_runs_cost_eight_good_ones_at_most_a_hundredth() -> None:
    good = simulate(8, num_images=3000, num_classes=10, num_subjects=26, seed=1)
    noise = useless_runs(20, good)
    before = honest(good)(good.labels)
    after = honest(replace(good, log_probs=np.concatenate([good.log_probs, noise])))(good.labels)
    scores = [log_loss(fit.log_probs, good.labels) for fit in (before, after)]
    assert scores[1] <= 1.01 * scores[0]
    assert {blender.name for blender in after.chosen} <= {"linear pool", "log-linear pool"}
    for pool in (2, 3):
        assert after.verdicts[pool].interval.mean <= 1.01 * before.verdicts[pool].interval.mean
    assert (
        after.verdicts[0].interval.mean > 1.5 * before.verdicts[0].interval.mean
    )  # they do spoil a plain mean


def test_predictions_stay_probabilities(sim: Simulated) -> None:
    blended = honest(replace(sim, log_probs=log_softmax(100 * sim.log_probs, axis=2)))(sim.labels).log_probs
    np.testing.assert_allclose(np.exp(blended).sum(axis=1), 1, rtol=1e-12)
