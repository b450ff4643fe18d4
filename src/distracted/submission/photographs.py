"""`make predict`: new photographs, predicted by a run as its test set was."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.cores import decoding_threads
from distracted.data.images import check_bytes, read_bytes, read_rgb
from distracted.data.picture_sets import Images
from distracted.ensemble.members import open_sources
from distracted.errors import DataError, ImageError, StoreError
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

#: Files that count as photographs.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Photographs:
    """Predictions of new photographs.

    Attributes:
        names: Paths of the readable photographs, relative to the folder.
        probs: Probability of each class, (num_photographs, num_classes).
        errors: One message for each unreadable photograph.
    """

    names: list[str]
    probs: NDArray[np.float64]
    errors: list[str]


def predict_photographs(
    store: Store, run: Run, folder: Path, *, runtime: RuntimeConfig, progress: Progress = silent
) -> Photographs:
    """Predict the photographs in a folder and its subfolders by a complete run.

    They are predicted like test images: each fold's networks predict, a blend or a calibration does what it
    does for that fold, and probabilities are averaged over the folds.

    Raises:
        DataError: no such folder, or no readable photograph in it.
        StoreError: the run holds a step that needs all test images together, or has no networks.
        WeightsError: a network is gone, damaged, or not the one that predicted.
    """
    check_steps(store, run)
    paths, errors = find_photographs(folder, progress=progress)
    try:
        probs = _predict(store, run, paths, runtime, progress)
    except ImageError:  # complete by its markers, but not to be decoded: rare, so only now all are decoded
        paths, errors = find_photographs(folder, decode=True, progress=progress)
        probs = _predict(store, run, paths, runtime, progress)
    return Photographs([path.relative_to(folder).as_posix() for path in paths], probs, errors)


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
    table.insert(0, "img", photographs.names)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.8g", lineterminator="\n")


def find_photographs(
    folder: Path, *, decode: bool = False, progress: Progress = silent
) -> tuple[list[Path], list[str]]:
    """The readable photographs in a folder, by name, and an error for each of the others.

    Args:
        decode: Decode each; by default only look whether the file is a complete image.

    Raises:
        DataError: no such folder, or no readable photograph in it.
    """
    if not folder.is_dir():
        raise DataError(f"IMAGES={folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"IMAGES={folder}: no photographs in it ({', '.join(SUFFIXES)})")
    readable, errors = [], []
    check = partial(_read_error, decode=decode)
    with (
        progress("reading photographs", total=len(paths), unit="img") as step,
        ThreadPoolExecutor(decoding_threads()) as pool,
    ):
        for path, error in zip(paths, pool.map(check, paths), strict=True):
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


def _read_error(path: Path, *, decode: bool) -> str | None:
    try:
        if decode:
            read_rgb(path)
        else:
            check_bytes(read_bytes(path), path)
    except ImageError as error:
        return str(error)
    return None


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
