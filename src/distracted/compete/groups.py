"""Two groups of folds: what predicts one of them is chosen by the labels of the other."""

from collections.abc import Sequence

Group = tuple[int, ...]


def two_groups(sizes: Sequence[int]) -> tuple[Group, Group]:
    """Folds in two groups of about equal size, from the sizes of the folds."""
    groups, totals = ([], []), [0, 0]  # type: tuple[list[int], list[int]], list[int]
    for fold in sorted(range(len(sizes)), key=lambda fold: (-sizes[fold], fold)):
        smaller = int(totals[1] < totals[0])
        groups[smaller].append(fold)
        totals[smaller] += sizes[fold]
    return tuple(sorted(groups[0])), tuple(sorted(groups[1]))


def other_folds(groups: Sequence[Group], group: Group) -> Group:
    """The folds by whose labels a group chooses."""
    return tuple(fold for other in groups if other != group for fold in other)
