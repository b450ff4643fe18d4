"""Rows of fold -1 are always trained on: no fold holds them out and no run predicts them."""

from collections.abc import Callable

import numpy as np
import pytest

from distracted.predictions.store import Store


@pytest.fixture
def store(store_with: Callable[[dict[str, int]], Store]) -> Store:
    """Six subjects: two are held out in fold 0, one in fold 1, and three never."""
    return store_with({"p000": 0, "p001": 0, "p002": 1})


def test_rows_always_trained_on_have_no_prediction(store: Store, write_run: Callable[..., None]) -> None:
    assert store.folds.num_folds == 2
    write_run("a", folds=(0, 1))
    run = store.read_run("a")
    always = store.folds.ids == -1
    assert always.sum() == 27
    assert np.isnan(run.oof[always]).all() and np.isfinite(run.oof[~always]).all()
    assert run.folds == (0, 1) and np.isfinite(run.test_log_probs).all()
