"""Resolves a config before anything is trained: every `auto` gets its value on this machine."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from distracted.errors import ConfigError, WeightsError
from distracted.inference.cards import describe
from distracted.inference.device import Precision, find_device, find_precision, find_workers
from distracted.models.backbone import Backbone, find_backbone
from distracted.models.weights import Weights, find_weights, trained_on
from distracted.schema import FeaturesPhase, ModelConfig, Phase, RunConfig, TrainingConfig, TrainPhase
from distracted.training.losses import check_loss

_log = logging.getLogger(__name__)

#: Size of training's images as a share of evaluation's, for `auto`; docs/evidence_transfer.md.
TRAINING_SHARE = 0.875
_MARGIN = 8 / 7  # size of training pictures over that of the network's input: 256 pixels for 224


@dataclass(frozen=True)
class Resolved:
    """A resolved config, with its weights and device on this machine.

    Attributes:
        config: Holds no `auto`; its hash is the run's.
        weights: Their origin, with a note for each fallback.
    """

    config: RunConfig
    weights: Weights
    device: torch.device

    @property
    def precision(self) -> Precision:
        precision = self.config.training.precision
        assert precision != "auto"
        return precision

    def describe(self, num_processes: int = 1) -> str:
        """Device, precision, loader workers and batch size of a training, in one line for readers."""
        num_workers = find_workers(self.config.runtime.num_workers, self.device, num_processes=num_processes)
        workers = f"{num_workers} loader worker{'' if num_workers == 1 else 's'}"
        parts = [f"on {describe(self.device)}", self.precision, workers]
        parts += [f"batches of {self.config.training.batch_size}"]
        parts += [f"{num_processes} processes with a part each"] if num_processes > 1 else []
        return ", ".join(parts)


def resolve(config: RunConfig, *, num_folds: int, device: torch.device | None = None) -> Resolved:
    """Resolve weights, image size, crop, precision, number of folds, and which phases apply.

    Unused policies and regions are left out: they are no part of the run's identity.

    Args:
        num_folds: Number of folds in folds.csv.
        device: The device, where it is known already; by default `runtime.device`, which is tried.

    Raises:
        ConfigError, WeightsError: weights, device or precision named in the config are unavailable.
    """
    check_loss(config.training)
    backbone = find_backbone(config.model.backbone)
    device = find_device(config.runtime.device) if device is None else device
    if backbone.name != config.model.backbone:
        _log.info("model.backbone=%s: timm calls it %s", config.model.backbone, backbone.name)
    weights = find_weights(backbone.name, config.model.weights, source=backbone.source)
    if trained_on(weights) == config.data.name:
        raise WeightsError(
            f"model.weights={config.model.weights}: this network learned from labels of {config.data.name}, "
            "some of which it would be scored on; start from weights that come from elsewhere"
        )
    model = with_input(config.model, backbone).model_copy(
        update={"backbone": backbone.name, "weights": weights.origin, "weights_sha256": weights.sha256}
    )
    phases = with_scaled_rates(applying_phases(config, pretrained=weights.pretrained), config.training)
    _say_unused(config, phases)
    own = {p.augment for p in phases.values() if isinstance(p, TrainPhase) and p.augment}
    policies = {name: config.augment.policies[name] for name in sorted({config.augment.policy} | own)}
    size = _training_size(config, model, backbone)
    short_side = _short_side(config, model, size)
    augment = config.augment.model_copy(update={"policies": policies, "short_side": short_side, "size": size})
    training = config.training.model_copy(
        update={
            "precision": find_precision(config.training.precision, device, backbone.name),
            "num_folds": num_folds,
            "rates_for": None,  # done
            "tuned_share": _tuned_share(config, phases, pretrained=weights.pretrained),
        }
    )
    regions = {name: config.data.regions[name] for name in config.model.regions}
    data = config.data.model_copy(update={"regions": regions})
    update = {"model": model, "phases": phases, "augment": augment, "training": training, "data": data}
    return Resolved(config.model_copy(update=update), weights, device)


def _short_side(config: RunConfig, model: ModelConfig, training_size: int | None) -> int | None:
    """Shorter side that training pictures are reduced to, a seventh more than the input's, for random crops.

    The input is the larger one of training's and evaluation's. With regions, the smallest region has that
    size.
    """
    if config.augment.short_side != "auto":
        return config.augment.short_side
    boxes = [config.data.regions[name] for name in model.regions]
    smallest = min([1.0, *(min(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes)])
    assert isinstance(model.image_size, int)
    largest = max(model.image_size, training_size or 0)
    return round(largest * _MARGIN / smallest)


def _training_size(config: RunConfig, model: ModelConfig, backbone: Backbone) -> int | None:
    """Side in pixels of training's images, a multiple of 8 where a share was given; None: model.image_size.

    Raises:
        ConfigError: another size for a network that takes one only.
    """
    size, why_one = config.augment.size, _why_one_size(config, backbone)
    assert isinstance(model.image_size, int)
    if size == "auto":
        size = None if why_one or config.model.image_size != "auto" else TRAINING_SHARE
    if size is None or not why_one:
        return max(16, 8 * round(size * model.image_size / 8)) if isinstance(size, float) else size
    if isinstance(size, float):
        _log.info("augment.size=%g left out: %s takes images of one size only", size, why_one)
        return None
    raise ConfigError(
        f"augment.size={size}: {why_one} takes images of one size only, {model.image_size} pixels; "
        "expected null"
    )


def _why_one_size(config: RunConfig, backbone: Backbone) -> str:
    """What takes images of one size only, for messages; "" if nothing does."""
    if config.model.head.pooling == "flatten":
        return "model.head.pooling=flatten"
    return backbone.name if backbone.fixed_size else ""


def _say_unused(config: RunConfig, phases: Mapping[str, Phase]) -> None:
    """Warn of settings that act only in phases of kind train if no such phase applies."""
    training = config.training
    asked = {
        "mixing": config.mixing.on,
        "training.sampling": training.sampling != "rows",
        "training.loss": training.loss != "cross_entropy",
        "training.label_smoothing": training.label_smoothing > 0,
        "training.class_weights": training.class_weights != "none",
        "pseudo.teachers": bool(config.pseudo.teachers),
    }
    trains = any(isinstance(phase, TrainPhase) for phase in phases.values())
    if not trains and (unused := [key for key, value in asked.items() if value]):
        reason = f"none of the phases ({', '.join(phases)}) is of kind train"
        _log.warning("%s: without effect, since %s", ", ".join(unused), reason)


def with_input(model: ModelConfig, backbone: Backbone) -> ModelConfig:
    """The model's config with the backbone's own image size and crop in place of `auto`."""
    update = {
        "image_size": backbone.image_size if model.image_size == "auto" else model.image_size,
        "crop": backbone.crop if model.crop == "auto" else model.crop,
    }
    return model.model_copy(update=update)


def applying_phases(config: RunConfig, *, pretrained: bool) -> dict[str, Phase]:
    """The phases that apply to pretrained or random weights; with random weights nothing is frozen.

    Raises:
        ConfigError: none applies, or one does not go with the head.
    """
    situation = "pretrained" if pretrained else "random"
    phases = {name: phase for name, phase in config.phases.items() if phase.when in (situation, "always")}
    if not phases:
        names = ", ".join(config.phases)
        raise ConfigError(f"phases: none of {names} applies to {situation} weights (`when`)")
    if not pretrained and (dropped := [name for name in config.phases if name not in phases]):
        names = ", ".join(phases)
        _log.info("random weights: %s left out, %s instead: nothing is frozen", ", ".join(dropped), names)
    for name, phase in phases.items():
        if isinstance(phase, FeaturesPhase) and config.model.head.hidden:
            raise ConfigError(
                f"phases.{name}: a logistic regression makes a linear head, and model.head.hidden is "
                f"{config.model.head.hidden}; expected 0, or a phase of kind: head"
            )
        if isinstance(phase, TrainPhase) and not pretrained:
            thawed = phase.model_copy(update={"unfreeze": "all", "freeze": None, "batchnorm": "train"})
            if thawed != phase:
                _log.info("phases.%s: from random weights nothing is frozen", name)
                phases[name] = thawed
    return phases


def with_scaled_rates(phases: Mapping[str, Phase], training: TrainingConfig) -> dict[str, Phase]:
    """The phases with the rates of train phases scaled from `training.rates_for` to the batch size.

    Linear for SGD (Goyal et al. 2017), with the square root for adaptive optimisers (Malladi et al. 2022,
    who also change the moments' decay).
    """
    if training.rates_for is None:
        return dict(phases)
    ratio = training.batch_size / training.rates_for
    scaled = dict(phases)
    for name, phase in phases.items():
        if isinstance(phase, TrainPhase):
            factor = ratio if phase.optimizer == "sgd" else ratio**0.5
            head_lr = None if phase.head_lr is None else phase.head_lr * factor
            scaled[name] = phase.model_copy(update={"lr": phase.lr * factor, "head_lr": head_lr})
    return scaled


def _tuned_share(config: RunConfig, phases: Mapping[str, Phase], *, pretrained: bool) -> float:
    """training.tuned_share, or 1 if there is no earlier network to interpolate with."""
    share = config.training.tuned_share
    train_base = [name for name, p in phases.items() if isinstance(p, TrainPhase) and p.trains_base]
    if share < 1 and not (pretrained and train_base):
        why = "no phase trains the base" if pretrained else "random weights"
        _log.info("training.tuned_share=%g left out: %s, there is nothing to go back to", share, why)
        return 1.0
    if share < 1 and train_base[0] == next(iter(phases)):
        raise ConfigError(
            f"training.tuned_share={share:g}: it goes back towards the network before its base learned, and "
            f"phases.{train_base[0]} trains the base at once, from a head that knows nothing; expected a "
            "phase before it that fits the head (kind: features or head), or 1"
        )
    return share
