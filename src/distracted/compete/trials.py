"""The trials of a search: runs with drawn settings, named after what they are."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from distracted.models.weights import said_once
from distracted.schema import RunConfig, TrainPhase
from distracted.training.resolve import Resolved


@dataclass(frozen=True)
class Trial:
    """One run of a search.

    Attributes:
        settings: What was drawn, as SET= takes it.
        epochs: Epochs of gradient descent in all phases.
    """

    run: str
    settings: tuple[str, ...]
    epochs: int


def make_trials(
    model: str,
    drawn: Iterable[tuple[str, ...]],
    *,
    config_of: Callable[[Sequence[str]], RunConfig],
    resolve: Callable[[RunConfig], Resolved],
) -> list[Trial]:
    """The trials of drawn settings, each once.

    A name holds the hash of the run's config, so that the same settings are the same run in every search.

    Raises:
        ConfigError, WeightsError: drawn settings are invalid together, or weights are unavailable.
    """
    trials = dict[str, Trial]()
    with said_once():
        for settings in drawn:
            config = resolve(config_of(settings)).config
            epochs = sum(phase.epochs for phase in config.phases.values() if isinstance(phase, TrainPhase))
            run = f"{model}_trial_{config.hash[:8]}"
            trials.setdefault(run, Trial(run, settings, epochs))
    return list(trials.values())
