"""Logs the trials of a search to W&B, a run for each, so that settings can be compared there."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from distracted.files import write_text
from distracted.predictions.store import Store
from distracted.schema import RuntimeConfig
from distracted.tracking.client import WandbRun


def track_trial(
    store: Store,
    run: str,
    settings: Sequence[str],
    losses: Mapping[str, float],
    scores: Mapping[str, float],
    *,
    search: str,
    runtime: RuntimeConfig,
) -> None:
    """Log one trial, unless the same was logged before.

    Args:
        settings: As SET= takes them.
        losses: Log loss by rung.
        scores: Pooled scores, of a trial over all folds.
        search: Name of the search.
    """
    data = store.competition.name
    folder = store.workspace.search(data, search) / run
    summary = {f"search/{rung}": loss for rung, loss in losses.items()}
    summary |= {"search/rungs": len(losses)} | {f"oof/{key}": value for key, value in scores.items()}
    logged, text = folder / "logged.json", json.dumps(summary, indent=1)
    if logged.is_file() and logged.read_text() == text:
        return
    values = dict(setting.split("=", 1) for setting in settings)
    config = {key: _parsed(value) for key, value in values.items()}
    with WandbRun(
        folder,
        runtime=runtime,
        group=f"{data}/{search}",
        name=run,
        job_type="search",
        config={**config, "run": run},
        tags=[data, "search"],
    ) as wandb_run:
        wandb_run.summarise(lambda: summary)
    write_text(logged, text)


def _parsed(text: str) -> Any:
    """A setting's value; YAML takes 1e-05 for text."""
    try:
        return float(text) if not text.lstrip("+-").isdecimal() else int(text)
    except ValueError:
        return yaml.safe_load(text)
