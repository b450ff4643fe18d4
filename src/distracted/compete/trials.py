"""The trials of a search: runs with drawn settings, named after what they are."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from distracted.errors import ConfigError, first_line
from distracted.schema import RunConfig, TrainPhase
from distracted.training.resolve import applying_phases

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """One run of a search.

    Attributes:
        settings: What was drawn, as SET= takes it.
        epochs: Epochs of gradient descent in all phases.
    """

    run: str
    settings: tuple[str, ...]
    epochs: int


def make_trials(
    model: str, drawn: Iterable[tuple[str, ...]], config_of: Callable[[Sequence[str]], RunConfig]
) -> list[Drawn]:
    """The trials of drawn settings, each once; settings that are invalid together are left out, and named.

    A name holds a hash of the run's config before `auto` is resolved: the same settings are the same run in
    every search, and on every machine.
    """
    trials = dict[str, Drawn]()
    for settings in drawn:
        try:
            config = config_of(settings)
        except ConfigError as error:
            _log.warning("%s: left out: %s", " ".join(settings), first_line(error))
            continue
        phases = applying_phases(config, pretrained=config.model.weights != "none")
        epochs = sum(phase.epochs for phase in phases.values() if isinstance(phase, TrainPhase))
        run = f"{model}_trial_{config.model_copy(update={'phases': phases}).hash[:8]}"
        trials.setdefault(run, Drawn(run, settings, epochs))
    return list(trials.values())
