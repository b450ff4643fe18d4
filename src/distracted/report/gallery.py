"""The images that a run predicts worst, with Grad-CAM of the network behind the prediction."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from distracted.audit.mistakes import RowScores, top_classes, worst_rows
from distracted.data.images import read_rgb
from distracted.data.picture_sets import Images
from distracted.ensemble.contributions import read_contributions
from distracted.errors import DistractedError, StoreError, first_line
from distracted.inference.gradcam import class_activation
from distracted.inference.memory import naming_exhausted_memory
from distracted.metrics import prior_log_loss
from distracted.postprocess.networks import Trained, load_trained
from distracted.predictions.catalogue import score_run
from distracted.predictions.manifest import Manifest
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.report.sheets import as_uri, heat_over, shrink
from distracted.schema import RuntimeConfig

_log = logging.getLogger(__name__)

_WIDTH = 192  # pixels


@dataclass(frozen=True)
class Mistake:
    """One of the images with the largest losses.

    Attributes:
        top: The most probable classes with their probabilities.
        picture: The image as a data: URI.
        cam_predicted, cam_true: The image overlaid with Grad-CAM of that class, as a data: URI, or "".
    """

    img: str
    subject: str
    fold: int
    loss: float
    label: str
    predicted: str
    top: list[tuple[str, float]]
    picture: str
    cam_predicted: str = ""
    cam_true: str = ""


def make_gallery(
    store: Store,
    scored: RowScores,
    *,
    runtime: RuntimeConfig | None,
    num: int = 60,
    progress: Progress = silent,
) -> tuple[list[Mistake], str]:
    """The worst rows of a run with their images, and with Grad-CAM if `runtime` is given.

    Returns:
        The mistakes, the worst first, and the name of the run whose networks Grad-CAM used, or "".
    """
    table = worst_rows(scored, num=num)
    rows = table.index.to_list()
    paths, classes = store.competition.train_paths(), scored.classes
    cams: dict[int, tuple[np.ndarray, float]] = {}
    seen_by = find_networks(store, scored.run) if runtime is not None and rows else None
    if seen_by is not None and runtime is not None:
        cams = dict(_grad_cam(store, seen_by, scored, rows, runtime, progress))
    mistakes = []
    for row, top, record in zip(rows, top_classes(scored, rows), table.to_dict("records"), strict=True):
        small = shrink(read_rgb(paths[row]), width=_WIDTH)
        overlays = ["", ""]
        if row in cams:
            maps, crop = cams[row]
            overlays = [as_uri(heat_over(small, heat, crop=crop)) for heat in maps]
        mistake = Mistake(
            **{key: record[key] for key in ("img", "subject", "fold", "loss")},
            label=classes[record["label"]],
            predicted=classes[record["predicted"]],
            top=[(classes[label], prob) for label, prob in top],
            picture=as_uri(small),
            cam_predicted=overlays[0],
            cam_true=overlays[1],
        )
        mistakes.append(mistake)
    return mistakes, seen_by.name if seen_by is not None and cams else ""


def find_networks(store: Store, run: str) -> Run | None:
    """The trained run behind a run whose networks are still on disk; in a blend, the most useful member's."""
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
        names += _parents_by_worth(store, manifest)
    return None


def _parents_by_worth(store: Store, manifest: Manifest) -> list[str]:
    """A run's parents that have predictions, the most useful first.

    In a blend these are the members that it loses most without (in one of an older version: that have most
    weight). Members that do not beat the class prior come last: they see nothing in an image, yet a blend may
    use them to soften the others, and lose little without one of two good members that err alike.
    """
    parents = [parent.run for parent in manifest.parents if store.finished_folds(parent.run)]
    worth = {name: one.loss for name, one in read_contributions(manifest.details).items()}
    worth = worth or manifest.details.get("on_all_folds", {}).get("weights", {})
    return sorted(parents, key=lambda name: (not _beats_prior(store, name), -worth.get(name, 0.0)))


def _beats_prior(store: Store, run: str) -> bool:
    folds = store.folds
    prior = prior_log_loss(folds.labels, folds.ids, store.competition.num_classes)
    with suppress(StoreError):
        return score_run(store, store.find_run(run))["log_loss"] < prior
    return False


def _grad_cam(
    store: Store, run: Run, scored: RowScores, rows: Sequence[int], runtime: RuntimeConfig, progress: Progress
) -> Iterator[tuple[int, tuple[np.ndarray, float]]]:
    """For each row: its number, maps of its predicted and true class (2, h, w), and the evaluation crop.

    A row's maps come from the network of the fold that held it out.
    """
    table = scored.table.loc[list(rows)]
    with progress("Grad-CAM of the worst mistakes", total=len(rows), unit="img") as step:
        for fold in run.folds:
            held_out = table[table["fold"] == fold]
            if held_out.empty:
                continue
            held_out_rows = held_out.index.to_numpy(np.int64)
            classes = held_out[["predicted", "label"]].to_numpy(np.int64)
            try:
                trained = load_trained(store, run, fold, runtime=runtime)
                with naming_exhausted_memory():
                    maps = list(_maps(store, trained, held_out_rows, classes))
            except DistractedError as error:
                _log.warning("no Grad-CAM for fold %d: %s", fold, first_line(error))
                continue
            step(len(maps))
            for row, both in maps:
                yield row, (both, float(trained.feed.resolved.config.model.crop))


def _maps(
    store: Store, trained: Trained, rows: np.ndarray, classes: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    images = Images.to_train(store.competition)
    done = 0
    for batch in trained.feed.loader(images, rows).epoch():
        size = len(batch.images)
        maps = class_activation(trained.network, batch.images, classes[done : done + size])
        done += size
        if maps is not None:
            yield from zip(batch.indices.tolist(), maps, strict=True)
