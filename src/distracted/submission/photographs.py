"""`make predict`: new photographs, predicted by a run as its test set was."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.data.names import in_utf8
from distracted.data.picture_sets import Images
from distracted.data.walk import LeftOut
from distracted.ensemble.members import open_sources
from distracted.errors import ImageError, StoreError
from distracted.files import atomic_path
from distracted.inference.views import VIEWS, average_views
from distracted.postprocess.networks import load_trained
from distracted.postprocess.step import NetworkStep, Step, Subset
from distracted.postprocess.steps import needs_all_images, open_step
from distracted.postprocess.tta import Augment
from distracted.predictions.lineage import ancestors
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RuntimeConfig
from distracted.submission.photograph_files import find_photographs


@dataclass(frozen=True)
class Photographs:
    """Predictions of new photographs.

    Attributes:
        names: Paths of the readable photographs, relative to the folder.
        probs: Probability of each class, (num_photographs, num_classes).
        unreadable: Photographs that cannot be read, with the message as the advice.
        left_out: What else is in the folder.
    """

    names: list[str]
    probs: NDArray[np.float64]
    unreadable: list[LeftOut]
    left_out: list[LeftOut]

    @property
    def errors(self) -> list[str]:
        return [item.advice for item in self.unreadable]


def predict_photographs(
    store: Store, run: Run, folder: Path, *, runtime: RuntimeConfig, progress: Progress = silent
) -> Photographs:
    """Predict the photographs in a folder and its subfolders, or a single one, by a complete run.

    They are predicted like test images: each fold's networks predict, a blend or a calibration does what it
    does for that fold, and probabilities are averaged over the folds.

    Raises:
        DataError: no such folder, or no readable photograph in it.
        StoreError: the run holds a step that needs all test images together, or has no networks.
        WeightsError: a network is gone, damaged, or not the one that predicted.
    """
    check_steps(store, run)
    found = find_photographs(folder, progress=progress)
    while True:
        try:
            probs = _predict(store, run, found.paths, runtime, progress)
            break
        except ImageError:  # complete by its structure, but not to be decoded, or gone by now: rare
            before, found = len(found.paths), found.without_unreadable(progress)
            if len(found.paths) in (0, before):
                raise
    names = [path.relative_to(found.folder).as_posix() for path in found.paths]
    return Photographs(names, probs, found.unreadable, found.left_out)


def _predict(
    store: Store, run: Run, paths: list[Path], runtime: RuntimeConfig, progress: Progress
) -> NDArray[np.float64]:
    """Probability of each class, (num_photographs, num_classes)."""
    photographs = Images(paths, ["" for _ in paths])

    @cache
    def predict(name: str) -> NDArray[np.float64]:
        return _by_networks(store, store.read_run(name), photographs, runtime, progress)

    [source] = open_sources(store, [run], from_networks=True)
    source = source.with_test_set(predict)
    by_fold = [source.predict(Subset(fold, test=True), frozenset({fold})) for fold in run.folds]
    return np.exp(average_views(np.stack(by_fold), "probs"))


def write_photographs(path: Path, photographs: Photographs, classes: Sequence[str]) -> None:
    """Write a CSV like a submission's: img, and a column of probabilities for each class."""
    table = pd.DataFrame(photographs.probs, columns=list(classes))
    table.insert(0, "img", [in_utf8(name) for name in photographs.names])
    has_returns = any("\r" in name for name in photographs.names)  # which the csv module leaves unquoted
    quoting: Literal[0, 2] = 2 if has_returns else 0  # csv.QUOTE_NONNUMERIC, csv.QUOTE_MINIMAL
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.8g", lineterminator="\n", quoting=quoting)


def write_left_out(path: Path, photographs: Photographs) -> None:
    """Write a CSV of all files that were not predicted: name, kind, advice."""
    items = [map(in_utf8, item) for item in (*photographs.unreadable, *photographs.left_out)]
    table = pd.DataFrame(items, columns=list(LeftOut._fields))
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", quoting=2)  # csv.QUOTE_NONNUMERIC


def check_steps(store: Store, run: Run) -> None:
    """Refuse a run with a step on all test images together: a few photographs are not the test set."""
    for name in ancestors(store, run.name):
        if does := needs_all_images(store.manifests(name)[0]):
            raise StoreError(
                f"NAME={run.name}: {name} {does}, which takes all test images together; take the run that it "
                "was made from, or a blend without it"
            )


def _by_networks(
    store: Store, run: Run, photographs: Images, runtime: RuntimeConfig, progress: Progress
) -> NDArray[np.float64]:
    """Log-probabilities by each fold's network, (num_folds, num_images, num_classes)."""
    step: Step = Augment(VIEWS["centre"])  # what a trained run's networks see
    if run.kind == "derived":
        step, run = open_step(store, run), store.read_run(run.manifests[0].parents[0].run)
    assert isinstance(step, NetworkStep)
    trained = [load_trained(store, run, fold, runtime=runtime, progress=progress) for fold in run.folds]
    return step.predict(trained, photographs, photographs.rows, f"{run.name}, photographs")
