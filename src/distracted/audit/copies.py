"""Files with the same bytes, and what the lists say of each image."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.findings import Check, pair_findings
from distracted.predictions.store import Store

_MAX_PARTNERS = 8  # of each copy of a file, unless there are more folds


def check_exact(store: Store) -> list[Check]:
    """Look for files with the same bytes: across subjects, across train and test, and within a subject."""
    contents = pd.concat(
        [store.competition.train["content"], store.competition.test["content"]], ignore_index=True
    )
    rows = ListedRows.of(store)
    across: list[tuple[int, tuple[int, int]]] = []
    within: list[tuple[int, tuple[int, int]]] = []
    for copies in contents[contents.duplicated(keep=False)].groupby(contents).groups.values():
        leaks, repeats = _pairs_of_copies(rows, [int(row) for row in copies])
        across += enumerate(leaks)
        within += enumerate(repeats)
    leak = (
        "Under two subjects, in two classes, or in training and test set: one copy is trained on while "
        "the other is scored, or one of two labels is wrong. Candidates for the drop list."
    )
    harmless = "These images count twice in training. They do not leak: a subject's images share a fold."
    title = "Repeated files of one subject and class"
    findings, repeated = (
        pair_findings(store.competition, [pair for _, pair in sorted(ranked)])  # of each file one pair first
        for ranked in (across, within)
    )
    return [
        Check("exact_duplicates", "The same file twice", leak, "error", findings),
        Check("repeated_files", title, harmless, "note", repeated),
    ]


@dataclass(frozen=True)
class ListedRows:
    """What the images' lists say, by row in the training set followed by the test set.

    Attributes:
        subjects, labels, folds: Ids, shape (num_images,); -2 for the test set, whose subjects are unknown.
    """

    subjects: NDArray[np.int64]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]

    @classmethod
    def of(cls, store: Store) -> Self:
        unknown = np.full(len(store.competition.test), -2, dtype=np.int64)
        folds = store.folds
        return cls(*(np.concatenate([ids, unknown]) for ids in (folds.subjects, folds.labels, folds.ids)))


def _pairs_of_copies(
    rows: ListedRows, copies: list[int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs that stand for all copies of one file: those that leak or contradict each other, and repeats.

    All pairs of n copies would be n squared. Each copy is paired with the first one of each other subject and
    class and of the test set: with one in every fold, and else with 8 at most. So no leak is left out.
    """
    first: dict[tuple[int, int], int] = {}
    repeats = []
    for row in copies:
        key = int(rows.subjects[row]), int(rows.labels[row])
        if first.setdefault(key, row) != row and key != (-2, -2):
            repeats.append((first[key], row))
    by_fold = {int(rows.folds[row]): row for row in reversed(first.values())}
    others = [*by_fold.values(), *(row for row in first.values() if row not in by_fold.values())]
    others = others[: max(_MAX_PARTNERS, len(by_fold))]
    leaks = {
        (min(row, other), max(row, other))
        for row in copies
        for other in others
        if (rows.subjects[row], rows.labels[row]) != (rows.subjects[other], rows.labels[other])
    }
    return sorted(leaks), repeats
