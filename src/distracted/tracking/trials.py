"""Logs the trials of a search to W&B, a run for each, so that settings can be compared there."""

from collections.abc import Mapping, Sequence

import yaml

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
    """Log one trial; a trial that was logged before is brought up to date.

    Args:
        settings: As SET= takes them.
        losses: Log loss by rung.
        scores: Pooled scores, of a trial over all folds.
        search: Name of the search.
    """
    data = store.competition.name
    values = dict(setting.split("=", 1) for setting in settings)
    config = {key: yaml.safe_load(value) for key, value in values.items()}
    with WandbRun(
        store.workspace.search(data, search) / run,
        runtime=runtime,
        group=f"{data}/{search}",
        name=run,
        job_type="search",
        config={**config, "run": run},
        tags=[data, "search"],
    ) as wandb_run:
        summary = {f"search/{rung}": loss for rung, loss in losses.items()}
        summary |= {"search/rungs": len(losses)} | {f"oof/{key}": value for key, value in scores.items()}
        wandb_run.summarise(lambda: summary)
