"""A member's contribution is what the blend loses that is fitted without it."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_runs import simulate, useless_runs

from distracted.ensemble import contributions
from distracted.ensemble.blenders import find_blenders
from distracted.ensemble.contributions import (
    Contribution,
    measure_contributions,
    read_contributions,
    store_contributions,
)
from distracted.ensemble.crossfit import cross_fit
from distracted.metrics import log_loss


@pytest.mark.parametrize("key", ["arithmetic_mean", "linear_pool", "log_linear_pool", "stacking"])
def test_it_is_the_loss_that_the_blend_of_the_others_has_more(key: str) -> None:
    sim = simulate(3, num_images=200, num_folds=3)
    sources, blenders, names = sim.sources(), find_blenders([key]), ["a", "b", "c"]
    whole = cross_fit(sources, blenders=blenders)
    measured = measure_contributions(whole, names, sources)
    for number, name in enumerate(names):
        rest = cross_fit([*sources[:number], *sources[number + 1 :]], blenders=blenders)
        expected = log_loss(rest.log_probs, sim.labels) - log_loss(whole.log_probs, sim.labels)
        assert measured[name].loss == pytest.approx(expected, abs=1e-6)
        assert measured[name].error is not None and measured[name].error > 0


def test_a_run_that_softens_the_others_has_more_weight_and_is_worth_less() -> None:
    """An over-confident run, and one close to the class prior: in the report the first explains mistakes."""
    sim = simulate(1, num_images=400, num_folds=3, seed=1)
    sharp = sim.log_probs * 6
    sharp -= np.logaddexp.reduce(sharp, axis=2, keepdims=True)
    sources = replace(sim, log_probs=np.concatenate([sharp, useless_runs(1, sim)])).sources()
    fit = cross_fit(sources, blenders=find_blenders(["log_linear_pool"]))
    measured = measure_contributions(fit, ["knows", "prior"], sources)
    assert np.mean(fit.weights, axis=0)[1] > np.mean(fit.weights, axis=0)[0]
    assert measured["knows"].loss > 10 * abs(measured["prior"].loss)


def test_a_member_without_weight_loses_nothing() -> None:
    """A run that gives every true class half of what another gives it."""
    sim = simulate(2, num_images=200, num_folds=3)
    rows, worse = np.arange(200), np.exp(sim.log_probs[:1])
    worse[0, rows, sim.labels] /= 2
    worse[0, rows, (sim.labels + 1) % 5] += worse[0, rows, sim.labels]
    sources = replace(sim, log_probs=np.concatenate([sim.log_probs, np.log(worse)])).sources()
    fit = cross_fit(sources, blenders=find_blenders(["linear_pool"]))
    measured = measure_contributions(fit, list("abc"), sources)
    assert fit.overall_weights[2] == 0 and measured["c"] == Contribution(0.0, 0.0)


def test_of_many_members_those_with_most_weight_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contributions, "MAX_MEASURED", 2)
    sim = simulate(4, num_images=200, num_folds=3)
    fit = cross_fit(sim.sources(), blenders=find_blenders(["log_linear_pool"]))
    measured = measure_contributions(fit, list("abcd"), sim.sources())
    heaviest = np.argsort(-np.mean(fit.weights, axis=0))[:2]
    assert list(measured) == sorted("abcd"[number] for number in heaviest)


def test_one_member_has_none_and_so_has_a_manifest_of_an_older_version() -> None:
    sim = simulate(1, num_images=100, num_folds=3)
    assert measure_contributions(cross_fit(sim.sources()), ["a"], sim.sources()) == {}
    assert read_contributions({"weights": {"a": 1.0}}) == {}
    stored = {"a": Contribution(0.1, None), "b": Contribution(-0.1, 0.2)}
    assert read_contributions({"contributions": store_contributions(stored)}) == stored
