"""The networks of a finished run, loaded again for steps that need more than their stored predictions."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from distracted.data.picture_sets import Images
from distracted.errors import ConfigError, StoreError, WeightsError
from distracted.files import sha256_file
from distracted.inference.device import find_device, find_precision
from distracted.models.network import Network
from distracted.models.saved import load_network
from distracted.models.weights import Weights
from distracted.predictions.manifest import Manifest
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RunConfig, RuntimeConfig
from distracted.training.feed import Feed
from distracted.training.resolve import Resolved

_log = logging.getLogger(__name__)

_NUM_CHECKED = 64  # held-out images whose stored predictions the network has to repeat
# Mean error of their log-probabilities, as a share of how much those differ between images. On trained
# networks bf16 for fp32 gave 0.01 to 0.04, another fold's network 0.17 to 0.57.
_TOLERANCE = 0.1


@dataclass(frozen=True)
class Trained:
    """One fold's network, on its device in eval mode, with the feed that gives it images as in its run."""

    network: Network
    feed: Feed


def load_trained(
    store: Store,
    run: Run,
    fold: int,
    *,
    runtime: RuntimeConfig,
    in_fp32: bool = False,
    progress: Progress = silent,
) -> Trained:
    """Load the network that made a fold's predictions, and check that it repeats them.

    It predicts some of the fold's held-out images again. This rejects another fold's network, which has
    trained on them, and one that was trained later. Where the images are missing, its SHA-256 is compared.

    Args:
        run: A run that has the fold.
        runtime: How to run here; everything else is as in the run.
        in_fp32: Predict in fp32, whatever the run's precision; so it is where that is unavailable, too.

    Raises:
        StoreError: the run has no networks, or its config is of another version of the project.
        WeightsError: the network is gone, damaged, or not the one that predicted.
        ConfigError: the device is unavailable.
    """
    if run.kind != "model":
        raise StoreError(
            f"RUN={run.name}: a {run.kind} run has no networks of its own; expected a trained run (kind "
            "model, in make status)"
        )
    manifest = run.manifests[run.folds.index(fold)]
    path = store.workspace.network(store.competition.name, run.name, fold)
    config = _run_config(store, manifest.config, runtime, f"{run.name}, fold {fold}")
    classes = store.competition.classes
    network = load_network(path, config, config_hash=manifest.config_hash, classes=classes)
    device = find_device(runtime.device)
    try:
        find_precision(config.training.precision, device, config.model.backbone)
    except ConfigError:
        _log.info("%s: %s is unavailable here; fp32 instead", run.name, config.training.precision)
        in_fp32 = True
    if in_fp32:
        training = config.training.model_copy(update={"precision": "fp32"})
        config = config.model_copy(update={"training": training})
    resolved = Resolved(config, Weights(f"file:{path.name}", path), device)
    feed = Feed(resolved, store.workspace.cache(store.competition.name), progress)
    trained = Trained(network.to(device), feed)
    if store.competition.has_images:
        _check_predictions(store, run, fold, trained, path)
    else:
        _check_file(manifest, path)
    return trained


def _check_predictions(store: Store, run: Run, fold: int, trained: Trained, path: Path) -> None:
    """Refuse a network that does not repeat the fold's stored predictions."""
    rows = store.folds.valid(fold)[:_NUM_CHECKED]
    stored = run.oof[rows]
    train = Images.to_train(store.competition)
    log_probs = trained.feed.log_probs(trained.network, train, rows, "checking the network")
    off, spread = np.abs(log_probs - stored).mean(), np.abs(stored - stored.mean(axis=0)).mean()
    if off > _TOLERANCE * spread + 1e-4:  # 1e-4 for networks that predict the same for every image
        raise WeightsError(
            f"{path}: this is not the network that predicted {run.name}, fold {fold}: its log-probabilities "
            f"are {off:.2g} off the stored ones on average; restore it, or FORCE=1 trains the fold again"
        )


def _check_file(manifest: Manifest, path: Path) -> None:
    """Without training images: refuse a network file that does not have the hash in the fold's manifest."""
    name = f"{manifest.run}, fold {manifest.fold}"
    if not manifest.network_sha256:  # written by 0.2.0 or earlier
        _log.warning("%s: no images here: only its network's config and classes could be checked", name)
    elif sha256_file(path) != manifest.network_sha256:
        raise WeightsError(
            f"{path}: not the network that predicted {name}: its SHA-256 is not the manifest's; restore it"
        )
    else:
        _log.info("%s: its network was checked by its SHA-256 (no training images here)", name)


def _run_config(store: Store, stored: dict[str, Any], runtime: RuntimeConfig, where: str) -> RunConfig:
    data = {**stored.get("data", {}), "folder": store.competition.config.folder}
    try:
        return RunConfig.model_validate({**stored, "data": data, "runtime": runtime})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"{where}: its config is of another version of the project ({key}: {first['msg'].lower()}); "
            "FORCE=1 trains it again"
        ) from error
