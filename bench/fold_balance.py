"""Balance of the folds and seconds to make them, compared with scikit-learn's StratifiedGroupKFold.

    PYTHONPATH=scripts python bench/fold_balance.py --counts <CSV of images by driver and class>

Without --counts, State Farm's images are spread evenly over its drivers. The other lists are drawn: images by
subject and class from Poisson distributions whose means differ by subject.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

import console
from distracted.data.balance import measure_balance
from distracted.data.split import split_by_subject
from markdown_table import say_header, say_row
from simulated_state_farm import read_counts

Ints = NDArray[np.int64]

NUM_SEEDS = 32  # of StratifiedGroupKFold, of which the best is taken
MOST_FOR_SKLEARN = 2_000  # subjects: it takes 0.2 ms a subject and seed


def main(
    counts: Annotated[Path | None, typer.Option(help="CSV: driver,c0,...,c9.")] = None,
    folds: Annotated[str, typer.Option(help="Numbers of folds.")] = "5 10 13",
) -> None:
    """Print a table: each list and number of folds, by both ways."""
    rng = np.random.default_rng(0)
    lists = {"State Farm": read_counts(counts, 1.0)}
    for num_subjects in (156, 1_500, 10_000):
        means = rng.gamma(2, 1, (num_subjects, 1)) * np.ones(10)
        lists[f"{num_subjects:,} drawn subjects"] = rng.poisson(means)
    say_header(["list", "folds", "way", "imbalance", "largest deviation of a size", "of a class", "seconds"])
    for name, table in lists.items():
        subjects, labels = np.indices(table.shape)
        rows = np.repeat(labels.ravel(), table.ravel()), np.repeat(subjects.ravel(), table.ravel())
        for num_folds in map(int, folds.split()):
            compare(name, *rows, num_folds)


def compare(name: str, labels: Ints, subjects: Ints, num_folds: int) -> None:
    """Print a row for each way to split one list."""
    ways: dict[str, Callable[[Ints, Ints, int], Ints | None]] = {"search": split_by_subject}
    if len(np.unique(subjects)) <= MOST_FOR_SKLEARN:
        ways[f"best of {NUM_SEEDS} seeds of StratifiedGroupKFold"] = best_of_sklearn
    for way, split in ways.items():
        start = time.perf_counter()
        parts = split(labels, subjects, num_folds)
        seconds = time.perf_counter() - start
        assert parts is not None
        balance = measure_balance(labels, parts, num_folds)
        numbers = f"{balance.imbalance:.4g}", f"{balance.size:.2%}", f"{100 * balance.share:.2f} points"
        say_row([name, str(num_folds), way, *numbers, f"{seconds:.2f}"])


def best_of_sklearn(labels: Ints, subjects: Ints, num_folds: int) -> Ints:
    """The split with the least imbalance among several seeds."""
    from sklearn.model_selection import StratifiedGroupKFold

    splits = []
    for seed in range(NUM_SEEDS):
        splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
        parts = np.empty(len(labels), dtype=np.int64)
        for part, (_, valid) in enumerate(splitter.split(labels, labels, subjects)):
            parts[valid] = part
        splits.append(parts)
    return min(splits, key=lambda parts: measure_balance(labels, parts, num_folds).imbalance)


if __name__ == "__main__":
    console.run(main)
