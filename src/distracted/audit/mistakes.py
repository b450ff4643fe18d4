"""Where a run errs: by class, by subject and by fold, how sure it was, and its worst rows."""

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
    """A run's held-out rows with what is known of them.

    Attributes:
        table: One row an image: img, subject, fold, label, predicted (class ids), loss, confidence (the
            probability of the predicted class), of_true (of the true one); the index is the row in
            `Competition.train`.
        log_probs: In the table's order, (num_images, num_classes).
    """

    run: str
    classes: tuple[str, ...]
    table: pd.DataFrame
    log_probs: NDArray[np.float64]


def score_rows(store: Store, run: Run, rows: NDArray[np.int64] | None = None) -> RowScores:
    """Judge every row that a run has predicted without having trained on it.

    Args:
        rows: Those to judge; by default all that some fold of the run holds out.
    """
    if rows is None:
        rows = np.flatnonzero(np.isin(store.folds.ids, run.folds))
    log_probs, labels = run.oof[rows], store.folds.labels[rows]
    table = store.folds.table.loc[rows, ["img", "subject", "fold", "label"]]
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
    """Images by true class (rows) and predicted class (columns), (num_classes, num_classes)."""
    num = len(scored.classes)
    pairs = scored.table["label"].to_numpy() * num + scored.table["predicted"].to_numpy()
    counts: NDArray[np.int64] = np.bincount(pairs, minlength=num * num).reshape(num, num)
    return counts


def confused_pairs(scored: RowScores, *, num: int = 10) -> pd.DataFrame:
    """The pairs of classes that cost most: label, predicted, images, share (of the label's), loss (sum)."""
    table = scored.table
    wrong = table[table["label"] != table["predicted"]]
    found = wrong.groupby(["label", "predicted"])["loss"].agg(images="size", loss="sum").reset_index()
    sizes = table["label"].value_counts()
    found["share"] = found["images"] / found["label"].map(sizes)
    return found.sort_values("loss", ascending=False, ignore_index=True).head(num)


def losses_by(scored: RowScores, key: str) -> pd.DataFrame:
    """By "label", "subject" or "fold": images, loss (mean), accuracy, share (of the whole loss)."""
    table = scored.table.assign(right=scored.table["label"] == scored.table["predicted"])
    grouped = table.groupby(key, observed=True)
    found = grouped.agg(images=("loss", "size"), loss=("loss", "mean"), accuracy=("right", "mean"))
    total = float(table["loss"].sum())
    found["share"] = grouped["loss"].sum() / total if total else 0.0
    return found.reset_index()


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often a run was right when it was so sure.

    Attributes:
        confidence, accuracy: Mean of each bin that has rows, by rising confidence; low, high: 95% interval of
            the accuracy (Wilson's, images taken for independent); images: in the bin.
        error: Expected calibration error: mean over rows of |accuracy - confidence| of their bin.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    images: NDArray[np.int64]
    error: float


def reliability(scored: RowScores) -> Reliability:
    """Confidence beside accuracy in ten bins of equal width (Guo et al. 2017)."""
    confidence = scored.table["confidence"].to_numpy()
    right = (scored.table["label"] == scored.table["predicted"]).to_numpy(np.float64)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    images = np.bincount(bins, minlength=_BINS)
    there = images > 0
    means = [
        np.bincount(bins, values, minlength=_BINS)[there] / images[there] for values in (confidence, right)
    ]
    error = float((images[there] * np.abs(means[0] - means[1])).sum() / len(confidence))
    low, high = _wilson(means[1], images[there])
    return Reliability(means[0], means[1], low, high, images[there], error)


def _wilson(share: NDArray[np.float64], num: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """95% interval of a share of so many (Wilson 1927); it always holds the share."""
    z = 1.96
    centre = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * np.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return np.minimum(centre - half, share), np.maximum(centre + half, share)


def worst_rows(scored: RowScores, *, num: int = 60, per_class: int = 3) -> pd.DataFrame:
    """The rows that cost most, the worst first; the worst few of each class among them.

    Only rows whose predicted class is wrong, or whose true class has less than half of the probability.
    """
    table = scored.table.sort_values("loss", ascending=False, kind="stable")
    table = table[(table["label"] != table["predicted"]) | (table["of_true"] < 0.5)]
    taken = table.index[:num].union(table.groupby("label").head(per_class).index, sort=False)
    return table.loc[table.index.isin(taken)]


def top_classes(scored: RowScores, rows: Sequence[int], *, num: int = 3) -> list[list[tuple[int, float]]]:
    """Of some rows (the table's index) the most probable classes, each with its probability."""
    positions = scored.table.index.get_indexer(pd.Index(rows))
    found = []
    for log_probs in scored.log_probs[positions]:
        best = np.argsort(-log_probs, kind="stable")[:num]
        found.append([(int(label), float(np.exp(log_probs[label]))) for label in best])
    return found
