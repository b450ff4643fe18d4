"""From what the config asks for to what the run is: every `auto` settled before anything is trained."""

from dataclasses import dataclass

import torch

from distracted.errors import ConfigError, WeightsError
from distracted.inference.device import Precision, find_device, find_precision
from distracted.models.network import find_backbone
from distracted.models.weights import Weights, find_weights, trained_on
from distracted.schema import RunConfig, TrainPhase


@dataclass(frozen=True)
class Settled:
    """A config without `auto`, and what belongs to it on this machine.

    Attributes:
        config: Its hash is the run's.
        weights: Where they come from, with a note for each fallback.
    """

    config: RunConfig
    weights: Weights
    device: torch.device

    @property
    def precision(self) -> Precision:
        precision = self.config.training.precision
        assert precision != "auto"
        return precision


def settle(config: RunConfig, *, num_folds: int) -> Settled:
    """Settle weights, image size, crop, precision, number of folds, and which phases apply.

    Args:
        num_folds: How many folds there really are.

    Raises:
        ConfigError, WeightsError: something that was asked for by name cannot be had.
    """
    backbone = find_backbone(config.model.backbone)
    device = find_device(config.runtime.device)
    weights = find_weights(config.model.backbone, config.model.weights, repo=backbone.repo)
    if trained_on(weights) == config.data.name:
        raise WeightsError(
            f"model.weights={config.model.weights}: this network learned from labels of {config.data.name}, "
            "some of which it would be scored on; start from weights that come from elsewhere"
        )
    model = config.model.model_copy(
        update={
            "weights": weights.origin,
            "weights_sha256": weights.sha256,
            "image_size": backbone.image_size
            if config.model.image_size == "auto"
            else config.model.image_size,
            "crop": backbone.crop if config.model.crop == "auto" else config.model.crop,
        }
    )
    situation = "pretrained" if weights.pretrained else "random"
    phases = {name: phase for name, phase in config.phases.items() if phase.when in (situation, "always")}
    if not phases:
        raise ConfigError(
            f"phases: none of {', '.join(config.phases)} applies to {situation} weights (`when`)"
        )
    used = {config.augment.policy} | {
        p.augment for p in phases.values() if isinstance(p, TrainPhase) and p.augment
    }
    augment = config.augment.model_copy(
        update={"policies": {name: config.augment.policies[name] for name in sorted(used)}}
    )
    training = config.training.model_copy(
        update={"precision": find_precision(config.training.precision, device), "num_folds": num_folds}
    )
    update = {"model": model, "phases": phases, "augment": augment, "training": training}
    return Settled(config.model_copy(update=update), weights, device)
