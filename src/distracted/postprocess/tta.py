"""`make tta`: test-time augmentation; the mean over several views of each image is a run like any other."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from distracted.postprocess.derived import Derivation, Gain, measure_gain
from distracted.postprocess.step import NetworkStep
from distracted.predictions.manifest import Manifest
from distracted.predictions.run import StoredRun
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RuntimeConfig

if TYPE_CHECKING:
    from distracted.data.picture_sets import Images
    from distracted.inference.views import View
    from distracted.postprocess.networks import Trained


@dataclass(frozen=True)
class Augment(NetworkStep):
    """Averages a network's predictions of several views of each image.

    The views are given, not chosen: a choice among them would be a fit.
    """

    views: "tuple[View, ...]"
    average: str = "probs"
    name: ClassVar[str] = "tta"
    suffix: ClassVar[str] = "tta"
    target: ClassVar[str] = "tta"
    version: ClassVar[int | None] = None

    @classmethod
    def load(cls, store: Store, run: StoredRun) -> Self:
        from distracted.inference.views import View

        stored = run.manifests[0].config["step"]
        return cls(tuple(View(**view) for view in stored["views"]), stored["average"])

    @classmethod
    def command(cls, settings: Mapping[str, Any], run: str, parents: Sequence[str]) -> str:
        return f"make tta RUN={' '.join(parents)} NAME={run}, with its VIEWS"

    def predict(
        self, trained: "Sequence[Trained]", images: "Images", rows: NDArray[np.int64], label: str
    ) -> NDArray[np.float64]:
        from distracted.inference.views import average_views

        networks = [one.network for one in trained]
        by_network = trained[0].feed.log_probs_of_views(networks, images, rows, self.views, label)
        return np.stack([average_views(by_view, self.average) for by_view in by_network])


def augment_run(
    store: Store,
    *,
    run: str,
    views: "Sequence[View]",
    average: str = "probs",
    name: str = "",
    runtime: RuntimeConfig,
    force: bool = False,
    patience: float = 0.0,
    after_fold: Callable[[Manifest], None] = lambda manifest: None,
    progress: Progress = silent,
) -> Gain:
    """Predict held-out and test images under several views and write the means as a derived run.

    Only fold k's network sees fold k's images. Finished folds are skipped while the run they were made from
    is unchanged.

    Args:
        run: A trained, complete run.
        name: Name of the new run; by default <run>_tta.
        runtime: How to run here.
        patience: Seconds to wait for another process that works on the run.
        after_fold: Called with the manifest of each fold that is made.

    Raises:
        ConfigError: an unknown `average`, or the device is unavailable.
        StoreError: the run is missing, incomplete or without networks, or the name is taken.
        WeightsError: a fold's network is gone, damaged or another.
        ImageError: an image cannot be read.
    """
    from distracted.data.picture_sets import Images
    from distracted.inference.views import check_average
    from distracted.postprocess.networks import load_trained

    parent, step = store.read_run(run), Augment(tuple(views), check_average(average))
    name = name or f"{run}_{step.suffix}"
    with store.hold(name, patience=patience):
        derivation = Derivation(store, [parent], name, step, force=force)
        train, test = Images.to_train(store.competition), Images.to_test(store.competition)
        folds, of_test = list(derivation.folds), dict[int, NDArray[np.float64]]()
        begin = time.perf_counter()
        networks = [load_trained(store, parent, fold, runtime=runtime, progress=progress) for fold in folds]
        if networks:  # all in one pass: each test image is decoded once
            of_test = dict(
                zip(folds, step.predict(networks, test, test.rows, f"{name}, test set"), strict=True)
            )
        share = (time.perf_counter() - begin) / max(1, len(folds))
        for fold, trained in zip(folds, networks, strict=True):
            start, rows = time.perf_counter(), store.folds.valid(fold)
            (of_valid,) = step.predict([trained], train, rows, f"{name}, fold {fold}, held-out subjects")
            seconds = share + time.perf_counter() - start
            manifest = derivation.write(
                fold,
                valid=of_valid,
                test=of_test[fold],
                seconds=seconds,
                images_per_second=(len(rows) + len(test.rows)) / seconds,
                details={"num_views": len(views), "seconds_per_view": seconds / len(views)},
            )
            after_fold(manifest)
    return measure_gain(store, [parent], name)
