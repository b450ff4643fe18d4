"""The trials of a search: runs with drawn settings, named after what they are, and what they leave behind."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from distracted.errors import ConfigError, first_line
from distracted.locks import holder
from distracted.predictions.store import Store
from distracted.schema import RunConfig, TrainPhase
from distracted.training.checkpoints import LAST, PREVIOUS
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


def remove_checkpoints(store: Store, runs: Iterable[str]) -> None:
    """Remove the checkpoints of runs that nothing goes on with, and say how much room that makes."""
    data, size, number = store.competition.name, 0, 0
    for run in runs:
        for fold in range(store.folds.num_folds):
            if holder(store.workspace.lock(data, run, fold)) is not None:
                continue
            folder, before = store.workspace.scratch(data, run, fold), size
            for path in (folder / LAST, folder / PREVIOUS):
                if path.is_file():
                    size += path.stat().st_size
                    path.unlink()
            number += size > before
    if size:
        _log.info(
            "little room on the disk: removed checkpoints of %d dropped trainings, %.0f MB",
            number,
            size / 1e6,
        )
