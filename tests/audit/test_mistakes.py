"""Where a run errs: known answers on a handful of rows."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from distracted.audit.mistakes import (
    RowScores,
    confused_pairs,
    confusion,
    losses_by,
    reliability,
    score_rows,
    top_classes,
    worst_rows,
)
from distracted.metrics import log_losses
from distracted.predictions.store import Store

PROBS = np.array([[0.7, 0.2, 0.1], [0.45, 0.35, 0.2], [0.1, 0.8, 0.1], [0.05, 0.9, 0.05], [0.35, 0.25, 0.4]])
LABELS = np.array([0, 1, 1, 2, 2])


@pytest.fixture
def scored() -> RowScores:
    log_probs = np.log(PROBS)
    table = pd.DataFrame(
        {
            "img": [f"{n}.jpg" for n in range(5)],
            "subject": ["a", "a", "b", "b", "b"],
            "fold": [0, 0, 1, 1, 1],
            "label": LABELS,
            "predicted": PROBS.argmax(1),
            "loss": log_losses(log_probs, LABELS),
            "confidence": PROBS.max(1),
            "of_true": PROBS[np.arange(5), LABELS],
        },
        index=[10, 20, 30, 40, 50],
    )
    return RowScores("run", ("x", "y", "z"), table, log_probs)


def test_confusion_counts_by_true_and_predicted_class(scored: RowScores) -> None:
    assert confusion(scored).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_confused_pairs_come_by_what_they_cost(scored: RowScores) -> None:
    pairs = confused_pairs(scored)
    assert pairs[["label", "predicted", "images"]].to_numpy().tolist() == [[2, 1, 1], [1, 0, 1]]
    assert pairs["loss"].tolist() == pytest.approx([-np.log(0.05), -np.log(0.35)])
    assert pairs["share"].tolist() == [0.5, 0.5]


def test_losses_by_subject_add_up_to_the_whole(scored: RowScores) -> None:
    found = losses_by(scored, "subject")
    assert found["images"].tolist() == [2, 3]
    assert found["accuracy"].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert found["share"].sum() == pytest.approx(1)
    assert found["loss"].tolist() == pytest.approx(
        [-np.log([0.7, 0.35]).mean(), -np.log([0.8, 0.05, 0.4]).mean()]
    )


def test_reliability_bins_by_confidence(scored: RowScores) -> None:
    found = reliability(scored)
    assert found.images.tolist() == [2, 1, 1, 1]  # 0.45 and 0.4; 0.7; 0.8; 0.9
    assert found.confidence.tolist() == pytest.approx([0.425, 0.7, 0.8, 0.9])
    assert found.accuracy.tolist() == [0.5, 1, 1, 0]
    assert (found.low <= found.accuracy).all() and (found.accuracy <= found.high).all()
    assert (found.low[1], found.high[1]) == pytest.approx((0.2065, 1.0), abs=1e-4)  # one of one
    assert found.error == pytest.approx((2 * 0.075 + 0.3 + 0.2 + 0.9) / 5)


def test_the_worst_rows_are_wrong_or_unsure_and_of_every_class(scored: RowScores) -> None:
    assert worst_rows(scored).index.tolist() == [40, 20, 50]  # the other two are right and sure
    assert worst_rows(scored, num=1, per_class=0).index.tolist() == [40]
    assert worst_rows(scored, num=1, per_class=1).index.tolist() == [40, 20]
    assert top_classes(scored, [40], num=2) == [[(1, pytest.approx(0.9)), (0, pytest.approx(0.05))]]


def test_rows_are_judged_by_the_network_that_held_them_out(
    store: Store, write_run: Callable[..., None]
) -> None:
    write_run("a")
    run = store.read_run("a")
    scored = score_rows(store, run)
    assert scored.table["img"].tolist() == store.competition.train["img"].tolist()
    losses = log_losses(run.oof, store.folds.labels)
    assert scored.table["loss"].tolist() == losses.tolist()
    write_run("part", folds=(1,))
    part = score_rows(store, store.read_run("part", partial=True))
    assert set(part.table["fold"]) == {1} and np.isfinite(part.log_probs).all()
