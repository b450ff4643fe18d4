"""What a run and a blend are expected to score: known answers, and properties of the two models."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from distracted.compete.candidates import EPOCHS, Candidate, Input, all_candidates
from distracted.compete.value import (
    Evidence,
    Trial,
    blend_log_loss,
    blends_with_one_more,
    error_covariance,
    predict_log_losses,
)

A, B = Input("a", 224), Input("b", 224)
CANDIDATES = all_candidates([A, B], uneven=True)
PROBES = {(A, False): 1.0, (A, True): 0.9, (B, False): 1.2, (B, True): 1.2}


def expected(evidence: Evidence) -> dict[str, float]:
    log_losses = predict_log_losses(CANDIDATES, evidence)
    return dict(zip((candidate.name for candidate in CANDIDATES), np.exp(log_losses), strict=True))


def test_frozen_features_score_what_their_probe_does() -> None:
    losses = expected(Evidence(PROBES))
    assert losses["a_features"] == pytest.approx(1.0) and losses["b_features"] == pytest.approx(1.2)


def test_a_better_probe_more_epochs_and_tuning_are_expected_to_help() -> None:
    losses = expected(Evidence(PROBES))
    assert losses["a_full"] < losses["b_full"] and losses["a_full_classes"] < losses["a_full"]
    assert losses["a_full_8epochs"] < losses["a_full"] < losses["a_full_2epochs"]
    assert losses["a_full"] < losses["a_features"]


def test_a_finished_run_scores_what_it_scores_and_moves_those_like_it() -> None:
    before = expected(Evidence(PROBES))
    after = expected(Evidence(PROBES, finished={"a_full": 0.05}))
    assert after["a_full"] == pytest.approx(0.05)
    falls = {name: math.log(before[name] / after[name]) for name in before}
    assert falls["a_full_classes"] > falls["b_full"] > 0  # the same backbone more than another
    assert falls["a_features"] == falls["b_features"] == pytest.approx(0.0)  # their probe says it all


def test_of_two_short_fits_the_better_one_is_expected_to_be_better() -> None:
    trials = [
        Trial(run, fold, 1, loss) for run, loss in (("a_full", 0.9), ("b_full", 0.5)) for fold in (0, 1)
    ]
    losses = expected(Evidence(PROBES, trials=trials))
    assert losses["b_full"] < losses["a_full"]


def test_a_hard_fold_does_not_count_against_those_tried_on_it() -> None:
    """Both are tried on a fold of twice the loss: neither is expected to be worse for it in the end."""

    def predicted(hard: float) -> float:
        trials = [Trial("a_full", 0, EPOCHS, 0.3), Trial("b_full", 0, EPOCHS, 0.3)]
        trials += [Trial("a_full", 1, EPOCHS, 0.3 * hard), Trial("b_full", 1, EPOCHS, 0.3 * hard)]
        return math.log(expected(Evidence(PROBES, trials=trials))["a_full"])

    assert predicted(2.0) - predicted(1.0) < math.log(2.0) / 2


def test_two_backbones_are_expected_to_blend_better_than_two_seeds() -> None:
    candidates = [
        Candidate(A, "full", EPOCHS),
        Candidate(A, "full", EPOCHS, seed=1),
        Candidate(B, "full", EPOCHS),
    ]
    covariance = error_covariance(candidates, np.log([0.3, 0.3, 0.3]), Evidence(PROBES))
    alone, seeds, backbones = (
        blend_log_loss(covariance[np.ix_(rows, rows)]) for rows in ([0], [0, 1], [0, 2])
    )
    assert alone == pytest.approx(math.log(0.3)) and backbones < seeds < alone


def test_pairs_that_err_alike_lower_the_hope_in_blends() -> None:
    candidates = [
        Candidate(A, "full", EPOCHS),
        Candidate(A, "full", EPOCHS, seed=1),
        Candidate(B, "full", EPOCHS),
    ]
    names = [candidate.name for candidate in candidates]
    finished = dict.fromkeys(names[:2], 0.3)

    def blend(together: float) -> float:
        evidence = Evidence(PROBES, finished, pairs={(names[0], names[1]): together})
        return blend_log_loss(error_covariance(candidates, np.log([0.3, 0.3, 0.3]), evidence))

    assert blend(0.2) < blend(0.27) < blend(0.3) < math.log(0.3)


@st.composite
def covariances(draw: st.DrawFn) -> np.ndarray:
    """Covariances of the errors of some candidates."""
    numbers = draw(st.lists(st.sampled_from(range(len(CANDIDATES))), min_size=2, max_size=6, unique=True))
    losses = draw(st.lists(st.floats(0.02, 2.0), min_size=len(numbers), max_size=len(numbers)))
    return error_covariance([CANDIDATES[n] for n in numbers], np.log(losses), Evidence(PROBES))


@given(covariances())
def test_the_best_blend_is_that_of_a_solver(covariance: np.ndarray) -> None:
    num = len(covariance)
    best = minimize(
        lambda weights: weights @ covariance @ weights,
        np.full(num, 1 / num),
        jac=lambda weights: 2 * covariance @ weights,
        bounds=[(0, 1)] * num,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert math.exp(blend_log_loss(covariance)) == pytest.approx(best.fun, rel=1e-3)


@given(covariances())
def test_one_more_run_at_a_time_is_as_each_blend_on_its_own(covariance: np.ndarray) -> None:
    others = range(1, len(covariance))
    blends = blends_with_one_more(covariance, [0], list(others))
    for blend, other in zip(blends, others, strict=True):
        rows = [0, other]
        assert blend == pytest.approx(blend_log_loss(covariance[np.ix_(rows, rows)]), abs=1e-9)
    assert (blends <= blend_log_loss(covariance[:1, :1]) + 1e-12).all()  # a run can be left out of a blend
