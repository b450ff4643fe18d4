"""Sources predict without the labels of hidden folds, however many steps are chained."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from simulated_runs import Simulated, simulate

from distracted.ensemble.blenders import BLENDERS, find_blenders
from distracted.ensemble.sources import ChosenSource, FittedSource, Source
from distracted.metrics import log_losses
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.step import Subset

Make = Callable[[Simulated], Source]


def calibrated(sim: Simulated) -> Source:
    return FittedSource(Calibrate(), sim.sources()[:1])


def blend_of_calibrated(sim: Simulated) -> Source:
    members = [FittedSource(Calibrate(), [run]) for run in sim.sources()]
    return ChosenSource([FittedSource(blender, members) for blender in BLENDERS])


def calibrated_blend(sim: Simulated) -> Source:
    return FittedSource(Calibrate(), [blend_of_calibrated(sim)])


CHAINS = [calibrated, blend_of_calibrated, calibrated_blend]


@pytest.fixture(scope="module")
def sim() -> Simulated:
    return simulate(3, num_images=250, num_classes=4)


@pytest.mark.slow
@pytest.mark.parametrize("make", CHAINS)
@pytest.mark.parametrize("hidden", [{2}, {2, 4}])
def test_hidden_labels_do_not_change_predictions(make: Make, hidden: set[int], sim: Simulated) -> None:
    others = np.where(np.isin(sim.folds, list(hidden)), (sim.labels + 1) % 4, sim.labels)
    before, after = make(sim), make(replace(sim, labels=others))
    for subset in (*map(Subset, range(5)), Subset(2, test=True)):
        without = frozenset(hidden)
        assert before.predict(subset, without).tobytes() == after.predict(subset, without).tobytes()
    seen = frozenset({0})  # visible labels count
    assert (before.predict(Subset(0), seen) != after.predict(Subset(0), seen)).any()


def test_stored_predictions_of_a_derived_run_would_leak_a_hidden_fold(sim: Simulated) -> None:
    """Why a blend takes its members as sources: fold 1's stored predictions depend on fold 2's labels."""
    others = np.where(sim.folds == 2, (sim.labels + 1) % 4, sim.labels)
    files = [calibrated(of).predict(Subset(1), frozenset({1})) for of in (sim, replace(sim, labels=others))]
    assert (files[0] != files[1]).any()


def test_a_step_is_fitted_on_rows_that_its_input_was_not_fitted_on(
    sim: Simulated,
) -> None:
    without = frozenset({1})
    seen = sim.folds != 1
    step = Calibrate(("temperature",))
    once = FittedSource(step, sim.sources()[:1])
    twice = FittedSource(step, [once])
    examples = twice.examples(without)
    np.testing.assert_array_equal(examples.labels, sim.labels[seen])
    np.testing.assert_array_equal(examples.subjects, sim.subjects[seen])
    rows = np.empty_like(sim.log_probs[0])
    for fold in (0, 2, 3, 4):
        rows[sim.folds == fold] = once.predict(Subset(fold), without | {fold})
    np.testing.assert_array_equal(examples.log_probs[0], rows[seen])
    assert once.fit(without).temperature != pytest.approx(1, abs=0.05)
    assert twice.fit(without).temperature == pytest.approx(1, abs=0.05)  # little is left to correct


def test_with_one_visible_fold_a_step_is_fitted_on_the_same_rows_as_its_input(sim: Simulated) -> None:
    once = FittedSource(Calibrate(("temperature",)), sim.sources()[:1])
    twice = FittedSource(Calibrate(("temperature",)), [once])
    hidden = frozenset({0, 1, 2, 3})
    np.testing.assert_array_equal(twice.examples(hidden).log_probs[0], once.predict(Subset(4), hidden))


def test_with_few_visible_folds_a_blend_is_fitted_on_the_run_that_it_blends() -> None:
    """Without fold 0 and the fold that the member predicts, one of three remains: too few to choose by."""
    sim = simulate(2, num_images=300, num_classes=4, num_folds=3)
    sure, good = Calibrate(("temperature",)), np.where(np.eye(4)[sim.labels] > 0, -0.1, -2.4)
    inputs = replace(sim, log_probs=np.stack([sim.log_probs[0], good])).sources()
    member = ChosenSource([FittedSource(sure, [source]) for source in inputs])
    without = frozenset({0})
    assert member.choice(without) == 1
    [linear] = find_blenders(["linear_pool"])
    blend = FittedSource(linear, [inputs[1], member])
    rows = [member.predict(Subset(fold), without) for fold in range(3)]
    seen = sim.folds != 0
    expected = np.empty((len(seen), 4))
    for fold in (1, 2):
        expected[sim.folds == fold] = rows[fold]
    np.testing.assert_array_equal(blend.examples(without).log_probs[1], expected[seen])
    assert blend.fit(without)[1] > 0.9


@pytest.mark.slow
def test_calibrating_a_blend_that_overfits_does_not_raise_its_confidence() -> None:
    """On the rows that it was fitted on, stacking looks under-confident."""
    sim = simulate(6, num_images=1200, num_classes=6, num_subjects=20, seed=4)
    [stacking] = find_blenders(["stacking"])
    blend = FittedSource(stacking, sim.sources())
    calibrated = FittedSource(Calibrate(("temperature",)), [blend])
    losses = [source.held_out_losses().mean() for source in (blend, calibrated)]
    assert losses[1] <= losses[0] + 0.002


def test_the_test_set_and_held_out_rows_are_predicted_by_the_same_fit(sim: Simulated) -> None:
    """Every other row also stands for the test set, and is predicted the same in both places."""
    source = FittedSource(Calibrate(("temperature", "clip")), sim.sources()[:1])
    test = source.predict(Subset(3, test=True), frozenset({3}))
    rows = np.flatnonzero(sim.folds == 3)
    even = rows % 2 == 0
    np.testing.assert_allclose(
        test[rows[even] // 2], source.predict(Subset(3), frozenset({3}))[even], rtol=1e-12
    )


def test_held_out_losses_come_from_fits_without_the_fold(sim: Simulated) -> None:
    source = calibrated(sim)
    losses = source.held_out_losses(frozenset({4}))
    expected = np.concatenate(
        [
            log_losses(source.predict(Subset(f), frozenset({4, f})), sim.labels[sim.folds == f])
            for f in range(4)
        ]
    )
    np.testing.assert_allclose(np.sort(losses), np.sort(expected))


def test_with_too_few_folds_to_compare_the_first_candidate_is_used(sim: Simulated) -> None:
    blend = blend_of_calibrated(sim)
    assert isinstance(blend, ChosenSource)
    assert blend.choice(frozenset({0, 1, 2, 3})) == 0
