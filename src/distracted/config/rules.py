"""Rules that bind several sections of the config; a rule of one section stands in the section itself."""

from collections.abc import Mapping

from distracted.errors import ConfigError
from distracted.schema import RunConfig, TrainPhase


def check_rules(config: RunConfig, where: str) -> None:
    """Reject combinations that cannot be trained.

    Args:
        where: The files that the config comes from, for the messages.

    Raises:
        ConfigError: which keys do not go together, and what would.
    """
    if not config.phases:
        raise ConfigError(f"phases: all of them are null ({where}); expected at least one")
    phases = {name: phase for name, phase in config.phases.items() if isinstance(phase, TrainPhase)}
    _check_watching(config, phases, where)
    _check_mixing(config)
    _check_pseudo_labels(config)
    _check_names(config, phases)


def _check_watching(config: RunConfig, phases: Mapping[str, TrainPhase], where: str) -> None:
    watching = [name for name, phase in phases.items() if phase.watches]
    if config.training.leaky and not watching:
        raise ConfigError(
            f"LEAKY=1: no phase watches a score ({where}); leave it out, or ask for patience, keep=best or "
            "schedule=plateau"
        )
    if watching and not (config.training.holdout or config.training.leaky):
        raise ConfigError(
            f"phases.{watching[0]}: patience, keep=best and schedule=plateau watch subjects that are held "
            "out of the training side: SET='training.holdout=0.1' holds out a tenth of them"
        )


def _check_mixing(config: RunConfig) -> None:
    if config.mixing.on and config.training.batch_size < 2:
        raise ConfigError(
            f"mixing: an image is mixed with another of its batch, and training.batch_size is "
            f"{config.training.batch_size}; expected 2 or more"
        )
    if config.mixing.stitch.prob and config.model.regions:
        raise ConfigError(
            "mixing.stitch: the left part of a region is not that of the picture; expected prob=0 or "
            f"model.regions=[], got [{', '.join(config.model.regions)}]"
        )


def _check_pseudo_labels(config: RunConfig) -> None:
    if config.pseudo.predictions:
        raise ConfigError("pseudo.predictions: filled in from the teachers' files; leave the key out")
    if config.pseudo.teachers and config.mixing.on:
        raise ConfigError("pseudo.teachers and mixing do not go together; expected one of them")


def _check_names(config: RunConfig, phases: Mapping[str, TrainPhase]) -> None:
    """Augmentation policies and regions exist."""
    policies = {f"phases.{name}.augment": phase.augment for name, phase in phases.items() if phase.augment}
    for key, policy in {"augment.policy": config.augment.policy, **policies}.items():
        if policy not in config.augment.policies:
            known = ", ".join(config.augment.policies)
            raise ConfigError(f"{key}: unknown policy {policy!r}; augment.policies holds: {known}")
    for region in config.model.regions:
        if region not in config.data.regions:
            known = ", ".join(config.data.regions)
            raise ConfigError(
                f"model.regions: unknown region {region!r}; data.regions holds: {known or 'none'} "
                "(configs/data/<name>.yaml may add some)"
            )
