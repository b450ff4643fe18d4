"""Resolves the config of a run that may have been begun."""

import logging
from typing import Any

import torch

from distracted.errors import WeightsError
from distracted.postprocess.pseudo import with_teachers
from distracted.predictions.store import Store
from distracted.schema import RunConfig, hash_config
from distracted.training.checkpoints import newest_made_for
from distracted.training.resolve import Resolved, resolve

_log = logging.getLogger(__name__)


#: Settings whose `auto` another version of the project may fill in otherwise.
_SIZES = ("model", "image_size"), ("augment", "size")


def resolve_run(
    store: Store, config: RunConfig, run: str, *, force: bool = False, device: torch.device | None = None
) -> Resolved:
    """Resolve a run's config, its teachers included.

    A run that was begun goes on with the sizes that `auto` meant at that time, if nothing else has changed.
    Where `auto` finds no weights, a run begun from random ones goes on with those.

    Args:
        force: The run begins again.
        device: As in `resolve`.

    Raises:
        ConfigError, WeightsError: as `resolve`.
        StoreError: as `with_teachers`.
    """
    config = with_teachers(store, config, student=run)
    begun = [] if force else _begun_configs(store, run)
    at_random = bool(begun) and all(stored.get("model", {}).get("weights") == "none" for stored in begun)

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

    now, hashes = resolved(config), {hash_config(stored) for stored in begun}
    if now.config.hash in hashes or (with_sizes := _with_sizes_of(config, begun)) == config:
        return now
    then = resolved(with_sizes)
    if then.config.hash not in hashes:
        return now
    size = then.config.model.image_size
    _log.info("%s goes on with images of %s pixels, as it was begun", run, size)
    return then


def _begun_configs(store: Store, run: str) -> list[dict[str, Any]]:
    """Resolved configs of a run's finished folds and newest checkpoints."""
    numbers = range(store.folds.num_folds)
    stored = [manifest.config for fold in numbers if (manifest := store.find_manifest(run, fold)) is not None]
    newest = [made for fold in numbers if (made := newest_made_for(store.scratch(run, fold))) is not None]
    return [*stored, *(made_for.get("config", {}) for made_for in newest)]


def _with_sizes_of(config: RunConfig, begun: list[dict[str, Any]]) -> RunConfig:
    """The config with the sizes of a begun run in place of `auto`."""
    for section, key in _SIZES:
        part = getattr(config, section)
        sizes = {stored[section].get(key) for stored in begun if section in stored}
        if getattr(part, key) == "auto" and len(sizes) == 1:
            config = config.model_copy(update={section: part.model_copy(update={key: sizes.pop()})})
    return config
