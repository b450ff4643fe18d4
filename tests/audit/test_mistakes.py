"""Error analysis: known answers on a handful of rows."""

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


def test_confused_pairs_are_ordered_by_loss(scored: RowScores) -> None:
    pairs = confused_pairs(scored)
    assert pairs[["label", "predicted", "images"]].to_numpy().tolist() == [[2, 1, 1], [1, 0, 1]]
    assert pairs["loss"].tolist() == pytest.approx([-np.log(0.05), -np.log(0.35)])
    assert pairs["share"].tolist() == [0.5, 0.5]


def test_losses_by_subject_sum_to_the_total(scored: RowScores) -> None:
    losses = losses_by(scored, "subject")
    assert losses["images"].tolist() == [2, 3]
    assert losses["accuracy"].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert losses["share"].sum() == pytest.approx(1)
    assert losses["loss"].tolist() == pytest.approx(
        [-np.log([0.7, 0.35]).mean(), -np.log([0.8, 0.05, 0.4]).mean()]
    )


def test_reliability_bins_by_confidence(scored: RowScores) -> None:
    diagram = reliability(scored)
    assert diagram.images.tolist() == [2, 1, 1, 1]  # 0.45 and 0.4; 0.7; 0.8; 0.9
    assert diagram.confidence.tolist() == pytest.approx([0.425, 0.7, 0.8, 0.9])
    assert diagram.accuracy.tolist() == [0.5, 1, 1, 0]
    assert (diagram.low <= diagram.accuracy).all() and (diagram.accuracy <= diagram.high).all()
    assert (diagram.low[1], diagram.high[1]) == pytest.approx((0.2065, 1.0), abs=1e-4)  # one of one
    assert diagram.error == pytest.approx((2 * 0.075 + 0.3 + 0.2 + 0.9) / 5)


def test_the_worst_rows_are_wrong_or_unsure_and_cover_every_class(scored: RowScores) -> None:
    assert worst_rows(scored).index.tolist() == [40, 20, 50]  # the other two are right and confident
    assert worst_rows(scored, num=1, per_class=0).index.tolist() == [40]
    assert worst_rows(scored, num=1, per_class=1).index.tolist() == [40, 20]
    assert top_classes(scored, [40], num=2) == [[(1, pytest.approx(0.9)), (0, pytest.approx(0.05))]]


def test_rows_are_scored_by_the_network_that_held_them_out(
    store: Store, write_run: Callable[..., None]
) -> None:
    write_run("a")
    run = store.read_run("a")
    scored = score_rows(store, run)
    assert scored.table["img"].tolist() == store.competition.train["img"].tolist()
    losses = log_losses(run.oof, store.folds.labels)
    assert scored.table["loss"].tolist() == losses.tolist()
    write_run("incomplete", folds=(1,))
    held_out = score_rows(store, store.read_run("incomplete", partial=True))
    assert set(held_out.table["fold"]) == {1} and np.isfinite(held_out.log_probs).all()
