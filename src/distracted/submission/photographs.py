"""`make predict`: new photographs, seen by a run's networks as the test set was."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from distracted.data.images import read_rgb
from distracted.ensemble.members import open_sources, scored_rows
from distracted.ensemble.sources import of_other_images
from distracted.errors import DataError, ImageError, StoreError
from distracted.files import atomic_path
from distracted.inference.views import VIEWS, View, average_views
from distracted.postprocess.networks import load_trained
from distracted.postprocess.step import Subset
from distracted.predictions.lineage import ancestors
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RuntimeConfig
from distracted.training.feed import Images

#: Files that are taken for photographs.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

#: A step over all test images together, which a folder of others is not; and a word for it.
_TOGETHER = {"smooth": "averages images that look alike", "prior": "meets the classes' shares"}


@dataclass(frozen=True)
class Photographs:
    """Predictions of new photographs.

    Attributes:
        names: Of those that could be read, below the folder.
        probs: Of each class, (num_photographs, num_classes).
        errors: Of those that could not be read.
    """

    names: list[str]
    probs: NDArray[np.float64]
    errors: list[str]


def predict_photographs(
    store: Store, run: Run, folder: Path, *, runtime: RuntimeConfig, progress: Progress = silent
) -> Photographs:
    """Predict a folder of photographs, and of the folders in it, by a complete run.

    As of a test image: each fold's networks predict, a blend or a calibration does to them what it does for
    that fold, and the mean of probabilities over the folds is taken. All networks of a run share decoding.

    Args:
        runtime: How to run here; all else is as the run's networks were trained.

    Raises:
        DataError: no folder, or no photograph in it that can be read.
        StoreError: the run holds a step that is made on all test images together, or has no networks.
        WeightsError: a network is gone, damaged, or not the one that predicted.
    """
    check_steps(store, run)
    paths, errors = find_photographs(folder, progress=progress)
    photographs = Images(paths, ["" for _ in paths])

    @cache
    def predictions(name: str) -> NDArray[np.float64]:
        return _by_networks(store, store.read_run(name), photographs, runtime, progress)

    scored = scored_rows(store.folds)
    [source] = open_sources(store, [run], scored)
    source = of_other_images(source, predictions)
    by_fold = [source.predict(Subset(fold, test=True), frozenset({fold})) for fold in run.folds]
    probs = np.exp(average_views(np.stack(by_fold), "probs"))
    return Photographs([path.relative_to(folder).as_posix() for path in paths], probs, errors)


def write_photographs(path: Path, found: Photographs, classes: Sequence[str]) -> None:
    """A CSV as a submission's: img, and a column of probabilities for each class."""
    table = pd.DataFrame(found.probs, columns=list(classes))
    table.insert(0, "img", found.names)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.8g", lineterminator="\n")


def find_photographs(folder: Path, *, progress: Progress = silent) -> tuple[list[Path], list[str]]:
    """The photographs in a folder that can be read, by name, and what is wrong with the others.

    Raises:
        DataError: no folder, or none that can be read.
    """
    if not folder.is_dir():
        raise DataError(f"IMAGES={folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"IMAGES={folder}: no photographs in it ({', '.join(SUFFIXES)})")
    readable, errors = [], []
    with (
        progress("reading photographs", total=len(paths), unit="img") as step,
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
    ):
        for path, error in zip(paths, pool.map(_try, paths), strict=True):
            if error is None:
                readable.append(path)
            else:
                errors.append(error)
            step()
    if not readable:
        raise DataError(
            f"IMAGES={folder}: none of {len(paths)} photographs can be read; the first: {errors[0]}"
        )
    return readable, errors


def _try(path: Path) -> str | None:
    try:
        read_rgb(path)
    except ImageError as error:
        return str(error)
    return None


def check_steps(store: Store, run: Run) -> None:
    """Refuse a run that was made on all test images together: a few others would not do."""
    for name in ancestors(store, run.name):
        step: dict[str, Any] = store.manifests(name)[0].config.get("step", {})
        for key, does in _TOGETHER.items():
            if step.get("name") == key or key in step.get("parts", ()):
                raise StoreError(
                    f"NAME={run.name}: {name} {does}, which takes all test images together; take the run "
                    "that it was made of, or a blend without it"
                )


def _by_networks(
    store: Store, run: Run, photographs: Images, runtime: RuntimeConfig, progress: Progress
) -> NDArray[np.float64]:
    """Log-probabilities by each fold's network, (num_folds, num_images, num_classes)."""
    views, average = VIEWS["centre"], "probs"
    if run.kind == "derived":
        step = run.manifests[0].config["step"]
        views, average = tuple(View(**view) for view in step["views"]), step["average"]
        run = store.read_run(run.manifests[0].parents[0].run)
    trained = [load_trained(store, run, fold, runtime=runtime, progress=progress) for fold in run.folds]
    found = trained[0].feed.log_probs_of_views(
        [one.network for one in trained], photographs, photographs.rows, views, f"{run.name}, photographs"
    )
    return np.stack([average_views(of_fold, average) for of_fold in found])
