"""With rows that are always trained on, only the held-out ones are fitted on, scored and written."""

from collections.abc import Callable

import numpy as np
import pytest

from distracted.ensemble.blend import blend_runs
from distracted.metrics import log_loss
from distracted.predictions.store import Store


@pytest.fixture(params=[1, 3], ids=["a single held-out split", "three folds"])
def store(request: pytest.FixtureRequest, store_with: Callable[[dict[str, int]], Store]) -> Store:
    """One subject a fold is held out; the others of the six are always trained on."""
    return store_with({f"p00{fold}": fold for fold in range(request.param)})


def test_rows_always_trained_on_are_never_scored(store: Store, write_run: Callable[..., None]) -> None:
    folds = tuple(range(store.folds.num_folds))
    scored = store.folds.ids >= 0
    assert 0 < scored.sum() < len(scored)
    for seed, run in enumerate("ab"):
        write_run(run, skill=3.0, seed=seed, folds=folds)
    ensemble = blend_runs(store)
    blend = store.read_run("ensemble")
    assert blend.folds == folds
    assert np.isnan(blend.oof[~scored]).all() and np.isfinite(blend.oof[scored]).all()
    labels = store.folds.labels[scored]
    assert ensemble.fit.log_probs.shape == (scored.sum(), 3)
    assert ensemble.interval.mean == pytest.approx(log_loss(blend.oof[scored], labels), rel=1e-6)
    assert ensemble.scores["a"] == log_loss(store.read_run("a").oof[scored], labels)
    if len(folds) < 3:
        assert [blender.name for blender in ensemble.fit.chosen] == ["arithmetic mean"]
