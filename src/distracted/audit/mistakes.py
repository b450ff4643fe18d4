"""Error analysis of a run: by class, subject and fold, its reliability, and its worst rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.metrics import log_losses
from distracted.predictions.run import Run
from distracted.predictions.store import Store

_BINS = 10


@dataclass(frozen=True, eq=False)
class RowScores:
    """Out-of-fold predictions and losses of a run, row by row.

    Attributes:
        table: One row per image, indexed by its row in `Competition.train`: img, subject, fold, label and
            predicted (class ids), loss, confidence (probability of the predicted class), of_true
            (probability of the true class).
        log_probs: In the table's order, shape (num_images, num_classes).
    """

    run: str
    classes: tuple[str, ...]
    table: pd.DataFrame
    log_probs: NDArray[np.float64]


def score_rows(store: Store, run: Run, rows: NDArray[np.int64] | None = None) -> RowScores:
    """Score a run's out-of-fold predictions row by row.

    Args:
        rows: Rows to score; by default all held-out rows of the run's folds.
    """
    if rows is None:
        rows = np.flatnonzero(np.isin(store.folds.ids, run.folds))
    log_probs, labels = run.oof[rows], store.folds.labels[rows]
    table = store.folds.table.assign(subject=store.folds.subject_names)
    table = table.loc[rows, ["img", "subject", "fold", "label"]]
    numbers = np.arange(len(rows))
    predicted = log_probs.argmax(axis=1)
    table = table.assign(
        predicted=predicted,
        loss=log_losses(log_probs, labels),
        confidence=np.exp(log_probs[numbers, predicted]),
        of_true=np.exp(log_probs[numbers, labels]),
    )
    return RowScores(run.name, store.competition.classes, table, log_probs)


def confusion(scored: RowScores) -> NDArray[np.int64]:
    """Confusion matrix: images by true class (rows) and predicted class, shape (num_classes, num_classes)."""
    num = len(scored.classes)
    pairs = scored.table["label"].to_numpy() * num + scored.table["predicted"].to_numpy()
    counts: NDArray[np.int64] = np.bincount(pairs, minlength=num * num).reshape(num, num)
    return counts


def confused_pairs(scored: RowScores, *, num: int = 10) -> pd.DataFrame:
    """Pairs of classes with the largest loss from confusing them.

    Returns:
        Columns label, predicted, images, share (of the label's images), loss (summed).
    """
    table = scored.table
    wrong = table[table["label"] != table["predicted"]]
    pairs = wrong.groupby(["label", "predicted"])["loss"].agg(images="size", loss="sum").reset_index()
    sizes = table["label"].value_counts()
    pairs["share"] = pairs["images"] / pairs["label"].map(sizes)
    return pairs.sort_values("loss", ascending=False, ignore_index=True).head(num)


def losses_by(scored: RowScores, key: str) -> pd.DataFrame:
    """Group losses by "label", "subject" or "fold".

    Returns:
        Columns `key`, images, loss (mean), accuracy, share (of the total loss).
    """
    table = scored.table.assign(right=scored.table["label"] == scored.table["predicted"])
    groups = table.groupby(key, observed=True)
    losses = groups.agg(images=("loss", "size"), loss=("loss", "mean"), accuracy=("right", "mean"))
    total = float(table["loss"].sum())
    losses["share"] = groups["loss"].sum() / total if total else 0.0
    return losses.reset_index()


@dataclass(frozen=True, eq=False)
class Reliability:
    """Reliability diagram: accuracy by confidence, in bins by rising confidence, empty ones left out.

    Attributes:
        confidence, accuracy: Means of each bin.
        low, high: Wilson's 95% interval of the accuracy, as if images were independent.
        images: Number of images in each bin.
        error: Expected calibration error: mean over rows of |accuracy - confidence| of their bin.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    images: NDArray[np.int64]
    error: float


def reliability(scored: RowScores) -> Reliability:
    """Compare confidence and accuracy in ten bins of equal width (Guo et al. 2017)."""
    confidence = scored.table["confidence"].to_numpy()
    right = (scored.table["label"] == scored.table["predicted"]).to_numpy(np.float64)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    images = np.bincount(bins, minlength=_BINS)
    filled = images > 0
    images = images[filled]
    mean_confidence, accuracy = (
        np.bincount(bins, values, minlength=_BINS)[filled] / images for values in (confidence, right)
    )
    error = float((images * np.abs(mean_confidence - accuracy)).sum() / len(confidence))
    low, high = _wilson(accuracy, images)
    return Reliability(mean_confidence, accuracy, low, high, images, error)


def _wilson(share: NDArray[np.float64], num: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """95% interval of a proportion of `num` trials (Wilson 1927); contains the proportion."""
    z = 1.96
    centre = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * np.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return np.minimum(centre - half, share), np.maximum(centre + half, share)


def worst_rows(scored: RowScores, *, num: int = 60, per_class: int = 3) -> pd.DataFrame:
    """The `num` rows with the largest losses and the worst `per_class` of each class, the worst first.

    Only rows whose prediction is wrong or whose true class has a probability below one half.
    """
    table = scored.table.sort_values("loss", ascending=False, kind="stable")
    table = table[(table["label"] != table["predicted"]) | (table["of_true"] < 0.5)]
    taken = table.index[:num].union(table.groupby("label").head(per_class).index, sort=False)
    return table.loc[table.index.isin(taken)]


def top_classes(scored: RowScores, rows: Sequence[int], *, num: int = 3) -> list[list[tuple[int, float]]]:
    """The most probable classes of some rows (given by the table's index), with their probabilities."""
    positions = scored.table.index.get_indexer(pd.Index(rows))
    tops = []
    for log_probs in scored.log_probs[positions]:
        best = np.argsort(-log_probs, kind="stable")[:num]
        tops.append([(int(label), float(np.exp(log_probs[label]))) for label in best])
    return tops
