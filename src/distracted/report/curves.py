"""Learning curves: metrics.jsonl read back, whatever became of the run that wrote it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distracted.predictions.store import Store


@dataclass(frozen=True)
class Epoch:
    """What was measured after an epoch.

    Attributes:
        number: Counted over all phases; 0 for a phase that has no epochs.
        train: Mean of what was minimised; valid, holdout: log loss on the held-out fold and on the inner
            holdout; each None where it was not measured.
    """

    phase: str
    number: int
    train: float | None
    valid: float | None
    holdout: float | None


@dataclass(frozen=True)
class Curves:
    """One fold's metrics.

    Attributes:
        epochs: In order; steps: one mapping a look within an epoch: step, phase and `train/...`.
        finished: Whether the fold was trained to its end.
    """

    fold: int
    epochs: tuple[Epoch, ...]
    steps: tuple[Mapping[str, Any], ...]
    finished: bool

    @property
    def phases(self) -> list[str]:
        """In the order in which they came."""
        return list(dict.fromkeys(epoch.phase for epoch in self.epochs))


def read_curves(path: Path, fold: int) -> Curves:
    """Read a metrics.jsonl; what is missing or is no line of metrics, such as a half-written last one, is
    left out."""
    lines = _lines(path)
    epochs = [
        Epoch(
            str(line.get("phase", "")),
            int(line["epoch"]),
            _number(line, "train/epoch_loss"),
            _number(line, "valid/log_loss"),
            _number(line, "holdout/log_loss"),
        )
        for line in lines
        if type(line.get("epoch")) is int  # a boolean is an int, too
    ]
    steps = [line for line in lines if "train/loss" in line and type(line.get("step")) is int]
    return Curves(fold, tuple(epochs), tuple(steps), any("summary" in line for line in lines))


def curves_of_run(store: Store, run: str, folds: Sequence[int]) -> list[Curves]:
    """Curves of some folds of a run, those that have any."""
    name = store.competition.name
    found = [read_curves(store.workspace.metrics(name, run, fold), fold) for fold in folds]
    return [curves for curves in found if curves.epochs]


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            lines.append(found)
    return lines


def _number(line: Mapping[str, Any], key: str) -> float | None:
    value = line.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
