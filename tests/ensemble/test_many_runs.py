"""A blend of many runs holds few predictions at a time, and computes what it would from all at once."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from simulated_runs import Simulated, simulate

from distracted.ensemble import blend, pools
from distracted.ensemble.blend import blend_runs
from distracted.ensemble.blenders import ALL_BLENDERS, Blender, find_blenders
from distracted.ensemble.crossfit import cross_fit
from distracted.ensemble.sources import FittedSource
from distracted.errors import StoreError
from distracted.postprocess.calibrate import Calibrate
from distracted.postprocess.step import Inputs, LogProbs
from distracted.predictions.store import Store

WriteRun = Callable[..., None]
NUM_RUNS = 12
SMALLEST = np.log(np.finfo(np.float64).tiny)


@pytest.fixture(scope="module")
def sim() -> Simulated:
    """Predictions in float32, as stored ones are."""
    made = simulate(NUM_RUNS, num_images=300, seed=3)
    return replace(made, log_probs=made.log_probs.astype(np.float32))


class Held:
    """Arrays, as long as somebody else holds them."""

    def __init__(self) -> None:
        self.most, self._arrays = 0, list[weakref.ref[np.ndarray]]()

    def add(self, array: np.ndarray) -> np.ndarray:
        self._arrays.append(weakref.ref(array))
        self.most = max(self.most, len(self))
        return array

    def __len__(self) -> int:
        return sum(array() is not None for array in self._arrays)


def runs_on_demand(log_probs: np.ndarray, held: Held) -> Inputs:
    """Runs that are made when they are asked for."""
    return Inputs([lambda run=run: held.add(run.copy()) for run in log_probs])


@pytest.mark.parametrize("blender", ALL_BLENDERS, ids=lambda blender: blender.key)
def test_a_pool_reads_one_run_after_another(blender: Blender, sim: Simulated) -> None:
    weights = blender.fit_weights(sim.log_probs, sim.labels)
    held = Held()
    pooled = blender.pool(runs_on_demand(sim.log_probs, held), weights)
    assert held.most <= 2  # a new one is made before the last one is let go
    np.testing.assert_array_equal(pooled, blender.pool(sim.log_probs, weights))


@pytest.mark.parametrize("blender", ALL_BLENDERS, ids=lambda blender: blender.key)
def test_a_fit_reads_one_run_after_another(blender: Blender, sim: Simulated) -> None:
    """It may keep a copy of what it needs, such as the true class's column."""
    held = Held()
    weights = blender.fit_weights(runs_on_demand(sim.log_probs, held), sim.labels)
    assert held.most <= 2
    np.testing.assert_array_equal(weights, blender.fit_weights(sim.log_probs, sim.labels))


@pytest.mark.parametrize("blender", ALL_BLENDERS, ids=lambda blender: blender.key)
def test_float32_loses_nothing_of_stored_predictions(blender: Blender, sim: Simulated) -> None:
    double = sim.log_probs.astype(np.float64)
    weights = blender.fit_weights(sim.log_probs, sim.labels)
    np.testing.assert_array_equal(weights, blender.fit_weights(double, sim.labels))
    np.testing.assert_array_equal(blender.pool(sim.log_probs, weights), blender.pool(double, weights))


@pytest.mark.parametrize("key", ["log_linear_pool", "stacking"])
def test_a_fit_in_blocks_of_rows_is_the_fit_of_all_rows(
    key: str, sim: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    [blender] = find_blenders([key])
    whole = blender.fit_weights(sim.log_probs, sim.labels)
    monkeypatch.setattr(pools, "_BLOCK", 7 * NUM_RUNS * 5)
    np.testing.assert_allclose(blender.fit_weights(sim.log_probs, sim.labels), whole, atol=1e-6)


def test_pools_are_the_weighted_means_that_they_say(sim: Simulated) -> None:
    """Also where all runs are nearly certain, and probabilities are too small for a float."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(NUM_RUNS)) * (rng.random(NUM_RUNS) < 0.7)
    weights /= weights.sum()
    by_class = rng.dirichlet(np.ones(NUM_RUNS), 5).T
    for log_probs in (sim.log_probs, log_softmax(900 * sim.log_probs.astype(np.float64), axis=2)):
        arithmetic = logsumexp(log_probs, axis=0, b=weights[:, None, None])
        each_class = np.maximum(logsumexp(log_probs, axis=0, b=by_class[:, None, :]), SMALLEST)
        geometric = log_softmax(np.tensordot(weights, log_probs.astype(np.float64), axes=1), axis=1)
        np.testing.assert_allclose(pools.pool_arithmetic(log_probs, weights), arithmetic, atol=1e-6)
        np.testing.assert_allclose(pools.pool_geometric(log_probs, weights), geometric, atol=1e-9)
        each_class = log_softmax(each_class, axis=1)
        np.testing.assert_allclose(pools.pool_by_class(log_probs, by_class), each_class, atol=1e-6)


def test_without_weight_a_geometric_mean_is_uniform(sim: Simulated) -> None:
    pooled = pools.pool_geometric(sim.log_probs, np.zeros(NUM_RUNS))
    np.testing.assert_allclose(pooled, np.log(1 / 5))


def test_what_steps_predict_for_a_fit_is_dropped_after_it(sim: Simulated) -> None:
    """Of 100 calibrated members it would be gigabytes."""
    held = Held()

    class Watched(Calibrate):
        def predict(self, *args: object) -> LogProbs:
            return held.add(super().predict(*args))

    members = [FittedSource(Watched(("temperature",)), [run]) for run in sim.sources()[:3]]
    fit = cross_fit(members)
    assert held.most > 3 and len(held) == 0
    again = cross_fit([FittedSource(Calibrate(("temperature",)), [run]) for run in sim.sources()[:3]])
    assert fit.log_probs.tobytes() == again.log_probs.tobytes()


def test_a_member_retrained_while_it_is_blended_leaves_the_old_blend(
    store: Store, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its test set is read last: nothing is written then, and the next command blends again."""
    for seed, run in enumerate("ab"):
        write_run(run, seed=seed, skill=2.0)
    blend_runs(store)
    before = store.read_run("ensemble")

    def retrain_then_fit(*args: object, **options: object) -> object:
        write_run("b", seed=7, skill=2.0, folds=(2,))
        return cross_fit(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(blend, "cross_fit", retrain_then_fit)
        with pytest.raises(StoreError, match="b, fold 2 was made again just now; repeat the command"):
            blend_runs(store, force=True)
    assert store.read_run("ensemble") is before
    assert blend_runs(store).fit is not None
