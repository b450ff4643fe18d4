"""What a competition did, for the report: the blend over time, runs, short fits, and what was left out."""

import math
from collections.abc import Iterator
from typing import Any

from distracted.compete.blending import BLENDS, read_blends
from distracted.compete.campaign import Campaign
from distracted.compete.clock import Clock
from distracted.compete.screened import Screen
from distracted.files import write_json
from distracted.predictions.store import Store


def write_summary(store: Store, campaign: Campaign, screened: Screen, clock: Clock) -> None:
    """Bring runs/<data>/.compete/summary.json up to date; `report/competition.py` shows it."""
    workspace, name = store.workspace, store.competition.name
    entries = campaign.as_written().entries
    content = {
        "hours": clock.hours / 3600,
        "minutes_used": clock.used / 60,
        "search": campaign.search(),
        "blends": read_blends(workspace.compete(name) / BLENDS),
        "runs": [entry.as_yaml() | {"minutes": entry.minutes, "loss": entry.loss} for entry in entries],
        "short_fits": list(_short_fits(campaign)),
        "inputs": list(_inputs(screened)),
        "left_out": screened.left_out,
    }
    write_json(workspace.competition_summary(name), content)


def _inputs(screened: Screen) -> Iterator[dict[str, Any]]:
    """Each backbone and size with its probe's log loss and its speeds, the best first."""
    probes = screened.evidence().probes
    for one in sorted(screened.inputs, key=lambda one: probes[one.input, False]):
        slowest = max(one.speed.train.values(), default=math.inf)
        yield {
            "model": one.input.model,
            "size": one.input.size,
            "log_loss": probes[one.input, False],
            "even": probes.get((one.input, True)),
            "trains": 1 / slowest,
            "predicts": 1 / one.speed.predict,
            "seconds": one.seconds,
        }


def _short_fits(campaign: Campaign) -> Iterator[dict[str, Any]]:
    """Each run that was tried, with its last rung and whether it was chosen."""
    tried = {run: epochs for epochs, runs in sorted(campaign.plan.trials.items()) for run in runs}
    for run, epochs in tried.items():
        yield {"run": run, "epochs": epochs, "chosen": campaign.plan.find(run) is not None}
