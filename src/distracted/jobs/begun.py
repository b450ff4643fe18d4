"""Resolves the config of a run that may have been begun."""

import logging

import torch

from distracted.errors import WeightsError
from distracted.predictions.store import Store
from distracted.schema import RunConfig
from distracted.training.checkpoints import newest_state
from distracted.training.resolve import Resolved, resolve

_log = logging.getLogger(__name__)


def resolve_run(
    store: Store, config: RunConfig, run: str, *, force: bool = False, device: torch.device | None = None
) -> Resolved:
    """Resolve a run's config. Where `auto` finds no weights, a run begun from random ones goes on with those.

    Args:
        force: The run begins again.
        device: As in `resolve`.

    Raises:
        ConfigError, WeightsError: as `resolve`.
    """
    try:
        return resolve(config, num_folds=store.folds.num_folds, device=device)
    except WeightsError:
        if config.model.weights != "auto" or force or not _began_at_random(store, run):
            raise
        _log.warning("%s: no pretrained weights; going on from random ones, as it was begun", run)
        model = config.model.model_copy(update={"weights": "none"})
        return resolve(
            config.model_copy(update={"model": model}), num_folds=store.folds.num_folds, device=device
        )


def _began_at_random(store: Store, run: str) -> bool:
    """Whether all of a run's finished folds and checkpoints are from random weights, and there are some."""
    numbers = range(store.folds.num_folds)
    stored = [manifest.config for fold in numbers if (manifest := store.find_manifest(run, fold)) is not None]
    newest = [state for fold in numbers if (state := newest_state(store.scratch(run, fold))) is not None]
    configs = [*stored, *(made_for.get("config", {}) for _, made_for, _ in newest)]
    return bool(configs) and all(config.get("model", {}).get("weights") == "none" for config in configs)
