"""Split rows by subject into parts of equal size and class balance."""

import numpy as np
from numpy.typing import NDArray

from distracted.data.part_search import PartSearch, class_weights
from distracted.progress import Progress, silent

Ints = NDArray[np.int64]


def split_by_subject(
    labels: Ints, subjects: Ints, num_parts: int, *, seed: int = 0, progress: Progress = silent
) -> Ints | None:
    """Assign each row to a part so that no subject is in two parts and every class is outside of each part.

    A subject that alone shows a class can be in no part. The parts are balanced in size and in classes by a
    local search (`PartSearch`); the same rows and seed give the same parts with every version of every
    library. The best balanced part is part 0, the worst is the last.

    Args:
        labels: Class ids, shape (num_rows,).
        subjects: Subject ids, shape (num_rows,); ids may have gaps.

    Returns:
        Part of each row, 0-based, shape (num_rows,), or -1: the subject alone shows a class. None if no valid
        split was found.
    """
    classes, labels = np.unique(labels, return_inverse=True)
    names, subjects = np.unique(subjects, return_inverse=True)
    cells = np.bincount(subjects * len(classes) + labels, minlength=len(names) * len(classes))
    counts = cells.reshape(len(names), len(classes))
    alone = np.isin(np.arange(len(names)), subjects_alone(labels, subjects))
    free = np.flatnonzero(~alone)
    if len(free) < num_parts or num_parts < 2:
        return None
    parts = np.full(len(names), -1)
    if (counts[free].sum(axis=1) == 1).all():
        parts[free] = _deal(counts[free].argmax(axis=1), num_parts, seed)
    else:
        search = PartSearch(counts[free], counts[alone].sum(axis=0) == 0, num_parts, seed=seed)
        with progress("splitting by subject", total=len(free), unit="subject") as advance:
            search.run(advance)
        if search.key[0]:
            return None
        parts[free] = search.parts
    of_rows: Ints = parts[subjects]
    return _best_first(labels, of_rows, num_parts)


def subjects_alone(labels: Ints, subjects: Ints) -> Ints:
    """Ids of the subjects that alone show a class; arguments as in `split_by_subject`."""
    pairs = np.unique(np.stack([labels, subjects]), axis=1)
    single = np.bincount(pairs[0])[pairs[0]] == 1
    found: Ints = np.unique(pairs[1][single])
    return found


def _deal(labels: Ints, num_parts: int, seed: int) -> Ints:
    """Parts of images that are each their own subject: dealt out class by class, in random order."""
    order = np.random.RandomState(seed % 2**32).permutation(len(labels))  # as in PartSearch
    order = order[np.argsort(labels[order], kind="stable")]
    parts = np.empty(len(labels), dtype=np.int64)
    parts[order] = np.arange(len(labels)) % num_parts
    return parts


def _best_first(labels: Ints, parts: Ints, num_parts: int) -> Ints:
    """Number the parts by their own imbalance, equal ones by their first row."""
    counts = part_counts(labels, parts, num_parts)
    counts = np.column_stack([counts, counts.sum(axis=1)])
    totals = counts.sum(axis=0)
    weights = class_weights(totals, num_parts) // num_parts**2
    imbalance = (weights * (counts * num_parts - totals) ** 2).sum(axis=1)
    first = [int((parts == part).argmax()) for part in range(num_parts)]
    numbers = np.empty(num_parts + 1, dtype=np.int64)
    numbers[np.lexsort((first, imbalance))] = np.arange(num_parts)
    numbers[-1] = -1
    renumbered: Ints = numbers[parts]
    return renumbered


def part_counts(labels: Ints, parts: Ints, num_parts: int) -> Ints:
    """Rows by part and class, shape (num_parts, num_classes); rows of part -1 are left out."""
    num_classes, placed = int(labels.max()) + 1, parts >= 0
    cells = np.bincount(parts[placed] * num_classes + labels[placed], minlength=num_parts * num_classes)
    return cells.reshape(num_parts, num_classes)
