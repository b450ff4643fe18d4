"""A training that goes on keeps the inner holdout that it was begun with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distracted.data.earlier_holdout import earlier_holdout
from distracted.data.folds import split_holdout
from distracted.predictions.store import Store
from distracted.schema import RunConfig
from distracted.training.context import FoldContext
from distracted.training.metrics_log import Tracker
from distracted.training.resolve import resolve

SHARE = 0.25


@pytest.fixture
def context(store: Store, configure: Callable[..., RunConfig], tmp_path: Path) -> FoldContext:
    resolved = resolve(configure(f"training.holdout={SHARE}", "training.seed=3"), num_folds=3)
    competition, folds = store.competition, store.folds
    return FoldContext(resolved, 0, competition=competition, folds=folds, cache=tmp_path, tracker=Tracker())


def test_a_new_training_holds_back_a_part_of_its_side(context: FoldContext) -> None:
    rows, held_back = split_holdout(context.folds, 0, share=SHARE, seed=3)
    assert context.holdout_rows.tolist() == held_back.tolist()
    assert context.train_rows.tolist() == rows.tolist()


def test_a_checkpoint_says_which_rows_were_held_back(context: FoldContext) -> None:
    held_back = context.folds.train(0)[5:9]
    resumed = context.going_on_from({"holdout": torch.from_numpy(held_back)})
    assert resumed.holdout_rows.tolist() == held_back.tolist()
    assert sorted([*resumed.train_rows, *held_back]) == context.folds.train(0).tolist()


def test_a_checkpoint_of_an_earlier_version_does_not_say_it(context: FoldContext) -> None:
    """It goes on with the rows that version 0.2.0 chose."""
    resumed = context.going_on_from({})
    expected = earlier_holdout(context.folds, 0, share=SHARE, seed=3)
    assert len(expected) and resumed.holdout_rows.tolist() == expected.tolist()
    assert not np.isin(resumed.train_rows, expected).any()
