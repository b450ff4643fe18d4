"""make folds: read and check the competition, make its folds, and say what was found."""

import numpy as np

import console
from distracted.data.audit import check_split
from distracted.data.balance import measure_balance
from distracted.predictions.store import Store

_MOST_CLASSES = 30  # that are shown one by one


def main(
    data: console.Data = "state_farm",
    set: console.Set = "",
    root: console.Root = console.HERE,
) -> None:
    """Check the competition's folder, make the folds that every model shares, and audit them."""
    # Any model will do: the split is the same for all of them.
    config = console.run_config("resnet50", data, set, root)
    store = console.open_store(config.data, root, config.runtime, num_folds=config.training.num_folds)
    describe(store)
    check_split(store.competition, store.folds)


def describe(store: Store) -> None:
    """Print what the competition holds and how it is split."""
    competition = store.competition
    train, table = competition.train, store.folds.table.assign(subject=store.folds.subject_names)
    per_subject = table["subject"].value_counts()
    console.say(
        f"{competition.name}: {len(train):,} training images of {competition.num_subjects} subjects "
        f"({per_subject.min()} to {per_subject.max()} each), {len(competition.test):,} test images, "
        f"{competition.num_classes} classes"
    )
    if competition.has_images:
        unlisted = " and ".join(f"{len(names):,} in {part}" for part, names in competition.unlisted.items())
        console.say(f"pictures on disk that no list names: {unlisted}")
    classes, per_class = competition.classes, train["classname"].value_counts()
    are_few = len(classes) <= _MOST_CLASSES
    fewest, most = per_class.index[-1], per_class.index[0]
    span = f"{per_class[fewest]} ({fewest}) to {per_class[most]} ({most})"
    console.say(
        "images a class: " + (", ".join(f"{name} {per_class[name]}" for name in classes) if are_few else span)
    )
    rows = []
    for fold, part in table.groupby("fold"):
        counts = np.bincount(part["label"], minlength=len(classes)).tolist()
        by_class = " ".join(map(str, counts)) if are_few else f"{min(counts)} to {max(counts)}"
        rows.append([str(fold), str(len(part)), str(part["subject"].nunique()), by_class])
    names = f" ({' '.join(classes)})" if are_few else ""
    console.table("folds, held-out side", ["fold", "images", "subjects", f"images a class{names}"], rows)
    if store.folds.num_folds > 1:
        balance = measure_balance(store.folds.labels, store.folds.ids, store.folds.num_folds)
        console.say(
            f"balance: the size of a fold differs from the mean by at most {balance.size:.1%} (fold "
            f"{balance.size_fold}), the share of a class from its share in all folds by at most "
            f"{100 * balance.share:.1f} percentage points ({classes[balance.share_class]} in fold "
            f"{balance.share_fold})"
        )


if __name__ == "__main__":
    console.run(main)
