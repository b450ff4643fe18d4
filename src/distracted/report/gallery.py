"""A run's worst mistakes as pictures, and where a network saw what it said."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from distracted.audit.mistakes import RowScores, top_classes, worst_rows
from distracted.data.images import read_rgb
from distracted.errors import DistractedError, StoreError, first_line
from distracted.inference.gradcam import class_activation
from distracted.postprocess.networks import Trained, load_trained
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.report.sheets import as_uri, heat_over, shrink
from distracted.schema import RuntimeConfig
from distracted.training.feed import Images

_log = logging.getLogger(__name__)

_WIDTH = 192  # pixels


@dataclass(frozen=True)
class Mistake:
    """One of the rows that cost most.

    Attributes:
        row: In `Competition.train`.
        loss: Log loss; of_true: probability of the true class.
        top: The most probable classes with their probabilities.
        picture: A data: URI; for_predicted, for_true: the same with what speaks for that class laid over it,
            or "".
    """

    row: int
    img: str
    subject: str
    fold: int
    label: str
    predicted: str
    loss: float
    of_true: float
    top: list[tuple[str, float]]
    picture: str
    for_predicted: str = ""
    for_true: str = ""


def make_gallery(
    store: Store,
    scored: RowScores,
    *,
    runtime: RuntimeConfig | None,
    num: int = 60,
    progress: Progress = silent,
) -> tuple[list[Mistake], str]:
    """The worst rows of a run with their pictures; with `runtime` Grad-CAM of the network behind it, too.

    Returns:
        The mistakes, the worst first, and the run whose networks were looked into, or "".
    """
    table = worst_rows(scored, num=num)
    rows = table.index.to_list()
    paths, classes = store.competition.train_paths(), scored.classes
    tops = top_classes(scored, rows)
    heats: dict[int, tuple[np.ndarray, float]] = {}
    seen_by = find_networks(store, scored.run) if runtime is not None and rows else None
    if seen_by is not None and runtime is not None:
        heats = dict(_look(store, seen_by, scored, rows, runtime, progress))
    found = []
    for row, top, record in zip(rows, tops, table.to_dict("records"), strict=True):
        image = read_rgb(paths[row])
        small = shrink(image, width=_WIDTH)
        overlays = ["", ""]
        if row in heats:
            maps, crop = heats[row]
            overlays = [as_uri(heat_over(small, heat, crop=crop)) for heat in maps]
        found.append(
            Mistake(
                row=row,
                img=record["img"],
                subject=record["subject"],
                fold=record["fold"],
                label=classes[record["label"]],
                predicted=classes[record["predicted"]],
                loss=record["loss"],
                of_true=record["of_true"],
                top=[(classes[label], prob) for label, prob in top],
                picture=as_uri(small),
                for_predicted=overlays[0],
                for_true=overlays[1],
            )
        )
    return found, seen_by.name if seen_by is not None and heats else ""


def find_networks(store: Store, run: str) -> Run | None:
    """The trained run behind a run whose networks are still there: of a blend, the one that weighs most."""
    names = [run]
    while names:
        name = names.pop(0)
        try:
            manifest = store.manifests(name)[0]
            if manifest.kind == "model":
                folds = store.finished_folds(name)
                if all(store.workspace.network(store.competition.name, name, f).is_file() for f in folds):
                    return store.read_run(name, partial=True)
                continue
        except StoreError as error:
            _log.warning("no Grad-CAM by %s: %s", name, first_line(error))
            continue
        weights = manifest.details.get("on_all_folds", {}).get("weights", {})
        parents = sorted((p.run for p in manifest.parents), key=lambda parent: -weights.get(parent, 0.0))
        names += [parent for parent in parents if store.finished_folds(parent)]
    return None


def _look(
    store: Store, run: Run, scored: RowScores, rows: Sequence[int], runtime: RuntimeConfig, progress: Progress
) -> Iterator[tuple[int, tuple[np.ndarray, float]]]:
    """Of each row, maps of its predicted and of its true class, (2, h, w), and the share that was seen."""
    table = scored.table.loc[list(rows)]
    with progress("Grad-CAM of the worst mistakes", total=len(rows), unit="img") as step:
        for fold in run.folds:
            part = table[table["fold"] == fold]
            if part.empty:
                continue
            try:
                trained = load_trained(store, run, fold, runtime=runtime)
            except DistractedError as error:
                _log.warning("no Grad-CAM for fold %d: %s", fold, first_line(error))
                continue
            classes = part[["predicted", "label"]].to_numpy(np.int64)
            for row, maps in _maps(store, trained, part.index.to_numpy(np.int64), classes):
                step()
                yield row, (maps, float(trained.feed.settled.config.model.crop))


def _maps(
    store: Store, trained: Trained, rows: np.ndarray, classes: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    images = Images.to_train(store.competition)
    done = 0
    for batch in trained.feed.loader(images, rows).epoch():
        size = len(batch.images)
        found = class_activation(trained.network, batch.images, classes[done : done + size])
        done += size
        if found is not None:
            yield from zip(batch.indices.tolist(), found, strict=True)
