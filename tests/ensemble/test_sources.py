"""Sources predict without a look at the folds that are hidden from them, however long their chain."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from simulated_runs import Simulated, simulate

from distracted.ensemble.blenders import BLENDERS
from distracted.ensemble.sources import Chosen, Fitted, Scored, Source, Stored, held_out_losses
from distracted.metrics import log_losses
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.step import Part

Make = Callable[[Simulated], Source]


def scored_of(sim: Simulated) -> Scored:
    return Scored(sim.labels, sim.folds, sim.subjects)


def stored(sim: Simulated) -> list[Stored]:
    return [
        Stored(f"run {n}", rows, scored_of(sim), rows[None, ::2].repeat(5, 0))
        for n, rows in enumerate(sim.log_probs)
    ]


def calibrated(sim: Simulated) -> Source:
    return Fitted("calibrated", Calibrate(), stored(sim)[:1], scored_of(sim))


def blend_of_calibrated(sim: Simulated) -> Source:
    members = [Fitted(run.name, Calibrate(), [run], scored_of(sim)) for run in stored(sim)]
    candidates = [Fitted(b.name, b, members, scored_of(sim)) for b in BLENDERS]
    return Chosen("blend", candidates, scored_of(sim))


def calibrated_blend(sim: Simulated) -> Source:
    return Fitted("calibrated blend", Calibrate(), [blend_of_calibrated(sim)], scored_of(sim))


CHAINS = [calibrated, blend_of_calibrated, calibrated_blend]


@pytest.fixture(scope="module")
def sim() -> Simulated:
    return simulate(3, num_images=250, num_classes=4)


@pytest.mark.parametrize("make", CHAINS)
@pytest.mark.parametrize("hidden", [{2}, {2, 4}])
def test_hidden_labels_change_no_byte_of_what_is_predicted_without_them(
    make: Make, hidden: set[int], sim: Simulated
) -> None:
    others = np.where(np.isin(sim.folds, list(hidden)), (sim.labels + 1) % 4, sim.labels)
    before, after = make(sim), make(replace(sim, labels=others))
    for part in (*map(Part, range(5)), Part(2, test=True)):
        without = frozenset(hidden)
        assert before.predict(part, without).tobytes() == after.predict(part, without).tobytes()
    seen = frozenset({0})  # where they may be seen they count
    assert (before.predict(Part(0), seen) != after.predict(Part(0), seen)).any()


def test_files_of_a_derived_run_would_let_a_hidden_fold_in(sim: Simulated) -> None:
    """Why a blend takes its members as sources: what fold 1 stores was fitted on fold 2's labels, too."""
    others = np.where(sim.folds == 2, (sim.labels + 1) % 4, sim.labels)
    files = [calibrated(of).predict(Part(1), frozenset({1})) for of in (sim, replace(sim, labels=others))]
    assert (files[0] != files[1]).any()


def test_a_chain_is_fitted_step_by_step_on_the_folds_that_may_be_seen(sim: Simulated) -> None:
    without = frozenset({1})
    seen = sim.folds != 1
    step = Calibrate(("temperature",))
    once = Fitted("once", step, stored(sim)[:1], scored_of(sim))
    twice = Fitted("twice", step, [once], scored_of(sim))
    assert once.fitted(without).temperature != pytest.approx(1, abs=0.01)
    assert twice.fitted(without).temperature == pytest.approx(1, abs=1e-3)  # nothing is left to mend
    examples = twice.examples(without)
    np.testing.assert_array_equal(examples.labels, sim.labels[seen])
    np.testing.assert_array_equal(examples.subjects, sim.subjects[seen])
    rows = np.empty_like(sim.log_probs[0])
    for fold in (0, 2, 3, 4):
        rows[sim.folds == fold] = once.predict(Part(fold), without)
    np.testing.assert_array_equal(examples.log_probs[0], rows[seen])


def test_the_test_set_is_predicted_by_the_same_fit_as_the_held_out_rows(sim: Simulated) -> None:
    """The tiny test set is every other row: what a step does to a row, it does in both places."""
    source = Fitted("once", Calibrate(("temperature", "clip")), stored(sim)[:1], scored_of(sim))
    test = source.predict(Part(3, test=True), frozenset({3}))
    rows = np.flatnonzero(sim.folds == 3)
    even = rows % 2 == 0
    np.testing.assert_allclose(
        test[rows[even] // 2], source.predict(Part(3), frozenset({3}))[even], rtol=1e-12
    )


def test_held_out_losses_are_of_rows_predicted_without_their_fold(sim: Simulated) -> None:
    source = calibrated(sim)
    losses = held_out_losses(source, scored_of(sim), frozenset({4}))
    expected = np.concatenate(
        [log_losses(source.predict(Part(f), frozenset({4, f})), sim.labels[sim.folds == f]) for f in range(4)]
    )
    np.testing.assert_allclose(np.sort(losses), np.sort(expected))


def test_with_too_few_folds_to_compare_the_first_candidate_is_taken(sim: Simulated) -> None:
    blend = blend_of_calibrated(sim)
    assert isinstance(blend, Chosen)
    assert blend.choice(frozenset({0, 1, 2, 3})) == 0
