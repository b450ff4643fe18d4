"""How many errors, planted in a copy of a competition, `make audit` finds.

    OMP_NUM_THREADS=1 PYTHONPATH=scripts python bench/planted.py --source <folder> --root <folder>

Plants wrong labels, copies under another subject and black images (bench/planting.py), trains
EfficientNet-Lite0 on the copy with its default settings (finished folds are kept), and counts the findings of
each check. Subjects are also split in two, in memory, to count how many of these pairs are listed as subjects
that look alike.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

import audit
import console
import train
from distracted.audit.alike import subject_similarity
from distracted.audit.labels import blind_label_issues
from distracted.config import load_config
from distracted.data.picture_sets import Images
from distracted.paths import Workspace
from distracted.predictions.store import Store, open_store
from distracted.training.feed import pretrained_features
from distracted.training.resolve import resolve
from harness import size_setting
from markdown_table import say_header, say_row
from planting import Dose, plant

MODEL = "efficientnet_lite0"
SIZE = size_setting(MODEL)
CHECKS = {
    "flipped": "label_issues",
    "exact": "exact_duplicates",
    "recompressed": "near_duplicates",
    "black": "empty",
}


def main(
    source: Annotated[Path, typer.Option(help="A competition's folder.")],
    root: Annotated[Path, typer.Option(help="Where the copy and its runs go.")],
    seed: int = 0,
) -> None:
    """Print a table: for each kind of error, the numbers planted and found, recall and precision."""
    target = root / f"{source.name}-planted"
    truth = plant(source, target, Dose(), seed=seed)
    train.main(model=MODEL, data=str(target), set=SIZE, root=root)
    audit.main(data=str(target), root=root)
    config = load_config(model=MODEL, data=str(target), overrides=[SIZE], root=root)
    store = open_store(Workspace(root), config.data)
    folder = store.workspace.audit(store.competition.name)
    say_header(["planted", "number", "found", "recall", "precision"])
    for kind, key in CHECKS.items():
        reported = pd.read_csv(folder / f"{key}.csv", dtype=str, keep_default_na=False)
        planted = truth[truth["kind"] == kind]
        _say(kind, set(_names(planted)), set(_names(reported)))
    features = _features(store)
    wrong = set(truth.loc[truth["kind"] == "flipped", "img"])
    imgs = store.competition.train["img"].to_numpy()
    for fold, rows in blind_label_issues(features, store.folds):
        here = wrong & set(imgs[store.folds.train(fold)])
        _say(
            f"flipped, blind to fold {fold}",
            {frozenset([n]) for n in here},
            {frozenset([n]) for n in imgs[rows]},
        )
    clean = ~np.isin(imgs, truth["img"])
    _split_people(features[clean], store.folds.labels[clean], store.folds.subjects[clean])


def _names(table: pd.DataFrame) -> Iterator[frozenset[str]]:
    """The images of each finding, without order."""
    for img, other in table[["img", "other"]].to_numpy():
        yield frozenset(name for name in (img, other) if name)


def _say(kind: str, planted: set[frozenset[str]], reported: set[frozenset[str]]) -> None:
    right = len(planted & reported)
    recall, precision = right / max(1, len(planted)), right / max(1, len(reported))
    say_row([kind, str(len(planted)), str(len(reported)), f"{recall:.2f}", f"{precision:.2f}"])


def _features(store: Store) -> np.ndarray:
    config = load_config(model=MODEL, data=str(store.competition.config.folder), overrides=[SIZE])
    resolved = resolve(config, num_folds=store.folds.num_folds)
    images, cache = Images.to_train(store.competition), store.workspace.cache(store.competition.name)
    return pretrained_features(resolved, [images], cache, console.progress)[0]


def _split_people(features: np.ndarray, labels: np.ndarray, subjects: np.ndarray) -> None:
    """Split ten subjects in two, five times; counts these pairs among the 20 most similar."""
    right, num = 0, 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        split, planted = subjects.copy(), set()
        for number, subject in enumerate(rng.permutation(np.unique(subjects))[:10], start=subjects.max() + 1):
            own = rng.permutation(np.flatnonzero(subjects == subject))
            split[own[: len(own) // 2]] = number
            planted.add((int(subject), int(number)))
        ids, compact = np.unique(split, return_inverse=True)
        similarity = np.triu(subject_similarity(features, labels, compact), 1)
        order = np.argsort(-similarity, axis=None)[:20]
        reported = {
            (int(ids[left]), int(ids[right]))
            for left, right in zip(*np.unravel_index(order, similarity.shape), strict=True)
        }
        right, num = right + len(planted & reported), num + len(planted)
    say_row(
        [
            "one person under two names, first 20 pairs",
            str(num),
            "100",
            f"{right / num:.2f}",
            f"{right / 100:.2f}",
        ]
    )


if __name__ == "__main__":
    console.run(main)
