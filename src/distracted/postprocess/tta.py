"""`make tta`: a run's networks look at each picture in several ways, and the mean is a run like any other."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

from distracted.inference.views import View, average_views, check_average
from distracted.postprocess.derived import Derivation, Gain, measure_gain
from distracted.postprocess.networks import load_trained
from distracted.predictions.manifest import Manifest
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RuntimeConfig
from distracted.training.feed import Images


def augment_run(
    store: Store,
    *,
    run: str,
    views: Sequence[View],
    average: str = "probs",
    name: str = "",
    runtime: RuntimeConfig,
    force: bool = False,
    after_fold: Callable[[Manifest], None] = lambda manifest: None,
    progress: Progress = silent,
) -> Gain:
    """Predict held-out and test images under several views and write the means as a derived run.

    Fold k's images are seen by fold k's network alone. The views are given, not chosen: a choice among them
    would be a fit. Finished folds are skipped unless forced, or made from predictions that are no more.

    Args:
        run: A trained, complete run.
        name: Of the run that is made; by default the run's, with `_tta`.
        runtime: How to run here.
        after_fold: Called with the manifest of each fold that is made.

    Raises:
        ConfigError: no such way to average, or no such device.
        StoreError: the run is missing, incomplete or without networks, or the name is taken.
        WeightsError: a fold's network is gone, damaged or another.
        ImageError: an image cannot be read.
    """
    parent = store.read_run(run)
    step = {"name": "tta", "views": [asdict(view) for view in views], "average": check_average(average)}
    name = name or f"{run}_tta"
    with store.hold(name):
        derivation = Derivation(store, [parent], name, step, force=force)
        train, test = Images.to_train(store.competition), Images.to_test(store.competition)
        for fold in derivation.folds:
            trained = load_trained(store, parent, fold, runtime=runtime, progress=progress)
            label, rows = f"{name}, fold {fold}", store.folds.valid(fold)
            start = time.perf_counter()
            look = partial(trained.feed.log_probs_of_views, [trained.network], views=views)
            [of_valid] = look(train, rows, label=f"{label}, held-out subjects")
            [of_test] = look(test, test.rows, label=f"{label}, test set")
            seconds = time.perf_counter() - start
            manifest = derivation.write(
                fold,
                valid=average_views(of_valid, average),
                test=average_views(of_test, average),
                seconds=seconds,
                images_per_second=(len(rows) + len(test.rows)) / seconds,
                details={"num_views": len(views), "seconds_per_view": seconds / len(views)},
            )
            after_fold(manifest)
    return measure_gain(store, parent, store.read_run(name))
