"""Resolves the config of a run that may have been begun, also by an earlier version of the project."""

import logging
from collections.abc import Collection
from typing import Any

import torch

from distracted.errors import WeightsError
from distracted.jobs.fold import is_to_redo
from distracted.postprocess.pseudo import with_teachers
from distracted.predictions.store import Store
from distracted.schema import RunConfig, hash_config
from distracted.training.checkpoints import newest_made_for
from distracted.training.resolve import Resolved, resolve

_log = logging.getLogger(__name__)

#: Image sizes that models' files had in versions 0.2 and before, where they say `auto` now. At that time
#: networks were trained on images of the size that they predict.
_FORMER_SIZES = dict.fromkeys(
    ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"), 128
)


def resolve_run(
    store: Store,
    config: RunConfig,
    run: str,
    *,
    retrained: Collection[int] = (),
    device: torch.device | None = None,
) -> Resolved:
    """Resolve a run's config, its teachers included.

    A run that an earlier version began goes on with the sizes that `auto` stood for then, if nothing else has
    changed. Where `auto` finds no weights, a run begun from random ones goes on with those.

    Args:
        retrained: Folds that begin again.
        device: As in `resolve`.

    Raises:
        ConfigError, WeightsError: as `resolve`.
        StoreError: as `with_teachers`.
    """
    config = with_teachers(store, config, student=run)
    folds = [fold for fold in range(store.folds.num_folds) if fold not in retrained]
    found = {fold: store.find_manifest(run, fold) for fold in folds}
    manifests = {fold: manifest.config for fold, manifest in found.items() if manifest is not None}
    newest = [newest_made_for(store.scratch(run, fold)) for fold in folds]
    checkpoints = [made_for.get("config", {}) for made_for in newest if made_for is not None]
    stored = [*manifests.values(), *checkpoints]
    at_random = bool(stored) and all(one.get("model", {}).get("weights") == "none" for one in stored)

    def resolved(config: RunConfig) -> Resolved:
        try:
            return resolve(config, num_folds=store.folds.num_folds, device=device)
        except WeightsError:
            if config.model.weights != "auto" or not at_random:
                raise
            _log.warning("%s: no pretrained weights; going on from random ones, as it was begun", run)
            model = config.model.model_copy(update={"weights": "none"})
            again = config.model_copy(update={"model": model})
            return resolve(again, num_folds=store.folds.num_folds, device=device)

    now = resolved(config)
    begun = [one for fold, one in manifests.items() if not is_to_redo(store, run, fold, now.config.hash)]
    begun += checkpoints
    hashes = {hash_config(one) for one in begun}
    former = _with_former_sizes(config, now.config, begun)
    if now.config.hash in hashes or former == config:
        return now
    then = resolved(former)
    if then.config.hash not in hashes:
        return now
    sizes = (
        f"model.image_size={then.config.model.image_size}, augment.size={then.config.augment.size or 'null'}"
    )
    _log.info("%s goes on as it was begun: %s", run, sizes)
    return then


def _with_former_sizes(config: RunConfig, now: RunConfig, begun: list[dict[str, Any]]) -> RunConfig:
    """The config with the sizes of a begun run where an earlier version may have meant them.

    Args:
        now: The same, resolved.
        begun: Resolved configs of the run's folds.
    """
    former = _FORMER_SIZES.get(now.model.backbone)
    predicted = {one.get("model", {}).get("image_size") for one in begun}
    if config.model.image_size == "auto" and former is not None and predicted == {former}:
        config = config.model_copy(update={"model": config.model.model_copy(update={"image_size": former})})
    trained = {one.get("augment", {}).get("size") for one in begun}
    if config.augment.size == "auto" and trained == {None}:
        config = config.model_copy(update={"augment": config.augment.model_copy(update={"size": None})})
    return config
