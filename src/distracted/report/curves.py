"""Learning curves, read from metrics.jsonl; works for interrupted and damaged files too."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distracted.predictions.store import Store


@dataclass(frozen=True)
class Epoch:
    """Metrics of one epoch; None where a metric was not measured.

    Attributes:
        number: Counted over all phases; 0 for a phase without epochs.
        train: Mean training loss.
        valid: Log loss on the held-out fold.
        holdout: Log loss on the inner holdout.
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
        steps: One mapping per logging interval within an epoch: step, phase and `train/...`.
    """

    fold: int
    epochs: tuple[Epoch, ...]
    steps: tuple[Mapping[str, Any], ...]


def read_curves(path: Path, fold: int) -> Curves:
    """Read a metrics.jsonl, which may be missing; truncated lines and those without metrics are ignored."""
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
    return Curves(fold, tuple(epochs), tuple(steps))


def curves_of_run(store: Store, run: str, folds: Sequence[int]) -> list[Curves]:
    """Curves of those folds of a run that have any."""
    name = store.competition.name
    by_fold = [read_curves(store.workspace.metrics(name, run, fold), fold) for fold in folds]
    return [curves for curves in by_fold if curves.epochs]


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def _number(line: Mapping[str, Any], key: str) -> float | None:
    value = line.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
